"""What a run is planned for: a few accelerators by their data sheets, or this machine, measured for a second."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from distillability.errors import UserError

__all__ = ["KNOWN", "Hardware", "named_hardware", "this_machine"]

_NARROW_ROWS = 32  # of the products that stand for those of few rows
_REACHED_HERE = 0.45  # of the rates measured below: what the lab's stages reached on two cores (docs/plan.md)


@dataclass(frozen=True)
class Hardware:
    """One device, and how many of them work at once.

    Attributes:
        flops: floating-point operations a second of large products, by dtype.
        narrow: the same of products of few rows, such as decoding consists of, where their weights are at hand.
        bandwidth: bytes read or written a second.
        memory: bytes.
        call_seconds: what one operation costs however small it is.
        utilisation: the share of `flops` and `bandwidth` that is reached.
        usd_per_hour: of one device; None where it costs nothing extra.
        is_accelerator: attention is fused, half precision pays everywhere, and several devices share a training job.
    """

    name: str
    devices: int
    flops: dict[str, float]
    narrow: dict[str, float]
    bandwidth: float
    memory: float
    call_seconds: float
    utilisation: float
    usd_per_hour: float | None
    is_accelerator: bool = True

    def seconds(self, flops: float, narrow: float, moved: float, calls: float, dtype: str) -> float:
        """Of one device: products, large ones and those of few rows, then what is moved, then the cost of the calls themselves."""
        products = flops / self.flops[dtype] + narrow / self.narrow[dtype]
        return (products + moved / self.bandwidth) / self.utilisation + calls * self.call_seconds


def _device(name: str, bfloat16: float, float32: float, bandwidth: float, memory: float, usd: float) -> Hardware:
    flops = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}
    return Hardware(
        name=name,
        devices=1,
        flops=flops,
        narrow=flops,  # what bounds those is reading the weights
        bandwidth=bandwidth * 1e9,
        memory=memory * 1e9,
        call_seconds=5e-6,
        utilisation=0.4,
        usd_per_hour=usd,
    )


# Dense peaks in TFLOP/s (bfloat16, float32), GB/s and GB of the makers' data sheets; USD an hour are rough rents, to be replaced by yours.
KNOWN = {
    device.name: device
    for device in (
        _device("a100", 312, 19.5, 2039, 80, 1.8),
        _device("h100", 989, 67, 3350, 80, 3.0),
        _device("h200", 989, 67, 4800, 141, 3.8),
        _device("l40s", 362, 91.6, 864, 48, 1.0),
        _device("rtx4090", 165, 82.6, 1008, 24, 0.5),
    )
}


def named_hardware(name: str) -> Hardware:
    """Devices of the table, such as `h100x8`.

    Raises:
        UserError: there is no such device.
    """
    found = re.fullmatch(r"([a-z0-9]+?)(?:x([1-9]\d*))?", name.lower())
    if found is None or found[1] not in KNOWN:
        raise UserError.single(f"--hardware {name}", "no hardware of this name", f"use this, or one of {', '.join(KNOWN)}, as in h100x8")
    return replace(KNOWN[found[1]], devices=int(found[2] or 1))


def this_machine(workers: int) -> Hardware:
    """The processor here, shared by so many processes: its rates with one process's share of the cores, measured in about two seconds.

    Raises:
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError.single("--hardware this", "measuring it needs torch", "pip install 'distillability[train]'") from error
    import os

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        flops, narrow = (
            {name: _matrix_rate(rows, dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
            for rows in (1024, _NARROW_ROWS)
        )
        bandwidth, call = _bandwidth(), _call_seconds()
    finally:
        torch.set_num_threads(threads)
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / workers
    return Hardware("this", workers, flops, narrow, bandwidth, memory, call, _REACHED_HERE, None, is_accelerator=False)


def _matrix_rate(rows: int, dtype: Any) -> float:
    """Of a product with as many weights as a layer of a small language model has in one, which stay in the cache."""
    import torch

    inputs, weights = torch.randn(rows, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return _best(lambda: inputs @ weights, 2 * rows * 1024**2)


def _bandwidth() -> float:
    """Of an elementwise operation on 16 MB, read and written: what a pass over activations does."""
    import torch

    x = torch.ones(1 << 22)
    return _best(lambda: x * 2.0, 2 * 4 * x.numel())


def _call_seconds() -> float:
    import torch

    x = torch.ones(16)

    def calls() -> None:
        for _ in range(2000):
            x * 2.0

    return 2000 / _best(calls, 2000) / 2000


def _best(call: Callable[[], Any], amount: float, seconds: float = 0.2) -> float:
    """The highest amount a second within about so many seconds: a moment's load must not decide."""
    best, begun = 0.0, time.perf_counter()
    while best == 0.0 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        call()
        best = max(best, amount / (time.perf_counter() - started))
    return best
