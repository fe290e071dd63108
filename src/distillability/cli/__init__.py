"""The command line: one file per verb, one table for the stages. What needs torch is imported inside the commands."""

from distillability.cli.app import app, main

__all__ = ["app", "main"]
