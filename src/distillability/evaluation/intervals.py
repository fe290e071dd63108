"""Confidence intervals for accuracies and their differences. numpy and scipy only.

Two score intervals carry everything: Wilson's for a mean in [0, 1] and Tango's for a paired difference in [-1, 1]. Both were made for
counts. Per-prompt averages, and averages over several students, reach them through an *effective number of prompts*: the number of
yes/no prompts that would have the variance seen. At the edges, where nothing varies and a variance says nothing, that number is the
number of prompts, so an interval never has zero width and never leaves its range. Yes/no input gives the textbook intervals exactly.

Arrays hold correctness: `[N]` one number a prompt, `[S, N]` one row a student seed. Every function returns an `Interval` and raises
`UserError` for an empty array, a missing value, or a number outside [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, ndtri, stdtrit

from distillability.errors import UserError

__all__ = [
    "RESAMPLES",
    "Floats",
    "Interval",
    "Side",
    "correctness",
    "few_seeds_factor",
    "paired_difference",
    "prompt_mean",
    "resample_prompts",
    "resample_seeds",
    "score_replicates",
    "two_way_difference",
    "two_way_mean",
    "two_way_name",
    "wilson",
]

Floats = NDArray[np.float64]
Side = Literal["two-sided", "lower", "upper"]

RESAMPLES = 2000
_SMALL_COUNT = 3.0  # up to here Wilson's inner limit is too tight (Brown, Cai, DasGupta 2001, §4.1.1)
_PRIOR_EVENTS = 0.5  # weight of the belief that a prompt is all or nothing: few equal averages are no proof of a low variance
_ROUNDING = 1e-20  # a variance this small is that of a sum of equal numbers
_HALVINGS = 60  # bisection of an interval of length 2, down to 2e-18


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds.

    value, low, high: fractions, `low <= value <= high`; a one-sided interval has the end of the range as its other bound.
    n: prompts behind it. method: how it was made, for tables.
    """

    value: float
    low: float
    high: float
    method: str
    n: int


@dataclass(frozen=True)
class _Arm:
    """Students [S, N] that count with this sign, and their resampling weights [R, S]."""

    array: Floats
    sign: float
    seed_weights: Floats


def correctness(values: ArrayLike, name: str = "correctness", dimensions: int = 2) -> Floats:
    """`values` as float64 [S, N] (or [N] where `dimensions` is 1), checked.

    Raises:
        UserError: empty, of another shape, with a missing value, or outside [0, 1].
    """
    array = np.asarray(values, dtype=np.float64)
    if dimensions == 2 and array.ndim == 1:
        array = array[None, :]
    if array.ndim != dimensions or array.size == 0:
        wanted = "[seeds, prompts]" if dimensions == 2 else "[prompts]"
        raise UserError.single(name, f"needs numbers of shape {wanted}, got shape {array.shape}", "grade at least one prompt")
    if not np.isfinite(array).all():
        raise UserError.single(
            name, f"{int((~np.isfinite(array)).sum())} of {array.size} values are missing", "drop or grade those prompts"
        )
    if array.min() < 0 or array.max() > 1:
        raise UserError.single(name, f"values run from {array.min():g} to {array.max():g}", "give shares between 0 and 1")
    return array


# ---- Means ----------------------------------------------------------------------------------------------------------------------


