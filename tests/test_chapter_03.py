"""Chapter 03: its functions against scikit-learn and NumPy, on small seeded inputs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from helpers.runtime import generator
from tests.test_chapters import definitions

X = torch.randn(80, 3, generator=generator("chapter 03")).double()
X[:, 2] = X[:, 1] + 0.3 * X[:, 2]  # the last two columns resemble each other
y = X[:, 0] + torch.randn(80, generator=generator("chapter 03, noise")) > 0.3
ONES = torch.ones(1, 80).double()


@pytest.fixture(scope="module")
def chapter():
    return definitions("03")


def test_readers_agree_and_a_bad_table_is_refused(chapter, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text('"a";"b"\n1.5;2\n-3;0.25\n', encoding="utf-8")
    for read in ("with_csv", "with_numpy", "with_pandas"):
        assert np.array_equal(np.array(chapter[read](file)), [[1.5, 2], [-3, 0.25]])
    chapter["check_table"](chapter["with_pandas"](file), ["a", "b"])
    bad = {"1 missing": {"a": [1, None], "b": [1, 2]}, "1 columns of text": {"a": ["1,5"], "b": [1]}}
    for message, columns in {**bad, "1 columns instead of 2": {"a": [1]}}.items():
        with pytest.raises(ValueError, match=message):
            chapter["check_table"](chapter["pd"].DataFrame(columns), ["a", "b"])


def test_effect_sizes(chapter):
    from sklearn.feature_selection import f_classif

    label = torch.arange(80) % 3
    moments = chapter["moments"](X, one_hot(label).double(), ONES)
    F = torch.from_numpy(f_classif(X.numpy(), label.numpy())[0])
    torch.testing.assert_close(chapter["eta_squared"](*moments)[0], 2 * F / (2 * F + 77))  # F's definition, solved
    a, b = X[label == 0].numpy(), X[label == 2].numpy()
    pooled = ((len(a) - 1) * a.var(0, ddof=1) + (len(b) - 1) * b.var(0, ddof=1)) / (len(a) + len(b) - 2)
    np.testing.assert_allclose(chapter["cohens_d"](*moments, 0, 2)[0], (b.mean(0) - a.mean(0)) / pooled**0.5)


def test_weights_of_the_bootstrap_are_repetitions(chapter):
    groups = one_hot(torch.arange(80) % 2).double()
    weights = chapter["bootstrap_weights"](torch.arange(80) // 2, 5, generator("draws"))
    assert torch.equal(weights[:, ::2], weights[:, 1::2])  # rows of one unit come together
    repeated = torch.arange(80).repeat_interleave(weights[3].long())
    expected = chapter["moments"](X[repeated], groups[repeated], ONES)
    for one, other in zip(chapter["moments"](X, groups, weights), expected, strict=True):
        torch.testing.assert_close(one[3], other[0])


@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_logistic_regression(chapter, penalty):
    from sklearn.linear_model import LogisticRegression

    train = torch.rand(4, 80, generator=generator("masks")) < 0.7
    Z = chapter["standardise_many"](X, train)
    for z, rows, found in zip(Z, train, chapter["fit_many"](Z, y.double(), train, penalty), strict=True):
        np.testing.assert_allclose(z[rows].std(dim=0), 1)
        w, b = chapter["fit_logistic"](z[rows], y[rows].double(), penalty)
        theirs = LogisticRegression(C=1 / (penalty * int(rows.sum())), tol=1e-8).fit(z[rows], y[rows])
        np.testing.assert_allclose([*w, b], [*theirs.coef_[0], *theirs.intercept_], atol=1e-3)
        np.testing.assert_allclose(found, theirs.decision_function(z), atol=1e-2)


def test_predictions_and_intervals(chapter):
    from sklearn import metrics, neighbors

    found = chapter["nearest_neighbour"](X[:60], y[:60], X[60:])
    theirs = neighbors.KNeighborsClassifier(1).fit(X[:60], y[:60]).predict(X[60:])
    assert np.array_equal(found, theirs)
    expected = metrics.precision_score(y[60:], found), metrics.recall_score(y[60:], found)
    np.testing.assert_allclose(chapter["precision_recall"](found, y[60:]), expected, rtol=1e-6)
    half = 3.182446 * np.std([0.1, 0.4, 0.3, 0.2], ddof=1) * (1 / 4 + 0.25) ** 0.5  # Nadeau and Bengio (2003)
    np.testing.assert_allclose(chapter["over_splits"]([0.1, 0.4, 0.3, 0.2]).low, 0.25 - half, rtol=1e-6)
