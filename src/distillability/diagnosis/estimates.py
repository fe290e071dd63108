"""Numbers with intervals, for quantities that are no shares of prompts: ratios of sums, means of nats, rank statistics.

A text is one observation, whatever its length: its positions are not independent. What cannot be measured is missing, with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from distillability.evaluation.intervals import paired_difference, prompt_mean

__all__ = ["Estimate", "Floats", "bootstrapped", "mean", "missing", "paired_change", "ratio_of_sums", "reflected", "share", "sums_by_text"]

Floats = NDArray[np.float64]
_TAIL = 0.025  # of a 95 % interval
_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value between two bounds, or the reason why there is none.

    n: texts, prompts or pairs behind it. n_skipped: those that could not take part. method: how the interval was made.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int = 0
    n_skipped: int = 0
    reason: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "missing"
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{bounds} (n {self.n:,})"


def missing(reason: str, n: int = 0, n_skipped: int = 0) -> Estimate:
    """No value, and why."""
    return Estimate(None, n=n, n_skipped=n_skipped, reason=reason)


def mean(values: ArrayLike, *, n_skipped: int = 0, least: int = 1) -> Estimate:
    """Mean of independent observations, with Student's interval.

    least: fewer observations than this give no value.
    """
    array = np.asarray(values, dtype=np.float64)
    return ratio_of_sums(array, np.ones_like(array), n_skipped=n_skipped, least=least, method="Student's t")


def ratio_of_sums(
    numerators: ArrayLike, denominators: ArrayLike, *, n_skipped: int = 0, least: int = 1, method: str = "ratio of sums, linearised by text"
) -> Estimate:
    """Σ a / Σ b over independent observations (a, b), [N] each; the interval by linearisation with Student's quantile.

    Missing where Σ b is 0, where a sum is not finite, and under `least` observations.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    n = len(a)
    if n < max(least, 1):
        return missing(f"{n} observations, and at least {max(least, 1)} are needed", n, n_skipped)
    if not (np.isfinite(a.sum()) and np.isfinite(b.sum())):
        return missing("a model gives no mass at all to a token that the other one gives mass", n, n_skipped)
    if not b.sum():
        return missing("nothing to divide by", n, n_skipped)
    value = float(a.sum() / b.sum())
    if n < 2:
        return Estimate(value, method="no interval from one observation", n=n, n_skipped=n_skipped)
    error = math.sqrt(n / (n - 1) * float(np.sum((a - value * b) ** 2))) / abs(float(b.sum()))
    reach = -float(stdtrit(n - 1, _TAIL)) * error
    return Estimate(value, value - reach, value + reach, method, n, n_skipped)


def share(values: ArrayLike, *, n_skipped: int = 0, least: int = 1) -> Estimate:
    """Share of independent observations in [0, 1], with Wilson's interval."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < max(least, 1):
        return missing(f"{len(array)} observations, and at least {max(least, 1)} are needed", len(array), n_skipped)
    found = prompt_mean(array)
    return Estimate(found.value, found.low, found.high, found.method, found.n, n_skipped)


def paired_change(first: ArrayLike, second: ArrayLike, *, least: int = 1) -> Estimate:
    """Share of `first` minus share of `second` on the same prompts, yes or no each, with Tango's interval."""
    ours, theirs = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(ours) < max(least, 1):
        return missing(f"{len(ours)} observations, and at least {max(least, 1)} are needed", len(ours))
    found = paired_difference(ours, theirs)
    return Estimate(found.value, found.low, found.high, found.method, found.n)


def bootstrapped(statistic: Callable[..., float | None], *columns: ArrayLike, n_skipped: int = 0) -> Estimate:
    """Any statistic of paired columns [N], with the percentile interval of resampled rows; the seed is fixed.

    Missing where the statistic is; resamples in which it is do not count.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    n = len(arrays[0])
    value = statistic(*arrays) if n else None
    if value is None:
        return missing("too few answers, or all alike", n, n_skipped)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, n, size=(_RESAMPLES, n))
    drawn = [found for chosen in rows if (found := statistic(*(array[chosen] for array in arrays))) is not None]
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return Estimate(value, float(low), float(high), "bootstrap over prompts", n, n_skipped)


def reflected(estimate: Estimate) -> Estimate:
    """A bootstrap estimate of what is never below 0, its interval turned round the value: resampling adds once more what bias there is."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return estimate
    low, high = max(0.0, 2 * estimate.value - estimate.high), 2 * estimate.value - estimate.low
    return replace(estimate, low=low, high=max(high, estimate.value), method=f"{estimate.method}, basic")


def sums_by_text(values: ArrayLike, text: NDArray[np.int64], n_texts: int) -> Floats:
    """Σ of position-wise values within each text: [n_texts]."""
    return np.bincount(text, weights=np.asarray(values, dtype=np.float64), minlength=n_texts).astype(np.float64)
