"""Freed memory stays in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# How many of sixty tensors of 64 MB, each freed before the next, the system had to give pages for.
SCRIPT = """
import ctypes
import resource
import torch
from distillability.runs.malloc import keep_freed_memory

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: where pages may be huge, a few faults bring as much
kept = keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(1 << 24)
print(kept, round((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (1 << 26)))
"""


def _run(**environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", SCRIPT]
    kept, fresh = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout.split()
    return kept, int(fresh)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_was_freed_is_used_again_unless_the_environment_says_how() -> None:
    kept, fresh = _run()
    assert kept == "True"
    assert fresh <= 20  # the first ones, and where two find no place side by side
    kept, fresh = _run(MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept == "False"
    assert fresh >= 59
