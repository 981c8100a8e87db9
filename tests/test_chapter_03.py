"""Chapter 03: its functions against scikit-learn and NumPy, on small seeded inputs."""

import numpy as np
import pytest
import torch

from helpers.runtime import generator
from tests.test_chapters import definitions

X = torch.randn(80, 3, generator=generator("chapter 03")).double()
X[:, 2] = X[:, 1] + 0.3 * X[:, 2]  # the last two columns resemble each other
y = X[:, 0] + torch.randn(80, generator=generator("chapter 03, noise")) > 0.3
wine = torch.arange(80) // 2  # each wine twice
TRAIN = torch.arange(80) % 5 != 0


@pytest.fixture(scope="module")
def chapter():
    chapter = definitions("03", X=X.float(), y=y, wine=wine, n_rows=80, n_wines=40)
    chapter["draws"] = [chapter["draw_rows"](generator("draws", seed)) for seed in range(300)]
    return chapter


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

    label = torch.arange(80) % 7 % 3  # unequal groups
    F = torch.from_numpy(f_classif(X.numpy(), label.numpy())[0])
    groups = torch.stack([label == g for g in range(3)])
    torch.testing.assert_close(chapter["eta_squared"](X, groups), 2 * F / (2 * F + 77))  # F's definition, solved
    a, b = X[label == 0].numpy(), X[label == 2].numpy()
    pooled = ((len(a) - 1) * a.var(0, ddof=1) + (len(b) - 1) * b.var(0, ddof=1)) / (len(a) + len(b) - 2)
    found = chapter["cohens_d"](X[label == 0], X[label == 2])
    np.testing.assert_allclose(found, (b.mean(0) - a.mean(0)) / pooled**0.5)


def test_bootstrap_draws_wines(chapter):
    times = chapter["draws"][0].bincount(minlength=80)
    assert times.max() > 1
    assert times.sum() == 80  # 40 wines drawn, two rows each
    assert torch.equal(times[::2], times[1::2])
    found = chapter["bootstrap"](lambda rows: X[rows].mean(dim=0))
    expected = np.quantile([X[rows].mean(dim=0) for rows in chapter["draws"]], [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found, expected)


def test_interval_has_the_width_of_the_standard_error(chapter):
    values = X[wine, 0]  # equal in both rows of a wine, so that 40 numbers are independent
    estimate = chapter["with_interval"](values)
    expected = 2 * 1.96 * float(values.std(correction=0)) / 40**0.5
    assert estimate.mean == pytest.approx(float(values.mean()))
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("deal", ["folds_by_wine", "folds_by_row"])
def test_cross_validation_judges_each_row_by_the_other_folds(chapter, deal):
    fold = chapter[deal](3)
    assert fold.bincount().tolist() == [16] * 5
    together = torch.equal(fold[::2], fold[1::2])
    assert together == (deal == "folds_by_wine")

    def rule(train, val):
        assert torch.equal(train, ~val)
        return torch.full((int(val.sum()),), not val[7])  # wrong for the fold of row 7 alone

    assert torch.equal(chapter["cross_validate"](rule, fold), fold != fold[7])
    always = chapter["share_right"](lambda train, val: torch.ones(int(val.sum()), dtype=torch.bool), chapter[deal])
    assert torch.equal(always, y.double())


@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_logistic_regression(chapter, penalty):
    from sklearn.linear_model import LogisticRegression

    Z = chapter["standardised_by"](TRAIN)[TRAIN]
    np.testing.assert_allclose(Z.std(dim=0), 1, rtol=1e-5)
    w, b = chapter["fit_logistic"](Z, y[TRAIN].float(), penalty)
    theirs = LogisticRegression(C=1 / (penalty * len(Z)), tol=1e-8).fit(Z, y[TRAIN])
    np.testing.assert_allclose([*w, b], [*theirs.coef_[0], *theirs.intercept_], atol=1e-3)


def test_rules(chapter):
    from sklearn import linear_model, metrics, neighbors, pipeline, preprocessing

    scale = preprocessing.StandardScaler
    nearest = pipeline.make_pipeline(scale(), neighbors.KNeighborsClassifier(1)).fit(X[TRAIN], y[TRAIN])
    found = chapter["neighbour_rule"](TRAIN, ~TRAIN)
    assert np.array_equal(found, nearest.predict(X[~TRAIN]))
    expected = metrics.precision_score(y[~TRAIN], found), metrics.recall_score(y[~TRAIN], found)
    np.testing.assert_allclose(chapter["precision_recall"](found, y[~TRAIN]), expected, rtol=1e-6)
    C = 1 / (1e-3 * int(TRAIN.sum()))
    regression = pipeline.make_pipeline(scale(), linear_model.LogisticRegression(C=C)).fit(X[TRAIN], y[TRAIN])
    assert np.array_equal(chapter["logistic_rule"](TRAIN, ~TRAIN), regression.predict(X[~TRAIN]))
