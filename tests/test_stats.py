"""Intervals equal SciPy's, cover what they promise to cover, and refuse what has no interval."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from helpers.stats import Estimate, mean_interval, paired_difference, prediction_interval, proportion_interval

several = settings(deadline=None, max_examples=60, derandomize=True, database=None)

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)
confidences = st.floats(0.5, 0.999)
# Ten accuracies like those of chapter 12, for the tests that need numbers but no variety.
ACCURACIES = [0.8795, 0.884, 0.8835, 0.8905, 0.879, 0.886, 0.8825, 0.8875, 0.8815, 0.885]


def close(one, other):
    return one == pytest.approx(other, rel=1e-9, abs=1e-9)


# --- against SciPy -------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_mean_interval_is_scipys(n, confidence):
    sample = ACCURACIES[:n]
    expected = scipy_stats.ttest_1samp(sample, 0).confidence_interval(confidence)
    got = mean_interval(sample, confidence)
    assert close(got, (np.mean(sample), expected.low, expected.high))
    half = scipy_stats.sem(sample)
    assert close(got[1:], scipy_stats.t.interval(confidence, n - 1, np.mean(sample), half))


def test_the_default_confidence_of_a_mean_is_95_percent():
    assert mean_interval(ACCURACIES) == mean_interval(ACCURACIES, 0.95)


def test_an_interval_by_hand():
    # 1, 2, 3: mean 2, deviation 1, t(0.975; 2) = 4.302653 from a printed table.
    assert mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    # One more value deviates from the mean by both errors: the variance is (1 + 1/3).
    half = 4.302653 * (4 / 3) ** 0.5
    assert prediction_interval([1, 2, 3], 0.95) == pytest.approx((2, 2 - half, 2 + half))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_paired_difference_is_scipys(confidence):
    a, b = np.array(ACCURACIES), np.array(ACCURACIES[::-1]) - 0.002
    expected = scipy_stats.ttest_rel(a, b).confidence_interval(confidence)
    got = paired_difference(a, b, confidence)
    assert close(got, ((a - b).mean(), expected.low, expected.high))


def test_pairing_narrows_the_interval_when_seeds_matter_to_both():
    noise = np.random.default_rng(0).normal(0, 0.001, 10)
    a, b = np.array(ACCURACIES), np.array(ACCURACIES) - 0.003 + noise
    paired, alone = paired_difference(a, b), mean_interval(a)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    assert paired.low > 0  # a difference that the two single intervals would hide


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_a_prediction_covers_one_more_run_as_often_as_it_says(confidence):
    draw = np.random.default_rng(12)
    trials, n = 4000, 6
    hits = 0
    for _ in range(trials):
        *seen, new = draw.normal(0.88, 0.004, n + 1)
        low, high = prediction_interval(seen, confidence)[1:]
        hits += low <= new <= high
    # Within four standard errors of a share.
    assert abs(hits / trials - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / trials)


def test_a_mean_interval_covers_the_true_mean_as_often_as_it_says():
    draw = np.random.default_rng(13)
    trials = 4000
    hits = sum(low <= 5 <= high for _, low, high in (mean_interval(draw.normal(5, 2, 4)) for _ in range(trials)))
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_the_default_confidence_of_a_prediction_is_99_percent():
    assert prediction_interval(ACCURACIES) == prediction_interval(ACCURACIES, 0.99)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (1764, 2000)])
def test_a_proportion_has_wilsons_interval(hits, n):
    share, low, high = proportion_interval(hits, n)
    assert share == hits / n
    # Wilson's interval is where the score test does not reject: (p - share)^2 = z^2 p (1 - p) / n.
    z = scipy_stats.norm.ppf(0.975)
    roots = np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2])
    assert close((low, high), (max(0, roots.min()), min(1, roots.max())))


# --- for any numbers -----------------------------------------------------------------------------


@several
@given(sample=values, confidence=confidences, interval=st.sampled_from([mean_interval, prediction_interval]))
def test_an_interval_contains_its_mean(sample, confidence, interval):
    got = interval(sample, confidence)
    assert got.low <= got.mean <= got.high
    assert got.mean == pytest.approx(math.fsum(sample) / len(sample), abs=1e-9)
    assert close(got.high - got.mean, got.mean - got.low)


@several
@given(
    sample=values,
    shift=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
    interval=st.sampled_from([mean_interval, prediction_interval]),
)
def test_an_interval_moves_and_stretches_with_its_values(sample, shift, scale, interval):
    before = interval(sample)
    moved = interval([scale * value + shift for value in sample])
    tolerance = 1e-9 * (1 + scale * max(map(abs, sample)) + abs(shift)) * 100
    assert tuple(moved) == pytest.approx([scale * end + shift for end in before], abs=tolerance)


@several
@given(sample=values, confidence=confidences)
def test_a_prediction_is_wider_than_the_interval_of_the_mean(sample, confidence):
    assume(np.std(sample) > 1e-6)
    mean, one_more = mean_interval(sample, confidence), prediction_interval(sample, confidence)
    ratio = (one_more.high - one_more.low) / (mean.high - mean.low)
    assert ratio == pytest.approx(math.sqrt(len(sample) + 1))


@several
@given(sample=values, low=confidences, high=confidences)
def test_more_confidence_needs_a_wider_interval(sample, low, high):
    assume(np.std(sample) > 1e-6 and low < high)
    narrow, wide = mean_interval(sample, low), mean_interval(sample, high)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@several
@given(a=values, b=values)
def test_a_paired_difference_changes_sign_with_its_arguments(a, b):
    n = min(len(a), len(b))
    one, other = paired_difference(a[:n], b[:n]), paired_difference(b[:n], a[:n])
    assert close(one, (-other.mean, -other.high, -other.low))


@several
@given(data=st.data(), n=st.integers(1, 300))
def test_a_proportion_lies_in_its_interval_and_in_0_to_1(data, n):
    hits = data.draw(st.integers(0, n))
    share, low, high = proportion_interval(hits, n)
    assert -1e-12 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1 + 1e-12
    assert low < high


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.5] * 5) == (0.5, 0.5, 0.5)


# --- form and errors -----------------------------------------------------------------------------


def test_an_estimate_prints_three_decimals_and_its_ends():
    assert str(Estimate(0.88345, 0.8801, 0.8867)) == "0.883 [0.880, 0.887]"


def test_estimates_hold_plain_numbers():
    # They are written to JSON and into outputs, where np.float64(...) would be noise.
    for estimate in (
        mean_interval(np.array(ACCURACIES)),
        prediction_interval(ACCURACIES),
        paired_difference(ACCURACIES, ACCURACIES[::-1]),
        proportion_interval(np.int64(3), np.int64(10)),
    ):
        assert [type(number) for number in estimate] == [float] * 3


@pytest.mark.parametrize("interval", [mean_interval, prediction_interval])
@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ([], "at least 2 values"),
        ([0.5], "at least 2 values"),
        ([[0.1, 0.2], [0.3, 0.4]], r"shape \(2, 2\)"),
        ([0.1, math.nan], "nan or an infinity"),
        ([0.1, math.inf], "nan or an infinity"),
    ],
)
def test_values_without_an_interval_are_refused(interval, sample, words):
    with pytest.raises(ValueError, match=words):
        interval(sample)


def test_pairs_must_be_complete():
    with pytest.raises(ValueError, match="equally many; got 3 and 2"):
        paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize(("hits", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_proportions_are_refused(hits, n):
    with pytest.raises(ValueError, match=f"{hits} hits out of {n} is no proportion"):
        proportion_interval(hits, n)
