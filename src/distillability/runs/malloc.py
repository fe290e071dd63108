"""What the C library does with memory that a process has freed."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from functools import cache

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

# Names and numbers of malloc.h. Blocks up to the first come from the heap, of which no less than the second is given back to the system.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD = -3, -1, -2
_SETTINGS = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 1 << 28}


def keep_freed_memory() -> bool:
    """Let this process use again what it has freed, where by default glibc gives every large block back and clears a new one.

    A step of training frees and allocates the same tensors over and over: 64 MB that are new are filled at a third to a quarter of the
    speed of 64 MB that were there before. The most that a process holds at any time stays what it was.

    Returns:
        Whether it does so now: not with another C library, nor where the environment has settings of its own.
    """
    library = _glibc()
    if library is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    accepted = [library.mallopt(name, value) for name, value in _SETTINGS.items()]
    return all(accepted)


def give_back_freed_memory() -> None:
    """Return to the system what this process no longer needs: between jobs, which have little in common."""
    gc.collect()  # a trainer is part of cycles
    _keep_what_is_there()
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _keep_what_is_there() -> None:
    """Before the first job that is imports above all: to look through it after every job takes as long as a small one."""
    gc.freeze()


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
