"""One signature, several engines: prompts in, traces out."""

from distillability.rollouts.generate import Completions, complete

__all__ = ["Completions", "complete"]
