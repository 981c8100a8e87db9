"""Chapter 09: points inside and outside the unit circle, many small networks at once."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from helpers.ensembles import fit_many
from helpers.results import recipe
from helpers.runtime import generator, seeded_weights
from helpers.training import History

WIDTHS = range(2, 9)
RATES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def disc_points(seed: int, n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n normal points, n x 2, and 1.0 for those inside the unit circle, n x 1."""
    X = torch.randn(n, 2, generator=generator("disc", seed))
    return X, ((X**2).sum(dim=1) < 1).float().unsqueeze(1)


def network(sizes: tuple[int, ...], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a network of Linear layers, each but the last followed by `activation`."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def disc_sets(seeds: list[int], flip: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 100 points a seed, S x 100 x 2 and S x 100 x 1; a share `flip` of the labels is turned over."""
    X, y = (torch.stack(parts) for parts in zip(*[disc_points(seed) for seed in seeds], strict=True))
    draws = torch.stack([torch.rand(100, 1, generator=generator("flip", seed)) for seed in seeds])
    return X, torch.where(draws < flip, 1 - y, y)


def measure(many, X: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return loss and accuracy on the training points, and accuracy on 4,000 fresh points of the true circle."""
    X_fresh, y_fresh = disc_points(50_000, 4000)
    trained = ((many.logits(X) > 0) == (y > 0.5)).float().mean(dim=(1, 2))
    fresh = ((many.logits(X_fresh) > 0) == (y_fresh > 0.5)).float().mean(dim=(1, 2))
    return {"loss": many.losses(), "train_accuracy": trained, "fresh_accuracy": fresh}


def train(seeds: list[int], n_epochs: int, sizes: tuple[int, ...], flip: float = 0.0, eval_every: int | None = None):
    """Train a network a seed by full-batch SGD at rate 0.05, each on points of its own."""
    X, y = disc_sets(seeds, flip)
    return fit_many(
        lambda: network(sizes),
        X,
        y,
        seeds=seeds,
        loss="bce",
        lr=0.05,
        n_epochs=n_epochs,
        eval_every=eval_every,
        evaluate=lambda many: measure(many, X, y),
    )


def histories(columns: dict[str, torch.Tensor], epochs: list[int]) -> list[History]:
    """Turn columns (number of evaluations) x S into a History for each of S seeds."""
    S = next(iter(columns.values())).shape[1]
    return [
        History(
            [{"epoch": e} | {name: float(v[row, s]) for name, v in columns.items()} for row, e in enumerate(epochs)]
        )
        for s in range(S)
    ]


PARTS = (disc_points, network, disc_sets, measure, train, histories)


@recipe("09_disc", seeds=100, n_epochs=50_000, data=None, uses=PARTS, together=True)
def disc(seeds: list[int], n_epochs: int) -> list[History]:
    """The 2-4-4-1 network with ReLU for 50,000 epochs, new points and weights for each seed."""
    many = train(seeds, n_epochs, (2, 4, 4, 1), eval_every=2500)
    kept = [epoch for epoch in many.epochs if epoch <= 10_000 or epoch % 10_000 == 0]
    rows = [many.epochs.index(epoch) for epoch in kept]
    return histories({name: values[rows] for name, values in many.measured.items()}, kept)


def _side_by_side(seeds, n_epochs, networks, kept: tuple[int, ...] = ()) -> list[History]:
    """Train several networks on the same points; columns carry the name of the network.

    Rows are kept for the epochs `kept`, which are multiples of 1,000, and for the last one.
    """
    columns, kept = {}, (*kept, n_epochs)
    for name, (sizes, flip) in networks.items():
        many = train(seeds, n_epochs, sizes, flip, eval_every=1000)
        rows = [many.epochs.index(epoch) for epoch in kept]
        for column in ("train_accuracy", "fresh_accuracy"):
            columns[f"{name} {column}"] = many.measured[column][rows]
    return histories(columns, list(kept))


@recipe("09_widths", seeds=100, n_epochs=10_000, data=None, uses=(*PARTS, _side_by_side), together=True)
def widths(seeds: list[int], n_epochs: int) -> list[History]:
    """One and two hidden layers of 2 to 8 units, and one layer of 9: as many parameters as 2-4-4-1."""
    shapes = [(2, w, 1) for w in (*WIDTHS, 9)] + [(2, w, w, 1) for w in WIDTHS]
    return _side_by_side(seeds, n_epochs, {"-".join(map(str, sizes)): (sizes, 0.0) for sizes in shapes})


@recipe("09_overfitting", seeds=100, n_epochs=10_000, data=None, uses=(*PARTS, _side_by_side), together=True)
def overfitting(seeds: list[int], n_epochs: int) -> list[History]:
    """Wider and deeper networks, with the true labels and with a tenth of them turned over."""
    shapes = {"small": (2, 4, 4, 1), "wide": (2, 32, 32, 1), "deep": (2, *[8] * 6, 1)}
    networks = {f"{name} flip {flip}": (sizes, flip) for flip in (0.0, 0.1) for name, sizes in shapes.items()}
    return _side_by_side(seeds, n_epochs, networks, kept=(1000, 2000, 5000))


def _squared_error(seeds: list[int], rates: torch.Tensor, X, y, n_epochs: int, evaluate) -> None:
    """Train 2-4-4-1 networks with a sigmoid and squared error; call evaluate(epoch, logits) every 10 epochs."""
    weights = []
    for seed in seeds:
        with seeded_weights(seed):
            weights.append([p.detach() for p in network((2, 4, 4, 1)).parameters()])
    stacks = [torch.stack(parts).requires_grad_() for parts in zip(*weights, strict=True)]
    W1, b1, W2, b2, W3, b3 = stacks
    for epoch in range(n_epochs + 1):
        h = torch.baddbmm(b1[:, None], X, W1.mT).relu()
        h = torch.baddbmm(b2[:, None], h, W2.mT).relu()
        logits = torch.baddbmm(b3[:, None], h, W3.mT)
        if epoch and epoch % 10 == 0:
            evaluate(epoch, logits.detach())
        gradients = torch.autograd.grad(F.mse_loss(logits.sigmoid(), y, reduction="sum") / X.shape[1], stacks)
        with torch.no_grad():
            for p, gradient in zip(stacks, gradients, strict=True):
                p -= rates.view(-1, *[1] * (p.ndim - 1)) * gradient


def _first_reach(seeds: list[int], n_epochs: int, loss: str, activation: type[nn.Module]) -> dict[str, torch.Tensor]:
    """For each rate: epochs until a training accuracy of 0.95 (n_epochs if never)."""
    copies = [seed for _ in RATES for seed in seeds]
    rates = torch.tensor([rate for rate in RATES for _ in seeds])
    X, y = disc_sets(copies)
    reach = torch.full((len(copies),), float(n_epochs))

    def evaluate(epoch, logits):
        accuracy = ((logits > 0) == (y > 0.5)).float().mean(dim=(1, 2))
        reach[(accuracy > 0.945) & (reach > epoch)] = epoch

    if loss == "mse":
        _squared_error(copies, rates, X, y, n_epochs, evaluate)
    else:

        def after(many):
            evaluate(10 * len(many.epochs), many.logits(X))
            return {"none": torch.zeros(len(copies))}

        settings = {"lr": rates, "n_epochs": n_epochs, "eval_every": 10, "evaluate": after, "strict": False}
        fit_many(lambda: network((2, 4, 4, 1), activation), X, y, seeds=copies, **settings)
    return {f"lr {rate} reach": part for rate, part in zip(RATES, reach.split(len(seeds)), strict=True)}


@recipe(
    "09_rates",
    seeds=200,
    n_epochs=3000,
    data=None,
    uses=(disc_points, network, disc_sets, histories, _squared_error, _first_reach),
    together=True,
    rates=RATES,
)
def rates(seeds: list[int], n_epochs: int, rates: tuple[float, ...]) -> list[History]:
    """ReLU with cross-entropy, ReLU with squared error, tanh with cross-entropy, at seven learning rates."""
    columns = {}
    for name, loss, activation in (("bce", "bce", nn.ReLU), ("mse", "mse", nn.ReLU), ("tanh", "bce", nn.Tanh)):
        by_rate = _first_reach(seeds, n_epochs, loss, activation)
        columns |= {f"{name} {column}": values[None] for column, values in by_rate.items()}
    return histories(columns, [n_epochs])
