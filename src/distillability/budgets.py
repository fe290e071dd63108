"""Sizes and limits that the engine works by, in one place and without torch: `planning/` counts by the same numbers."""

from __future__ import annotations

__all__ = [
    "DECODED_AT_ONCE",
    "LARGEST_RECORD_BYTES",
    "NARROW_WIDTH",
    "SCORED_POSITIONS",
    "SCORED_TEXTS",
    "SCORER_TOKENS",
    "UPDATE_PASSES",
    "accelerator_scaled",
    "chunk_bytes",
]

DECODED_AT_ONCE = 500  # completions that are decoded at once where no recipe's batch size says otherwise
SCORED_TEXTS = 1000  # sampled texts of a teacher that the evaluate stage scores
SCORER_TOKENS = 16_384  # padded tokens that a scorer forwards at once
SCORED_POSITIONS = 1024  # positions that a scorer projects to logits at once
LARGEST_RECORD_BYTES = 1 << 30  # of a teacher's recorded signals; where they would be larger, the teacher is run at every step
UPDATE_PASSES = 4  # groups of rows of like length in which an update of a calibration forwards its completions, at most
NARROW_WIDTH = 512  # hidden size below which overheads are most of a forward pass on a processor; such models decode in float32 there

_CHUNK_BYTES = 1 << 25


def accelerator_scaled(size: int, *, accelerator: bool) -> int:
    """`size` on a processor and sixteen times as much on an accelerator, which needs large products to be fast."""
    return 16 * size if accelerator else size


def chunk_bytes(*, accelerator: bool) -> int:
    """Bytes of logits that a loss projected chunk by chunk holds at once."""
    return accelerator_scaled(_CHUNK_BYTES, accelerator=accelerator)
