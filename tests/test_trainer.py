"""`helpers.trainer`: what it learns, keeps and repeats, and what it refuses."""

import copy
import io
import math
import sys

import pytest
import torch
from torch import nn

from helpers import trainer, training
from helpers.runtime import generator, seeded_weights
from helpers.trainer import Trainer


def data(N=43, seed=0):
    """Inputs N x 3 and targets N x 1 that depend on them."""
    X = torch.randn(N, 3, generator=generator("trainer data", seed))
    return X, X[:, :1] ** 2 - X[:, 1:2]


def make(lr=0.05, momentum=0.9, seed=0, loss_fn=None, **settings):
    with seeded_weights(seed):
        model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return Trainer(model, optimizer, loss_fn or nn.MSELoss(), batch_size=8, seed=seed, **settings)


@pytest.fixture
def sets():
    X, y = data()
    return X[:30], y[:30], X[30:], y[30:]


def weights(one):
    return nn.utils.parameters_to_vector(one.model.parameters()).detach().clone()


class Scripted(Trainer):
    """A trainer whose tuning losses are given: one a evaluation."""

    def script(self, losses):
        self.losses = iter(losses)
        return self

    def _checked_loss(self, outputs, targets):
        loss = super()._checked_loss(outputs, targets)
        return loss if torch.is_grad_enabled() else loss * 0 + next(self.losses)


def scripted(losses, **settings):
    one = make(**settings)
    return Scripted(one.model, one.optimizer, one.loss_fn, batch_size=8).script(losses)


# --- the optimizer --------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def test_all_parameter_groups_count():
    model = network()
    groups = [{"params": model[2].parameters(), "lr": 0.1}, {"params": model[0].parameters()}]
    trainer.check_optimizer(model, torch.optim.SGD(groups, lr=0.01))


def test_an_equal_copy_is_refused_even_with_one_element_each():
    for model in (network(), nn.Linear(1, 1)):
        optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
        n = len(list(model.parameters()))
        with pytest.raises(ValueError, match=f"lacks {n} of the model's {n} parameters .* holds {n} that are not"):
            Trainer(model, optimizer, nn.MSELoss())


def test_missing_parameters_are_named():
    model = network()
    with pytest.raises(ValueError, match=r"lacks 2 .* \(0\.weight, 0\.bias\) and holds 0"):
        trainer.check_optimizer(model, torch.optim.SGD(model[2].parameters(), lr=0.1))


def test_foreign_parameters_are_counted():
    model = network()
    with pytest.raises(ValueError, match=r"lacks 0 .* holds 2 that"):
        trainer.check_optimizer(model, torch.optim.SGD([*model.parameters(), *nn.Linear(1, 1).parameters()], lr=0.1))


def test_shared_parameters_count_once():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    trainer.check_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1))


# --- training -------------------------------------------------------------------------------------


def test_it_is_fit_over_shuffled_minibatches(sets):
    """The same weights and losses, number for number, as the loop of the house called by hand."""
    one, other = make(), make()
    one.fit(*sets, n_epochs=7, eval_every=3)
    from helpers.batches import Minibatches

    history = training.fit(
        other.model,
        Minibatches(sets[0], sets[1], 8, shuffle=generator("shuffle", 0)),
        nn.MSELoss(),
        other.optimizer,
        7,
        evaluate_on={"tune": [sets[2:]]},
        eval_every=3,
    )
    assert torch.equal(weights(one), weights(other))
    assert one.history["loss"] == history["loss"]
    assert one.history["tune_loss"] == history["tune_loss"]
    assert one.history.epochs("tune_loss") == [3, 6, 7]


def test_it_learns(sets):
    one = make()
    history = one.fit(*sets, n_epochs=60)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert one.evaluate(*sets[2:])["loss"] == history["tune_loss"][-1]


def test_the_seed_decides_the_order_and_every_epoch_has_another(sets):
    seen = []

    def loss_fn(outputs, targets):
        seen.append(targets.flatten().tolist())
        return nn.functional.mse_loss(outputs, targets)

    orders = []
    for seed in (3, 3, 4):
        seen.clear()
        make(seed=seed, loss_fn=loss_fn).fit(*sets[:2], n_epochs=2)
        flat = [value for batch in seen for value in batch]
        orders.append((flat[:30], flat[30:]))
        assert [len(batch) for batch in seen] == [8, 8, 8, 6] * 2
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == sorted(orders[0][1]) == sorted(sets[1].flatten().tolist())


