"""One signature, several engines: prompts in, traces out."""

from distillability.rollouts.generate import Completions, complete, complete_ids, read_completions

__all__ = ["Completions", "complete", "complete_ids", "read_completions"]
