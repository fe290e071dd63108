"""Running models without gradients: completions of prompts, and log-likelihoods of texts."""

from distillability.inference.generate import Completions, complete, complete_ids, read_completions

__all__ = ["Completions", "complete", "complete_ids", "read_completions"]
