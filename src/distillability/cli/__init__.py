"""The command line: one file per verb. Torch and all that needs it are imported inside the commands."""

from distillability.cli.app import app, main

__all__ = ["app", "main"]
