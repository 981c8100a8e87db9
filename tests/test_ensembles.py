"""Copies trained together end where each would end by itself, and wrong use ends in a sentence."""

import pytest
import torch
from torch import nn

from helpers import ensembles
from helpers.batches import Minibatches
from helpers.runtime import generator, seeded_weights
from helpers.training import fit

SEEDS = [3, 0, 11]
ALONE = {"bce": nn.BCEWithLogitsLoss(), "ce": nn.CrossEntropyLoss(), "mse": nn.MSELoss()}


def network(width=(4,), activation=nn.ReLU, inputs=2, outputs=1):
    """Return a function that makes a network with these hidden widths."""

    def make_model():
        layers, previous = [], inputs
        for H in width:
            layers += [nn.Linear(previous, H), activation()]
            previous = H
        return nn.Sequential(*layers, nn.Linear(previous, outputs))

    return make_model


def points(N=23, inputs=2, outputs=1, loss="bce", copies=None):
    """Return inputs and targets for `loss`, shared, or one set for each of `copies`."""
    if copies is not None:
        sets = [points(N, inputs, outputs, loss) for _ in range(copies)]
        sets = [(X + i / 4, y.roll(i, dims=0)) for i, (X, y) in enumerate(sets)]
        return tuple(torch.stack(values) for values in zip(*sets, strict=True))
    X = torch.randn(N, inputs, generator=generator("points"))
    values = X.norm(dim=1, keepdim=True) * torch.arange(1, outputs + 1)
    y = {"bce": (values < 1.1).float(), "ce": values[:, 0].long() % outputs, "mse": values}[loss]
    return X, y


def alone(i, make_model, X, y, *, loss="bce", lr=0.05, n_epochs=30, batch_size=None, optimizer="sgd", momentum=0.0):
    """Train copy `i` by itself; return the model and its training loss at the end."""
    with seeded_weights(SEEDS[i]):
        model = make_model()
    if X.ndim == 3:
        X, y = X[i], y[i]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    settings = {"momentum": momentum} if optimizer == "sgd" else {}
    rate = lr[i] if isinstance(lr, list) else lr
    steps = kinds[optimizer](model.parameters(), lr=rate, **settings)
    shuffle = None if batch_size is None else generator("shuffle", SEEDS[i])
    fit(model, Minibatches(X, y, batch_size or len(X), shuffle=shuffle), ALONE[loss], steps, n_epochs)
    return model, ALONE[loss](model(X), y).detach()


def assert_equal_to_training_alone(make_model, X, y, **settings):
    many = ensembles.fit_many(make_model, X, y, **{"seeds": SEEDS, "n_epochs": 30, **settings})
    logits, losses = many.logits(X), many.losses()
    for i in range(len(SEEDS)):
        model, loss = alone(i, make_model, X, y, **settings)
        for ours, theirs in zip(many.model(i).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        expected = model(X if X.ndim == 2 else X[i])
        torch.testing.assert_close(logits[i], expected.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[i], loss, rtol=1e-4, atol=1e-5)


OPTIMIZERS = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9},
    "adam": {"lr": 0.01, "optimizer": "adam"},
}


# --- equal to one by one -------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [None, len(SEEDS)], ids=["shared", "per-copy"])
@pytest.mark.parametrize("batch_size", [None, 5], ids=["full", "minibatch"])
@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 2), ("ce", 3), ("mse", 1), ("mse", 2)])
def test_equal_to_training_alone(loss, outputs, settings, batch_size, copies):
    X, y = points(outputs=outputs, loss=loss, copies=copies)
    n_epochs = 30 if batch_size is None else 6
    make_model = network((4, 3), outputs=outputs)
    assert_equal_to_training_alone(make_model, X, y, loss=loss, batch_size=batch_size, n_epochs=n_epochs, **settings)


@pytest.mark.parametrize("batch_size", [None, 5], ids=["full", "minibatch"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("width", [(), (4,), (4, 5), (3, 4, 5)], ids=len)
def test_every_depth_and_activation(width, activation, batch_size):
    make_model = network(width, activation, inputs=3)
    assert_equal_to_training_alone(make_model, *points(inputs=3), batch_size=batch_size, lr=0.1, n_epochs=10)


def test_a_hidden_layer_without_activation_and_mixed_activations():
    def make_model():
        return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))

    assert_equal_to_training_alone(make_model, *points(), lr=0.1)


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_one_learning_rate_a_copy(settings):
    settings = {**settings, "lr": [0.001, 0.01, 0.1]}
    assert_equal_to_training_alone(network(), *points(), **settings)


def test_float64_and_targets_without_a_last_axis():
    X, y = points(loss="mse")
    many = ensembles.fit_many(
        lambda: network()().double(), X.double(), y[:, 0].double(), seeds=SEEDS, loss="mse", n_epochs=30
    )
    model, loss = alone(1, lambda: network()().double(), X.double(), y.double(), loss="mse")
    torch.testing.assert_close(many.losses()[1], loss)
    torch.testing.assert_close(many.logits(X.double())[1], model(X.double()).detach())


