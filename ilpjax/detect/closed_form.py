"""What N runs would show, without running them (arXiv:2604.10079 eq. 1 and its pass@N).

Given the option distribution under each option order, run r draws one option at temperature 1 under order
`r mod R`. Runs are independent, so the number of right picks is Poisson-binomial and everything below is
exact. Arrays are NumPy, vectorised over items; options an item lacks are padded with probability 0.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Array = np.ndarray

# Probabilities and thresholds are decimals: 3/5 runs right must not pass as "under .6" by a rounding error.
ROUNDING = 1e-9


class Interval(NamedTuple):
    low: Float[Array, "item"]
    high: Float[Array, "item"]


def flag_count(threshold: float, runs: int) -> int:
    """The number of right picks that is just enough: a row is flagged when it has strictly fewer.

    T = .2, N = 5 gives 1 (flagged: 0 of 5); T = .6, N = 5 gives 3 (3 of 5 is not under .6).
    """
    return max(1, math.ceil((threshold - ROUNDING) * runs))


def right_probability(p: Float[Array, "item order option"], answer: Int[Array, "item"]) -> Float[Array, "item order"]:
    return np.take_along_axis(p, answer[:, None, None], axis=2)[:, :, 0]


def order_of_run(runs: int, orders: int) -> Int[Array, "run"]:
    return np.arange(runs) % orders


def expected_pass(right: Float[Array, "item order"], runs: int) -> Float[Array, "item"]:
    """E[pass@N]: the expected share of N runs that pick the right option."""
    weights = np.bincount(order_of_run(runs, right.shape[1]), minlength=right.shape[1]) / runs
    return right @ weights


def count_distribution(right: Float[Array, "item order"], runs: int, upto: int | None = None) -> Array:
    """P(exactly c of N runs are right) for c = 0 .. upto (N by default): Float[Array, "item upto+1"]."""
    upto = runs if upto is None else min(upto, runs)
    mass = np.zeros((len(right), upto + 1))
    mass[:, 0] = 1.0
    for order in order_of_run(runs, right.shape[1]):
        hit = right[:, order, None]
        stay = mass * (1.0 - hit)
        stay[:, 1:] += mass[:, :-1] * hit
        mass = stay
    return mass


def flag_probability(right: Float[Array, "item order"], runs: int, threshold: float) -> Float[Array, "item"]:
    """P(pass@N < T): how often the paper's rule would flag the row if the N draws were made anew."""
    fewest = flag_count(threshold, runs)
    return np.minimum(count_distribution(right, runs, upto=fewest - 1).sum(axis=1), 1.0)


def pass_interval(right: Float[Array, "item order"], runs: int, confidence: float) -> Interval:
    """The central interval that pass@N of one set of N draws falls in, with at least this probability."""
    below = np.cumsum(count_distribution(right, runs), axis=1)
    tail = (1.0 - confidence) / 2
    low = np.argmax(below > tail + ROUNDING, axis=1)
    high = np.argmax(below >= 1.0 - tail - ROUNDING, axis=1)
    return Interval(low / runs, high / runs)


def best_of_n(p: Float[Array, "item order option"], answer: Int[Array, "item"], runs: int) -> Float[Array, "item"]:
    """P(the most confident of N draws is right); a draw's confidence is the probability of what it drew.

    Of equally confident draws the first run wins, as `np.argmax` over the runs would choose. Run r wins with
    the right option, confidence c, when every earlier run drew under c and every later run at most c.
    """
    right = right_probability(p, answer)
    orders = right.shape[1]
    under, upto = np.empty((2, len(p), orders, orders))  # [item, order of the winner, order of another run]
    for winner in range(orders):
        confidence = right[:, winner, None, None]
        under[:, winner] = np.sum(p, axis=2, where=p < confidence)
        upto[:, winner] = np.sum(p, axis=2, where=p <= confidence)
    of_run = order_of_run(runs, orders)
    total = np.zeros(len(p))
    for run, winner in enumerate(of_run):
        before = np.bincount(of_run[:run], minlength=orders)
        after = np.bincount(of_run[run + 1 :], minlength=orders)
        total += right[:, winner] * np.prod(under[:, winner] ** before * upto[:, winner] ** after, axis=1)
    return np.minimum(total, 1.0)


def skill(right: Float[Array, "item order"], options: Int[Array, "item"]) -> Float[Array, "item order"]:
    """Guess-corrected `(p - 1/K) / (1 - 1/K)`: 0 for a guesser, 1 when always right, -1/(K-1) when never."""
    chance = 1.0 / options[:, None]
    return (right - chance) / (1.0 - chance)


def mean_interval(
    values: Float[Array, "item order"], confidence: float, floor: Float[Array, "item"], ceiling: float = 1.0
) -> Interval:
    """Student's t interval of the mean over orders, cut to [floor, ceiling].

    With one order there is no spread to estimate: low = high = the value itself.
    """
    mean, orders = values.mean(axis=1), values.shape[1]
    if orders == 1:
        return Interval(mean, mean)
    reach = stats.t.ppf((1 + confidence) / 2, orders - 1) * values.std(axis=1, ddof=1) / math.sqrt(orders)
    return Interval(np.maximum(mean - reach, floor), np.minimum(mean + reach, ceiling))


def error_consistency(p: Float[Array, "item order option"], answer: Int[Array, "item"]) -> Float[Array, "item"]:
    """P(two independent runs, each under an order drawn at random, make the same mistake).

    That is the sum over wrong options k of mean(p_k)^2. 1 for a row that always gives the same wrong answer,
    (K-1)/K^2 for a guesser, 0 for a learned row: consistent errors rank above scattered ones.
    """
    mean = p.mean(axis=1)
    right = np.take_along_axis(mean, answer[:, None], axis=1)[:, 0]
    return np.maximum(np.sum(mean**2, axis=1) - right**2, 0.0)


def jsd(base: Float[Array, "... option"], tuned: Float[Array, "... option"]) -> Float[Array, "..."]:
    """Jensen-Shannon divergence of two option distributions, natural log (nats, 0 .. ln 2 = .693).

    arXiv:2604.10079 eq. 3. Divide by ln 2 for bits. The paper does not say its log base.
    """
    middle = (base + tuned) / 2
    return np.maximum(_kl(base, middle) + _kl(tuned, middle), 0.0) / 2


def _kl(p: Array, q: Array) -> Array:
    ratio = np.divide(p, q, out=np.ones_like(q), where=p > 0)
    return np.sum(p * np.log(ratio), axis=-1)
