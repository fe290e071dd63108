"""`python -m distillability`."""

from distillability.cli import main

main()