def wilson(successes: float, n: int, *, confidence: float = 0.95, side: Side = "two-sided", small_counts: bool = True) -> Interval:
    """Wilson's score interval for a share of yes/no answers.

    small_counts: replace the inner limit at up to three successes (or failures) by the Poisson one of Brown, Cai and DasGupta (2001);
    without it the coverage near 0 and 1 falls to .84. False gives the textbook interval.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UserError.single("wilson", f"{successes:g} successes among {n}", "give 0 <= successes <= n and n >= 1")
    return _mean_interval(successes / n, float(n), n, confidence, side, small_counts, "Wilson score")


def prompt_mean(values: ArrayLike, *, confidence: float = 0.95, side: Side = "two-sided") -> Interval:
    """Mean over prompts of per-prompt averages [N], the prompts independent: Wilson's interval at the effective number of prompts.

    Samples of one prompt may be as alike as they please; of yes/no values it is Wilson's interval.
    """
    array = correctness(values, "prompt_mean", dimensions=1)
    mean = float(array.mean())
    n_effective = _effective_prompts(float(array.var()) / array.size, mean * (1 - mean), array.size)
    return _mean_interval(mean, n_effective, array.size, confidence, side, True, "Wilson score, clustered by prompt")


def _mean_interval(mean: float, n_effective: float, n: int, confidence: float, side: Side, small_counts: bool, method: str) -> Interval:
    tail = _tail(confidence, side)
    low = _wilson_low(mean, n_effective, tail, small_counts)
    high = 1 - _wilson_low(1 - mean, n_effective, tail, small_counts)
    return _interval(mean, low, high, (0.0, 1.0), side, method, n)


def _wilson_low(mean: float, n: float, tail: float, small_counts: bool) -> float:
    low = float(_wilson_limit(mean, n, float(ndtri(tail))))
    count = mean * n
    if small_counts and 0 < count <= _SMALL_COUNT:
        low = min(low, float(gammaincinv(count, 2 * tail)) / n)
    return low


def _wilson_limit(mean: float, n: float, z: ArrayLike) -> Floats:
    """The mean at which `mean` would lie -z standard errors away: the upper limit for z > 0, the lower for z < 0."""
    z = np.asarray(z, dtype=np.float64)
    root = np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    limit: Floats = np.clip((mean + z**2 / (2 * n) + z * root) / (1 + z**2 / n), 0.0, 1.0)
    return limit


# ---- Paired differences ---------------------------------------------------------------------------------------------------------


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, side: Side = "two-sided") -> Interval:
    """Mean of `first - second` over the same prompts, [N] each, values yes/no or per-prompt averages: Tango's score interval.

    Of yes/no values it is Tango's interval of their counts; of averages, the same at the effective number of prompts.
    """
    ours, theirs = correctness(first, "first", dimensions=1), correctness(second, "second", dimensions=1)
    _same_prompts(ours, theirs)
    gain, loss, ceiling = _gain_and_loss(ours[None], theirs[None])
    n_effective = _effective_prompts(float((ours - theirs).var()) / ours.size, ceiling, ours.size)
    return _difference_interval(gain, loss, n_effective, ours.size, confidence, side, "Tango score, paired by prompt")


def _difference_interval(gain: float, loss: float, n_effective: float, n: int, confidence: float, side: Side, method: str) -> Interval:
    z = -float(ndtri(_tail(confidence, side)))
    low = _tango_low(gain, loss, n_effective, z)
    high = -_tango_low(loss, gain, n_effective, z)
    return _interval(gain - loss, low, high, (-1.0, 1.0), side, method, n)


def _tango_low(gain: float, loss: float, n: float, z: float) -> float:
    """The smallest difference not rejected by Tango's score test, by bisection; `gain` and `loss` are shares of `n` pairs."""
    low, high = -1.0, gain - loss
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        b = (2 - gain + loss) * middle - gain - loss
        c = -loss * middle * (1 - middle)
        share = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4  # share of losses, most likely under this difference
        variance = max(2 * share + middle * (1 - middle), 0.0) / n
        if gain - loss - middle > z * math.sqrt(variance):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _gain_and_loss(first: Floats, second: Floats) -> tuple[float, float, float]:
    """Mean gain and mean loss over every pair of seeds, [S, N] against [T, N], and the variance of yes/no pairs that have them."""
    differences = first[:, None, :] - second[None, :, :]
    gain = float(np.maximum(differences, 0).mean())
    loss = float(np.maximum(-differences, 0).mean())
    return gain, loss, gain + loss - (gain - loss) ** 2


# ---- Two-way bootstrap ----------------------------------------------------------------------------------------------------------


