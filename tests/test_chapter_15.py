"""Chapter 15's networks equal the helpers', and the records' ten networks side by side equal single ones."""

import json

import pytest
import torch
from torch import nn

from helpers import models, results
from helpers.batches import Minibatches
from helpers.recipes import chapter_15 as recipes
from helpers.runtime import generator, seeded_weights
from helpers.training import evaluate, fit
from tests.test_chapters import definitions, same_function


@pytest.fixture(scope="module")
def chapter():
    return definitions("15", device=torch.device("cpu"))


def images(size, N=10):
    return torch.randn(N, 3, size, size, generator=generator("images"))


@pytest.mark.parametrize("skip", [False, True])
def test_depth_net(chapter, skip):
    same_function(lambda: chapter["DepthNet"](skip=skip), lambda: models.DepthNet(skip=skip), images(32))


@pytest.mark.parametrize("skip", [False, True])
def test_res_block(chapter, skip):
    X = torch.randn(5, 6, 4, 4, generator=generator("X"))
    same_function(lambda: chapter["ResBlock"](6, skip=skip), lambda: models.ResBlock(6, skip=skip), X)
    assert models.ResBlock(6).conv.bias is None
    assert (models.ResBlock(6).batch_norm.weight == 0.5).all()


@pytest.mark.parametrize(("size", "shared", "skip"), [(32, False, True), (16, True, True), (8, False, False)])
def test_net_res_deep(chapter, size, shared, skip):
    def make(source):
        return lambda: source(6, 3, size=size, shared=shared, skip=skip)

    same_function(make(chapter["NetResDeep"]), make(models.NetResDeep), images(size))


def test_sharing(chapter):
    """100 blocks of width 32: parameters as published, and one object or a hundred."""
    for NetResDeep in (chapter["NetResDeep"], models.NetResDeep):
        for shared, n_parameters, n_different in ((True, 75_810, 1), (False, 994_530, 100)):
            model = NetResDeep(32, 100, shared=shared)
            assert sum(p.numel() for p in model.parameters()) == n_parameters
            assert len(model.blocks) == 100
            assert len({id(block) for block in model.blocks}) == n_different


@pytest.mark.parametrize(("shared", "skip"), [(False, True), (True, True), (False, False)])
def test_side_by_side(monkeypatch, shared, skip):
    """Several seeds trained as one network give the losses and accuracies of single trainings."""
    X, y = images(8, 120), torch.randint(0, 2, (120,), generator=generator("y"))
    split = (X[:100], y[:100], X[100:110], y[100:110], X[110:], y[110:])
    monkeypatch.setattr(recipes, "_pooled_split", lambda: split)
    monkeypatch.setattr(recipes, "device", lambda: torch.device("cpu"))
    together = recipes._deep([3, 7], 2, 0.01, 4, shared, skip)
    for seed, ours in zip((3, 7), together, strict=True):
        with seeded_weights(seed):
            model = models.NetResDeep(8, 4, size=8, shared=shared, skip=skip)
        single = fit(
            model,
            Minibatches(*split[:2], 50, shuffle=generator("shuffle", seed)),
            nn.CrossEntropyLoss(),
            torch.optim.SGD(model.parameters(), 0.01),
            2,
        )
        assert ours["loss"] == pytest.approx(single["loss"], rel=1e-4)
        assert ours.n_parameters == sum(p.numel() for p in model.parameters())
        for name, held_out in (("train", split[:2]), ("tune", split[2:4]), ("val", split[4:])):
            expected = evaluate(model, [held_out], nn.CrossEntropyLoss())["accuracy"]
            assert ours[f"{name}_accuracy"][-1] == pytest.approx(expected, abs=1e-6)
            with torch.no_grad():
                model.train()
                norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
                for norm in norms:
                    norm.momentum = 0.0  # look at the batch's statistics, and keep the running ones
                answers = model(held_out[0]).argmax(dim=1)
            assert ours[f"{name}_batch_statistics_accuracy"][-1] == pytest.approx(
                (answers == held_out[1]).float().mean().item(), abs=1e-6
            )


def test_only_complete_records_are_drawn(chapter, monkeypatch, tmp_path):
    """A record that is missing, begun, or has some of its seeds is left out."""
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    for n_runs in (0, 2, 3):
        runs = [{"seed": seed} for seed in range(n_runs)]
        (tmp_path / f"{n_runs}.json").write_text(json.dumps({"seeds": 3, "runs": runs}))
    found = {name: chapter["recorded_or_none"](name) for name in ("never", "0", "2", "3")}
    assert [name for name, one in found.items() if one is not None] == ["3"]
