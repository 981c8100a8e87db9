"""Recorded trainings of chapter 15: networks that grow deeper, plain and with skip connections.

The deep ones are made narrow enough for a CPU; those of the published size are optional.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from helpers import cifar10
from helpers.batches import Minibatches
from helpers.models import DepthNet, NetResDeep, ResBlock
from helpers.recipes.chapter_12 import _one_cycle, _published_split
from helpers.results import recipe
from helpers.runtime import device, generator, seeded_weights
from helpers.training import History, fit


def _three(seed: int, n_epochs: int, lr: float, skip: bool) -> History:
    """Three convolutions (32-16-16, ReLU), plain or with a skip around the third, by the fast recipe."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = DepthNet(skip=skip)
    held_out = {"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)}
    return _one_cycle(model, X, y, seed, n_epochs, lr, held_out)


for _name, _skip in (("plain", False), ("skip", True)):
    recipe(
        f"15_three_{_name}",
        seeds=10,
        n_epochs=10,
        data="cifar10",
        uses=(DepthNet, _one_cycle, _published_split),
        lr=0.05,
        skip=_skip,
    )(_three)


def _side_by_side(networks: list[NetResDeep]) -> NetResDeep:
    """Return one network that computes all `networks` at once: N x 3S x H x W to logits N x 2S.

    Every layer becomes a grouped one, whose groups do not see each other; batch normalisation
    treats each channel by itself anyway. Weights are copied; the normalisations start anew.
    """
    S = len(networks)
    together = deepcopy(networks[0])

    def grouped(layers):
        one = layers[0]
        convolution = isinstance(one, nn.Conv2d)
        kind, shape = (nn.Conv2d, {"padding": 1}) if convolution else (nn.Conv1d, {})
        n_in, n_out = one.weight.shape[1], one.weight.shape[0]
        size = 3 if convolution else 1
        wide = kind(S * n_in, S * n_out, size, groups=S, bias=one.bias is not None, **shape)
        with torch.no_grad():
            wide.weight.copy_(torch.cat([layer.weight for layer in layers]).view_as(wide.weight))
            if one.bias is not None:
                wide.bias.copy_(torch.cat([layer.bias for layer in layers]))
        # A dense layer is a convolution over a picture of one pixel.
        return wide if convolution else nn.Sequential(nn.Unflatten(1, (-1, 1)), wide, nn.Flatten())

    for name in ("conv1", "fc1", "fc2"):
        setattr(together, name, grouped([getattr(network, name) for network in networks]))
    for i, block in enumerate(together.blocks):
        block.conv = grouped([network.blocks[i].conv for network in networks])
        weight = block.batch_norm.weight[0].item()
        block.batch_norm = nn.BatchNorm2d(S * networks[0].conv1.out_channels)
        nn.init.constant_(block.batch_norm.weight, weight)
    return together


class _SideBySideBatches:
    """Minibatches of several seeds, each shuffled by its own generator: images N x 3S x H x W, labels N x S."""

    def __init__(self, X, y, batch_size: int, seeds: list[int]):
        self.walks = [Minibatches(X, y, batch_size, shuffle=generator("shuffle", seed)) for seed in seeds]

    def __iter__(self):
        for parts in zip(*self.walks, strict=True):
            yield torch.cat([X for X, _ in parts], dim=1), torch.stack([y for _, y in parts], dim=1)


def _accuracies(together: NetResDeep, X: torch.Tensor, y: torch.Tensor, S: int) -> dict[str, list[float]]:
    """Return the accuracy of each network in eval mode, and with the statistics of these very images."""
    together.eval()
    without = deepcopy(together)
    for layer in without.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None  # eval mode then takes the batch's
    measured = {}
    for name, network in (("accuracy", together), ("batch_statistics_accuracy", without)):
        with torch.no_grad():
            answers = network(X.repeat(1, S, 1, 1)).unflatten(1, (S, 2)).argmax(dim=2)
        measured[name] = (answers == y[:, None]).float().mean(dim=0).tolist()
    return measured


@cache
def _pooled_split() -> tuple[torch.Tensor, ...]:
    """The first 2,000 images of X_train, X_tune and X_val, averaged over squares of 4 x 4 pixels."""
    data = cifar10.birds_and_airplanes()
    tensors = []
    for X, y in ((data.X_train[:2000], data.y_train[:2000]), (data.X_tune, data.y_tune), (data.X_val, data.y_val)):
        tensors += [F.avg_pool2d(cifar10.standardise(X), 4), y]
    return tuple(tensor.to(device()) for tensor in tensors)


def _deep(seeds: list[int], n_epochs: int, lr: float, n_blocks: int, shared: bool, skip: bool) -> list[History]:
    """`n_blocks` blocks of width 8 on 2,000 images of 8 x 8 pixels: SGD, minibatches of 50; all seeds at once."""
    X, y, X_tune, y_tune, X_val, y_val = _pooled_split()
    networks = []
    for seed in seeds:
        with seeded_weights(seed):
            networks.append(NetResDeep(8, n_blocks, size=8, shared=shared, skip=skip))
    S = len(seeds)
    together = _side_by_side(networks).to(device())
    batches = _SideBySideBatches(X, y, 50, seeds)
    optimizer = torch.optim.SGD(together.parameters(), lr)
    histories = [History() for _ in seeds]
    by_seed = []

    def loss_fn(logits, targets):
        losses = F.cross_entropy(logits.unflatten(1, (S, 2)).transpose(1, 2), targets, reduction="none").mean(dim=0)
        by_seed.append(losses.detach())
        return losses.sum()  # no weight belongs to two networks, so neither does a gradient

    for epoch in range(1, n_epochs + 1):
        by_seed.clear()
        seconds = fit(together, batches, loss_fn, optimizer, 1)["seconds"][0] / S
        losses = torch.stack(by_seed).mean(dim=0).tolist()
        rows = [{"epoch": epoch, "loss": loss, "lr": lr, "seconds": seconds} for loss in losses]
        if epoch % 5 == 0 or epoch == n_epochs:
            for name, images, labels in (("train", X, y), ("tune", X_tune, y_tune), ("val", X_val, y_val)):
                for what, values in _accuracies(together, images, labels, S).items():
                    for row, value in zip(rows, values, strict=True):
                        row[f"{name}_{what}"] = value
        for history, row in zip(histories, rows, strict=True):
            history.rows.append(row)
    for history, network in zip(histories, networks, strict=True):
        history.n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return histories


_NARROW = {
    "seeds": 10,
    "n_epochs": 10,
    "data": "cifar10",
    "uses": (NetResDeep, ResBlock, _side_by_side, _SideBySideBatches, _accuracies, _pooled_split),
    "together": True,
}
recipe("15_shared_100", **_NARROW, lr=0.003, n_blocks=100, shared=True, skip=True)(_deep)
for _kind, _lrs in (("residual", (0.003, 0.03)), ("plain", (0.003, 0.03))):
    for _n_blocks in (100, 30, 10):
        for _lr in _lrs:
            recipe(
                f"15_{_kind}_{_n_blocks}_lr_{_lr}",
                **_NARROW,
                lr=_lr,
                n_blocks=_n_blocks,
                shared=False,
                skip=_kind == "residual",
            )(_deep)


def _published(seed: int, n_epochs: int, lr: float, shared: bool) -> History:
    """100 blocks of width 32 on all 10,000 images of 32 x 32 pixels, as published; meant for a GPU."""
    X, y, X_val, y_val = _published_split()
    with seeded_weights(seed):
        model = NetResDeep(32, 100, shared=shared)
    model.to(device())
    return fit(
        model,
        Minibatches(X, y, 64, shuffle=generator("shuffle", seed)),
        nn.CrossEntropyLoss(),
        torch.optim.SGD(model.parameters(), lr),
        n_epochs,
        evaluate_on={"train": Minibatches(X, y, 1000), "val": Minibatches(X_val, y_val, 1000)},
        eval_every=10,
    )


for _name, _shared in (("unshared", False), ("shared", True)):
    recipe(
        f"15_published_{_name}",
        seeds=10,
        n_epochs=100,
        data="cifar10",
        uses=(NetResDeep, ResBlock, _published_split),
        optional=True,
        lr=0.003,
        shared=_shared,
    )(_published)