def two_way_mean(values: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES, confidence: float = 0.95) -> Interval:
    """Mean of [S, N] for new students and new prompts: bootstrap over both, read through Wilson's interval.

    A single seed gives an interval over prompts only, and says so in `method`.
    """
    array = correctness(values, "two_way_mean")
    mean, (seeds, n) = float(array.mean()), array.shape
    prompt_weights = resample_prompts(n, resamples, rng)
    widening = few_seeds_factor([(array, 1.0)], confidence)
    deviations = _deviations([_Arm(array, 1.0, resample_seeds(seeds, resamples, rng))], prompt_weights, widening)
    n_effective = _effective_prompts(float(deviations.var()), mean * (1 - mean), n, seeds)
    return _mean_interval(mean, n_effective, n, confidence, "two-sided", True, f"{two_way_name(seeds)}, Wilson score")


def two_way_difference(
    first: ArrayLike, second: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Mean of `first` [S, N] minus mean of `second` [T, N]: common prompts, independent students; read through Tango's interval."""
    ours, theirs = correctness(first, "first"), correctness(second, "second")
    _same_prompts(ours, theirs)
    n = ours.shape[1]
    prompt_weights = resample_prompts(n, resamples, rng)
    arms = [_Arm(array, sign, resample_seeds(len(array), resamples, rng)) for array, sign in ((ours, 1.0), (theirs, -1.0))]
    deviations = _deviations(arms, prompt_weights, few_seeds_factor([(ours, 1.0), (theirs, -1.0)], confidence))
    gain, loss, ceiling = _gain_and_loss(ours, theirs)
    n_effective = _effective_prompts(float(deviations.var()), ceiling, n, min(len(ours), len(theirs)))
    method = f"{two_way_name(len(ours), len(theirs))}, Tango score"
    return _difference_interval(gain, loss, n_effective, n, confidence, "two-sided", method)


def score_replicates(array: Floats, *, prompt_weights: Floats, seed_weights: Floats, widening: float, rng: np.random.Generator) -> Floats:
    """Replicates [R] of the mean of [S, N], spread as Wilson's interval is: for any statistic of several means, a ratio for instance.

    prompt_weights [R, N] (`resample_prompts`) are common to all arms measured on the same prompts, which keeps them paired; seed_weights
    [R, S] (`resample_seeds`) are an arm's own, the same wherever the same students answer; widening is the `few_seeds_factor` of the whole
    statistic. Each replicate is the Wilson limit as many standard errors away as the bootstrap's, so that quantiles of the replicates are
    Wilson limits, and an arm that is all right or all wrong still varies. A small part of the noise, that of one prompt, is the arm's own:
    two arms that agree are not proven equal.
    """
    mean, n = float(array.mean()), array.shape[1]
    deviations = _deviations([_Arm(array, 1.0, seed_weights)], prompt_weights, widening)
    variance = float(deviations.var())
    errors = rng.standard_normal(len(deviations))
    if variance > _ROUNDING:
        errors = math.sqrt(1 / (n + 1)) * errors + math.sqrt(n / (n + 1) / variance) * deviations
    return _wilson_limit(mean, _effective_prompts(variance, mean * (1 - mean), n, len(array)), errors)


def resample_prompts(n: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Multinomial weights of resampled prompts, minus the uniform ones: [R, N], each row sums to 0."""
    drawn = rng.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n) / n - 1 / n


def resample_seeds(seeds: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Gaussian multipliers of the seeds, [R, S]. Three seeds have only ten different resamples; these are continuous and unbiased."""
    return rng.standard_normal((resamples, seeds)) / math.sqrt(seeds * max(seeds - 1, 1))


def _deviations(arms: Sequence[_Arm], prompt_weights: Floats, widening: float) -> Floats:
    """Replicates [R], around 0, of the sum of `sign * mean` over arms that share their prompts but not their students.

    Their variance is that of prompts, which resampled prompts bring, plus that of seeds, which Gaussian multipliers bring, upcast by
    Student's quantile because so few seeds were seen. Seed-by-prompt noise sits in both, and is taken out of the prompts' part.
    """
    per_prompt: Floats = np.sum([arm.sign * arm.array.mean(axis=0) for arm in arms], axis=0)
    repeated = [arm for arm in arms if len(arm.array) > 1]
    deviations = prompt_weights @ per_prompt * _without_noise(per_prompt, sum(_seed_noise(arm.array) for arm in repeated))
    for arm in repeated:
        effects = arm.array.mean(axis=1) - arm.array.mean()
        deviations = deviations + arm.sign * widening * (arm.seed_weights @ effects)
    return deviations


def _seed_noise(array: Floats) -> float:
    """Variance, in a prompt's mean over S seeds, that comes from what is peculiar to seed and prompt together; S > 1."""
    seeds, prompts = array.shape
    residuals = array - array.mean(axis=0) - array.mean(axis=1, keepdims=True) + array.mean()
    return float(np.sum(residuals**2) / ((seeds - 1) * max(prompts - 1, 1) * seeds))


def _without_noise(per_prompt: Floats, noise: float) -> float:
    """Factor that leaves of the spread of prompts what is not `noise`."""
    observed = float(per_prompt.var(ddof=1)) if per_prompt.size > 1 else 0.0
    return math.sqrt(max(1 - noise / observed, 0.0)) if observed > 0 else 0.0


def few_seeds_factor(arms: Sequence[tuple[Floats, float]], confidence: float = 0.95) -> float:
    """Student's quantile over the normal one for a sum of `weight * mean` over arms [S, N]: 2.2 for one arm of three seeds, 1.4 for five.

    Several arms pool what they know of their seeds' variance (Welch-Satterthwaite). 1 where no arm has seeds that differ.
    """
    parts = [(weight**2 * array.mean(axis=1).var(ddof=1) / len(array), len(array) - 1) for array, weight in arms if len(array) > 1]
    variances: Floats = np.array([variance for variance, _ in parts])
    if variances.sum() <= _ROUNDING:
        return 1.0
    freedom = float(variances.sum() ** 2 / np.sum(variances**2 / np.array([freedom for _, freedom in parts])))
    tail = _tail(confidence, "two-sided")
    return float(stdtrit(freedom, tail) / ndtri(tail))


def two_way_name(*seeds: int) -> str:
    """What was resampled, for tables: prompts, and this many student seeds of each arm."""
    counts = " and ".join(str(count) for count in seeds)
    if max(seeds) == 1:
        return "bootstrap over prompts only (one seed)"
    return f"bootstrap over prompts and {counts} seeds"


# ---- Shared ---------------------------------------------------------------------------------------------------------------------


def _effective_prompts(variance: float, ceiling: float, n: int, seeds: int = 1) -> float:
    """How many yes/no prompts would give a mean of this variance; `ceiling` is the variance of one of them.

    The variance seen is pulled up towards that of `n` yes/no prompts, the more so the fewer informative answers it was learnt from.
    """
    if ceiling <= 0:
        return float(n)
    missing = max(ceiling / n - variance, 0.0)
    return ceiling / (variance + missing * _PRIOR_EVENTS / (n * seeds * ceiling + _PRIOR_EVENTS))


def _tail(confidence: float, side: Side) -> float:
    if not 0 < confidence < 1:
        raise UserError.single("confidence", f"{confidence} is not between 0 and 1", "use 0.95")
    return (1 - confidence) / 2 if side == "two-sided" else 1 - confidence


def _interval(value: float, low: float, high: float, ends: tuple[float, float], side: Side, method: str, n: int) -> Interval:
    low = ends[0] if side == "upper" else min(max(low, ends[0]), value)
    high = ends[1] if side == "lower" else max(min(high, ends[1]), value)
    return Interval(value, low, high, method if side == "two-sided" else f"{method}, one-sided", n)


def _same_prompts(first: Floats, second: Floats) -> None:
    if first.shape[-1] != second.shape[-1]:
        raise UserError.single(
            "paired difference",
            f"{first.shape[-1]} prompts against {second.shape[-1]}",
            "measure both on the same prompts, in the same order",
        )