def test_memorises_random_labels():
    g = generator("random labels")
    X, y = torch.randn(100, 784, generator=g), torch.randint(0, 10, (100,), generator=g)
    with seeded_weights(0):
        model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    one = Trainer(model, optimizer, nn.CrossEntropyLoss(), batch_size=20)
    assert one.evaluate(X, y)["loss"] == pytest.approx(math.log(10), abs=0.15)
    one.fit(X, y, n_epochs=40)
    after = one.evaluate(X, y)
    assert after["accuracy"] == 1
    assert after["loss"] < 0.1


def test_going_on_equals_never_having_stopped(sets):
    """Also when the halves do not end where `eval_every` divides; only the evaluations differ then."""
    whole, halves = make(), make()
    whole.fit(*sets, n_epochs=11, eval_every=4)
    for n in (3, 0, 8):
        halves.fit(*sets, n_epochs=n, eval_every=4)
    assert torch.equal(weights(whole), weights(halves))
    assert whole.history["loss"] == halves.history["loss"]
    assert whole.history.epochs("tune_loss") == [4, 8, 11]
    assert halves.history.epochs("tune_loss") == [3, 4, 8, 11]


def test_schedules_move_across_chunks(sets):
    one = make(lr=1.0, momentum=0.0)
    schedule = torch.optim.lr_scheduler.StepLR(one.optimizer, 1, 0.5)
    one.fit(*sets, n_epochs=5, eval_every=2, epoch_schedule=schedule)
    assert one.history["lr"] == [0.5**k for k in range(1, 6)]


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_neither_draws_nor_changes_the_model(sets):
    """With dropout and batch norm: evaluating more often leaves the weights as they were."""
    ends = []
    for every in (1, 20):
        with seeded_weights(0):
            model = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            one = Trainer(model, optimizer, nn.MSELoss(), batch_size=10)
            one.fit(*sets, n_epochs=6, eval_every=every)
        ends.append(torch.cat([value.flatten().double() for value in model.state_dict().values()]))
        assert model.training
    assert torch.equal(*ends)


def test_evaluation_keeps_no_graph(sets):
    modes = []

    def loss_fn(outputs, targets):
        modes.append((one.model.training, outputs.requires_grad))
        return nn.functional.mse_loss(outputs, targets)

    one = make(loss_fn=loss_fn)
    one.fit(*sets, n_epochs=2, eval_every=1)
    assert modes == ([(True, True)] * 4 + [(False, False)]) * 2
    assert all(type(value) is float for value in one.history["tune_loss"])


# --- the best weights -----------------------------------------------------------------------------


def test_the_best_weights_are_a_copy_of_those_with_the_lowest_tuning_loss(sets):
    one, short = scripted([5.0, 2.0, 3.0, 2.0]), make()
    one.fit(*sets, n_epochs=8, eval_every=2)
    assert (one.best_epoch, one.best_loss) == (4, 2.0)  # the first of two equal ones
    last = weights(one)
    assert one.restore_best() == 4
    short.fit(*sets, n_epochs=4, eval_every=2)
    assert torch.equal(weights(one), weights(short))
    assert not torch.equal(weights(one), last)


@pytest.mark.parametrize(
    ("losses", "patience", "stopped", "best"),
    [([3, 2, 4, 5, 6], 2, 8, 4), ([3, 2, 4, 1, 6, 7], 2, 12, 8), ([3, 4, 5, 6, 7, 8], None, 12, 2), ([1, 1], 1, 4, 2)],
)
def test_patience_counts_evaluations_without_a_new_best(sets, losses, patience, stopped, best):
    one = scripted([float(loss) for loss in losses])
    one.fit(*sets, n_epochs=12, eval_every=2, patience=patience)
    assert (len(one.history), one.best_epoch) == (stopped, best)


def test_a_stopped_run_can_be_continued_with_fresh_patience(sets):
    one = scripted([1.0, 2.0, 3.0, 4.0, 0.5, 6.0])
    one.fit(*sets, n_epochs=9, eval_every=1, patience=2)
    assert len(one.history) == 3
    one.fit(*sets, n_epochs=3, eval_every=1, patience=2)
    assert (len(one.history), one.best_epoch) == (6, 5)