def test_a_batch_as_large_as_the_data_or_larger():
    X, y = points()
    full = ensembles.fit_many(network(), X, y, seeds=SEEDS, n_epochs=30)
    for batch_size in (len(X), 10 * len(X)):
        batches = ensembles.fit_many(network(), X, y, seeds=SEEDS, n_epochs=30, batch_size=batch_size)
        torch.testing.assert_close(full.losses(), batches.losses())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch_size", [None, 5], ids=["full", "minibatch"])
def test_the_same_on_a_gpu(batch_size):
    X, y = points()
    settings = {"seeds": SEEDS, "n_epochs": 10, "batch_size": batch_size, "lr": [0.01, 0.05, 0.1]}
    many = ensembles.fit_many(network((4, 3)), X.cuda(), y.cuda(), **settings)
    expected = ensembles.fit_many(network((4, 3)), X, y, **settings)
    assert many.losses().device.type == next(many.model(0).parameters()).device.type == "cuda"
    torch.testing.assert_close(many.losses().cpu(), expected.losses(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(many.measured["loss"], expected.measured["loss"], rtol=1e-4, atol=1e-5)


# --- what comes back -----------------------------------------------------------------------------


def test_no_epochs_leave_the_initial_weights():
    many = ensembles.fit_many(network(), *points(), seeds=SEEDS, n_epochs=0)
    for i, seed in enumerate(SEEDS):
        with seeded_weights(seed):
            expected = network()()
        for ours, theirs in zip(many.model(i).parameters(), expected.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert many.epochs == []
    assert many.measured == {}


def test_a_model_has_weights_of_its_own():
    X, y = points()
    many = ensembles.fit_many(network(), X, y, seeds=SEEDS, n_epochs=3)
    before, model = many.losses(), many.model(-1)
    torch.testing.assert_close(model(X), many.logits(X)[2])
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(many.losses(), before)


def test_logits_of_new_points_shared_and_one_set_a_copy():
    many = ensembles.fit_many(network(outputs=2), *points(outputs=2), seeds=SEEDS, n_epochs=3)
    X = torch.randn(len(SEEDS), 7, 2, generator=generator("new"))
    assert many.logits(X[0]).shape == (len(SEEDS), 7, 2)
    torch.testing.assert_close(many.logits(X)[1], many.logits(X[1])[1])


def test_evaluated_every_few_epochs_and_at_the_end():
    X, y = points()
    seen = []

    def evaluate(many):
        seen.append(many.epochs[-1])
        correct = (many.logits(X) > 0) == (y > 0)
        return {"loss": many.losses(), "correct": correct.sum(dim=(1, 2)), "epoch": many.epochs[-1:] * 3}

    many = ensembles.fit_many(network(), X, y, seeds=SEEDS, n_epochs=7, eval_every=3, evaluate=evaluate)
    assert many.epochs == seen == [3, 6, 7]
    assert many.measured["epoch"].tolist() == [[3] * 3, [6] * 3, [7] * 3]
    assert many.measured["correct"].dtype == torch.int64
    for epoch, losses in zip(many.epochs, many.measured["loss"], strict=True):
        shorter = ensembles.fit_many(network(), X, y, seeds=SEEDS, n_epochs=epoch)
        torch.testing.assert_close(losses, shorter.losses())


def test_without_evaluate_the_losses_are_measured():
    many = ensembles.fit_many(network(), *points(), seeds=SEEDS, n_epochs=4, eval_every=2)
    assert many.epochs == [2, 4]
    assert torch.equal(many.measured["loss"][-1], many.losses())
    many = ensembles.fit_many(network(), *points(), seeds=SEEDS, n_epochs=4)
    assert many.epochs == [4]


def test_reproducible_and_leaves_the_data_and_the_global_generator_alone():
    X, y = points()
    X_before, y_before, state = X.clone(), y.clone(), torch.get_rng_state()
    settings = {"seeds": SEEDS, "n_epochs": 5, "batch_size": 5}
    one, other = (ensembles.fit_many(network(), X, y, **settings) for _ in range(2))
    assert torch.equal(one.logits(X), other.logits(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(X, X_before)
    assert torch.equal(y, y_before)


def test_a_copy_does_not_depend_on_its_neighbours():
    X, y = points()
    together = ensembles.fit_many(network(), X, y, seeds=range(70), n_epochs=20)
    few = ensembles.fit_many(network(), X, y, seeds=[5, 69], n_epochs=20)
    torch.testing.assert_close(together.logits(X)[[5, 69]], few.logits(X), rtol=1e-4, atol=1e-5)


# --- copies that diverge -------------------------------------------------------------------------

WILD = {"seeds": SEEDS, "loss": "mse", "lr": [0.01, 1e6, 0.01], "n_epochs": 30}


def test_a_copy_that_diverges_is_noticed():
    X, y = points(loss="mse")
    with pytest.raises(FloatingPointError, match=r"By epoch \d0 the loss of 1 of 3 copies .* seed 0\): lower lr"):
        ensembles.fit_many(network((), inputs=2), X, y, eval_every=10, **{**WILD, "lr": [0.01, 40.0, 0.01]})


def test_a_copy_that_diverges_may_be_kept_and_leaves_the_others_alone():
    X, y = points(loss="mse")
    many = ensembles.fit_many(network(), X, y, strict=False, **WILD)
    calm = ensembles.fit_many(network(), X, y, **{**WILD, "lr": 0.01})
    assert many.losses().isfinite().tolist() == [True, False, True]
    torch.testing.assert_close(many.losses()[[0, 2]], calm.losses()[[0, 2]])
    assert many.measured["loss"].isfinite().tolist() == [[True, False, True]]


# --- wrong use -----------------------------------------------------------------------------------


def many_layers(*layers):
    return lambda: nn.Sequential(*layers)


X, Y = points()
X3, Y3 = points(copies=3)
WRONG = {
    "loss name": ({"loss": "hinge"}, r"loss='hinge' is not known; use one of bce, ce, mse\."),
    "optimizer name": ({"optimizer": "lion"}, r"optimizer='lion' is not known; use one of sgd, adam\."),
    "momentum in Adam": ({"optimizer": "adam", "momentum": 0.9}, "momentum belongs to optimizer='sgd'"),
    "epochs": ({"n_epochs": -1}, "n_epochs must be at least 0"),
    "batch size": ({"batch_size": 0}, "batch_size and eval_every at least 1"),
    "eval_every": ({"eval_every": 0}, "batch_size and eval_every at least 1"),
    "no seeds": ({"seeds": []}, "seeds is empty; name at least one"),
    "learning rates": ({"lr": [0.1, 0.2]}, r"lr has shape \(2,\); give one number, or 3 of them, one a copy"),
    "not Sequential": ({"make_model": lambda: nn.Linear(2, 1)}, "returned a Linear; it must return an nn.Sequential"),
    "layer": ({"make_model": many_layers(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 1))}, "GELU.* cannot stand here"),
    "no bias": ({"make_model": many_layers(nn.Linear(2, 1, bias=False))}, "use Linear with bias"),
    "two activations": (
        {"make_model": many_layers(nn.Linear(2, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 1))},
        r"Tanh\(\) cannot stand here",
    ),
    "sigmoid at the end": ({"make_model": many_layers(nn.Linear(2, 1), nn.Sigmoid())}, "must end in a Linear layer"),
    "no layer": ({"make_model": many_layers()}, "must end in a Linear layer"),
    "copies differ": (
        {"make_model": lambda: network((torch.randint(2, 9, ()).item(),))()},
        "networks of different layers; all copies must be alike",
    ),
    "features": ({"X": X[:, :1]}, r"X has shape \(23, 1\); it must be N x 2, or 3 x N x 2"),
    "one axis": ({"X": X[:, 0]}, r"X has shape \(23,\)"),
    "copies of X": ({"X": X3[:2], "y": Y3[:2]}, r"X has shape \(2, 23, 2\); it must be N x 2, or 3 x N x 2"),
    "lengths": ({"y": Y[:-1]}, r"X has shape \(23, 2\) and y \(22, 1\); they must hold equally many points"),
    "y shared, X not": ({"X": X3}, "they must hold equally many points"),
    "no points": ({"X": X[:0], "y": Y[:0]}, "X holds no points; there is nothing to train on"),
    "float64 inputs": ({"X": X.double()}, r"X is torch\.float64 and the weights are torch\.float32; convert X"),
    "integer targets": ({"y": Y.long()}, r"y is torch\.int64; loss 'bce' needs torch\.float32"),
    "target shape": (
        {"y": torch.cat([Y, Y], dim=1)},
        r"y has shape \(23, 2\); loss 'bce' of 1 outputs needs \(23, 1\)",
    ),
    "target values": ({"y": 2 * Y - 1}, r"y runs from -1\.0 to 1\.0; loss 'bce' needs targets from 0 to 1"),
    "class shape": ({"loss": "ce", "y": Y.long()}, r"y has shape \(23, 1\); loss 'ce' of 1 outputs needs \(23,\)"),
    "class dtype": ({"loss": "ce", "y": Y[:, 0]}, r"y is torch\.float32; loss 'ce' needs torch\.int64"),
    "class values": ({"loss": "ce", "y": Y[:, 0].long()}, "y runs from 0 to 1; loss 'ce' needs targets from 0 to 0"),
    "evaluate": (
        {"evaluate": lambda many: {"loss": many.losses().mean()}},
        r"evaluate gave 'loss' of shape \(\); give one number a copy",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_use_ends_in_a_sentence(change, sentence):
    settings = {"make_model": network(), "X": X, "y": Y, "seeds": SEEDS, "n_epochs": 2, **change}
    with pytest.raises(ValueError, match=sentence) as caught:
        ensembles.fit_many(settings.pop("make_model"), settings.pop("X"), settings.pop("y"), **settings)
    assert str(caught.value).endswith(".")
