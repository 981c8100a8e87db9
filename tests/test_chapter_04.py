"""The functions of chapter 04 on small made-up inputs: flaws are found, windows and fits are right."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.runtime import generator
from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    return definitions("04")


@pytest.fixture
def table():
    """Four days in order, without a flaw."""
    times = pd.date_range("2012-02-27", periods=96, freq="h")
    return pd.DataFrame({"dteday": times.strftime("%Y-%m-%d"), "hr": times.hour})


@pytest.mark.parametrize("text", ["2011-3-10", "10.03.2011", "2011-03-o1", "2011-02-29", ""])
def test_strict_day_refuses(chapter, text):
    assert np.isnan(chapter["strict_day"](text))
    assert chapter["strict_day"]("2012-02-29") == 29


def test_audit_finds_planted_flaws(chapter, table):
    def audit(rows):
        return list(chapter["missing_hours"](chapter["timestamps"](rows))), chapter["spliced_blocks"](rows["dteday"])

    assert audit(table) == ([], [])
    lost, blocks = audit(table.drop(range(30, 54)))
    assert lost == list(pd.date_range("2012-02-28 06:00", periods=24, freq="h"))
    assert blocks == [1]


def test_check_days(chapter):
    days = chapter["made_up"](4).view(-1, 24, 2)
    chapter["check_days"](days, hour=1, date=0)
    spliced, late = days.clone(), days.clone()
    spliced[2, 13:, 0] += 1
    late[1:, :, 1] = (late[1:, :, 1] + 1) % 24
    for flawed, message in ((spliced, "1 of 4 days .* day 2"), (late, "3 of 4 days .* day 1")):
        with pytest.raises(ValueError, match=message):
            chapter["check_days"](flawed, hour=1, date=0)


def test_scaling(chapter):
    x = torch.randn(5, 4, generator=generator("scaling"))
    scaled = chapter["min_max"](x)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert not chapter["min_max_typo"](x).isfinite().any()


def test_windows_and_closed_form(chapter):
    X, y = chapter["hour_windows"](torch.arange(30.0), 24)
    assert (X.shape, y.tolist()) == ((6, 24), [24, 25, 26, 27, 28, 29])
    assert torch.equal(X[:, -1] + 1, y)
    X = torch.randn(50, 3, generator=generator("closed form"))
    target = X @ torch.tensor([1.0, -2.0, 0.5]) + 7
    weights, bias = chapter["closed_form"](X, target)
    torch.testing.assert_close(weights, torch.tensor([1.0, -2.0, 0.5]).double(), rtol=0, atol=1e-5)
    assert float(bias) == pytest.approx(7, abs=1e-5)
    torch.testing.assert_close(chapter["linear_forecast"](X, target, X), target)


def test_nearest_forecast_and_units(chapter):
    X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    mean = chapter["nearest_forecast"](X, torch.tensor([2.0, 4.0, 50.0]), torch.tensor([[0.1, 0.4]]), k=2)
    assert mean.tolist() == [3]
    forbidden = torch.tensor([[True, False, False]])
    mean = chapter["nearest_forecast"](X, torch.tensor([2.0, 4.0, 50.0]), torch.tensor([[0.1, 0.4]]), 2, forbidden)
    assert mean.tolist() == [27]
    means = chapter["unit_means"](torch.tensor([1.0, 2.0, 6.0, 8.0]), torch.tensor([10, 11, 17, 19]), 4)
    assert means.tolist() == [1.5, 6, 8]


def test_gain_by_shuffling_compares_the_same_items(chapter):
    """Every forecast off by 1 after a random split and by 3 after the split by time gains 2 in each week."""
    t = torch.arange(6 * 168)
    in_train = t < 4 * 168
    names = {"y": torch.zeros(len(t)), "t": t, "in_train": in_train}
    fresh = definitions("04", **names)

    def errors(train, judged, forbid=None):
        assert not (train & judged).any()
        assert not (judged & in_train).any()
        assert train.sum() == in_train.sum()
        return torch.ones(int(judged.sum()))

    by_time = torch.full((int((~in_train).sum()),), 3.0)
    assert fresh["gain_by_shuffling"](errors, by_time, forbid=abs).tolist() == [2, 2]
    assert not torch.equal(fresh["random_split"](0), fresh["random_split"](1))


def test_forbidden_hours(chapter):
    """With all later items forbidden, the nearest windows are those of the past."""
    X, y, t = torch.zeros(4, 2), torch.tensor([1.0, 2.0, 30.0, 40.0]), torch.arange(4)
    fresh = definitions("04", X=X, y=y, t=t, k=2)
    train, judged = torch.tensor([True, True, False, True]), torch.tensor([False, False, True, False])
    error = fresh["nearest_errors"](train, judged, forbid=lambda hours_ago: hours_ago < 0)
    assert error.tolist() == [28.5]
