import math

import numpy as np
import pytest

from reconciler.canary import Limits, Measure, Sample, Verdict, judge

WINDOW = 100
LIMITS = Limits(most=4000)


def life(seed: int, *, slower: float = 0.0, errors: float = 0.001) -> Verdict:
    """One canary, looked at after each window of requests; TTFT spreads by a half."""
    rng = np.random.default_rng(seed)
    sides = [{"ttft": Sample(), "tpot": Sample(), "errors": Sample()} for _ in range(2)]
    while True:
        for side, shift, rate in ((0, 0.0, 0.001), (1, math.log1p(slower), errors)):
            told = sides[side]
            told["ttft"] += Sample.of(rng.normal(-1 + shift, 0.5, WINDOW))
            told["tpot"] += Sample.of(rng.normal(-4 + shift, 0.2, WINDOW))
            told["errors"] += Sample.of(rng.binomial(1, rate, WINDOW).astype(float))
        measures = [
            Measure(
                name=name,
                tolerance=limit,
                baseline=sides[0][name],
                canary=sides[1][name],
            )
            for name, limit in (("ttft", 0.1), ("tpot", 0.1), ("errors", 0.02))
        ]
        ruling = judge(measures, LIMITS)
        if ruling.verdict is not Verdict.CONTINUE:
            return ruling.verdict


@pytest.mark.parametrize(
    ("slower", "errors", "wanted", "least"),
    [
        (0.0, 0.001, Verdict.PROMOTE, 190),
        (0.05, 0.001, Verdict.PROMOTE, 100),
        (0.30, 0.001, Verdict.ROLL_BACK, 200),
        (0.0, 0.20, Verdict.ROLL_BACK, 200),
    ],
    ids=["the same", "within tolerance", "30 % slower", "20 % errors"],
)
def test_of_two_hundred_canaries(
    slower: float, errors: float, wanted: Verdict, least: int
) -> None:
    rulings = [life(seed, slower=slower, errors=errors) for seed in range(200)]
    assert rulings.count(wanted) >= least


def test_a_regression_beyond_tolerance_is_hardly_ever_promoted() -> None:
    rulings = [life(seed, slower=0.15) for seed in range(200)]
    assert rulings.count(Verdict.PROMOTE) <= 200 * LIMITS.alpha


def test_few_requests_decide_nothing() -> None:
    bad, good = Sample.of([9.0] * 50), Sample.of([1.0] * 5000)
    one = Measure(name="ttft", tolerance=0.1, baseline=good, canary=bad)
    assert judge([one], LIMITS).verdict is Verdict.CONTINUE
    assert judge([], LIMITS).verdict is Verdict.CONTINUE


def test_silence_until_the_end_is_a_rollback() -> None:
    rng = np.random.default_rng(0)
    same = [Sample.of(rng.normal(0, 20, LIMITS.most)) for _ in range(2)]
    one = Measure(name="ttft", tolerance=0.01, baseline=same[0], canary=same[1])
    ruling = judge([one], LIMITS)
    assert ruling.verdict is Verdict.ROLL_BACK
    assert "undecided" in ruling.why


def test_windows_add_up() -> None:
    assert Sample.of([1.0, 2.0]) + Sample.of([3.0]) == Sample.of([1.0, 2.0, 3.0])