def test_the_best_checkpoint_on_disk_goes_on_as_the_run_did(sets, tmp_path):
    one = scripted([5.0, 2.0, 3.0, 4.0])
    path = tmp_path / "best.pt"
    one.fit(*sets, n_epochs=8, eval_every=2, checkpoint=path)
    other = make(seed=7)
    other.shuffle = generator("another")
    other.history = training.load_checkpoint(path, other.model, other.optimizer, generators={"shuffle": other.shuffle})
    assert len(other.history) == 4
    other.fit(*sets, n_epochs=4, eval_every=2)
    assert torch.equal(weights(one), weights(other))
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_run_read_from_a_checkpoint_remembers_its_best(sets, tmp_path):
    """Worse losses after the file was read neither become the best nor overwrite the file."""
    one, path = scripted([2.0, 1.0, 3.0]), tmp_path / "best.pt"
    one.fit(*sets, n_epochs=6, eval_every=2, checkpoint=path)
    written = path.read_bytes()
    other = scripted([3.0, 2.0], seed=7)
    other.history = training.load_checkpoint(path, other.model, other.optimizer, generators={"shuffle": other.shuffle})
    saved = weights(other)
    other.fit(*sets, n_epochs=4, eval_every=2, checkpoint=path)
    assert (other.best_epoch, other.best_loss) == (4, 1.0)
    assert path.read_bytes() == written
    assert not torch.equal(weights(other), saved)
    assert other.restore_best() == 4
    assert torch.equal(weights(other), saved)


def test_training_after_restoring_is_refused(sets):
    one = make()
    one.fit(*sets, n_epochs=2, eval_every=1)
    one.restore_best()
    with pytest.raises(RuntimeError, match="new optimizer and Trainer"):
        one.fit(*sets, n_epochs=1)


def test_there_is_nothing_to_restore_without_tuning_data(sets):
    one = make()
    one.fit(*sets[:2], n_epochs=1)
    assert "tune_loss" not in one.history.rows[-1]
    with pytest.raises(RuntimeError, match="no best weights"):
        one.restore_best()


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["train", "tune"])
@pytest.mark.parametrize(("keep", "sentence"), [(5, "equally long"), (0, "no items")])
def test_unequal_and_empty_data_are_refused_before_a_step(sets, spoil, keep, sentence):
    one = make()
    start = weights(one)
    X_train, y_train, X_tune, y_tune = sets
    if spoil == "train":
        X_train, y_train = X_train[:keep], y_train[: 4 * keep]
    else:
        X_tune, y_tune = X_tune[:keep], y_tune[: 2 * keep]
    with pytest.raises(ValueError, match=sentence):
        one.fit(X_train, y_train, X_tune, y_tune, n_epochs=1)
    assert torch.equal(weights(one), start)
    assert len(one.history) == 0


def test_float_targets_must_be_shaped_like_the_outputs(sets):
    X_train, y_train, *_ = sets
    one = make()
    start = weights(one)
    with pytest.raises(ValueError, match=r"outputs have shape \(8, 1\), the targets \(8,\)"):
        one.fit(X_train, y_train[:, 0], n_epochs=1)
    assert torch.equal(weights(one), start)


def test_class_indices_need_no_shape_of_outputs():
    X = torch.randn(12, 3, generator=generator("classes"))
    model = nn.Linear(3, 4)
    one = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    one.fit(X, torch.arange(12) % 4, n_epochs=2)
    assert set(one.evaluate(X, torch.arange(12) % 4)) == {"loss", "accuracy"}


def test_a_loss_that_is_no_number_stops_and_keeps_the_best(sets):
    one = make()
    one.fit(*sets, n_epochs=4, eval_every=2)
    best = copy.deepcopy(one.best_state)
    one.optimizer.param_groups[0]["lr"] = 1e9
    with pytest.raises(FloatingPointError, match="learning rate"):
        one.fit(*sets, n_epochs=40, eval_every=20)
    one.restore_best()
    assert all(torch.equal(best[name], value) for name, value in one.model.state_dict().items())


def test_a_tuning_loss_that_is_no_number_stops(sets):
    X_train, y_train, X_tune, y_tune = sets
    with pytest.raises(FloatingPointError, match="tuning loss is nan in epoch 2"):
        make().fit(X_train, y_train, X_tune * float("nan"), y_tune, n_epochs=3, eval_every=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_epochs": -1}, "at least 0 and 1"),
        ({"n_epochs": 1, "eval_every": 0}, "at least 0 and 1"),
        ({"n_epochs": 1, "patience": 0}, "patience"),
    ],
)
def test_impossible_settings_are_refused(sets, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make().fit(*sets, **settings)


def test_patience_and_targets_need_tuning_data(sets):
    with pytest.raises(ValueError, match="patience"):
        make().fit(*sets[:2], n_epochs=1, patience=1)
    with pytest.raises(ValueError, match="come together"):
        make().fit(*sets[:3], n_epochs=1)


# --- progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def __init__(self, watched):
        super().__init__()
        self.watched = watched

    def isatty(self):
        return self.watched


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_shown_on_a_terminal_only(sets, monkeypatch, watched):
    monkeypatch.setattr(sys, "stderr", Terminal(watched))
    make().fit(*sets, n_epochs=4, eval_every=2)
    assert ("4/4" in sys.stderr.getvalue()) == watched
    assert bool(sys.stderr.getvalue()) == watched
