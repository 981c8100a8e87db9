"""The one training loop: equal to a hand-written one, measured per image, resumed without a trace."""

import math
import os
import stat

import pytest
import torch
from torch import nn

from helpers.batches import Minibatches
from helpers.runtime import generator, seeded_weights
from helpers.training import History, evaluate, fit, load_checkpoint, save_checkpoint

loss_fn = nn.CrossEntropyLoss()


def toy(N=70, seed=0):
    """Return points in the plane and whether they lie inside a circle, as class indices."""
    X = torch.randn(N, 2, generator=generator("points", seed))
    return X, (X.norm(dim=1) < 1.1).long()


def network(seed=0, dropout=0.0):
    with seeded_weights(seed):
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2))


def batches(N=70, batch_size=16, seed=0):
    return Minibatches(*toy(N), batch_size, shuffle=generator("shuffle", seed))


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def assert_same_weights(one, other):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class Scripted(nn.Module):
    """Returns its input as logits, and notes in which mode and with which gradients it was called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return x * self.weight


# --- fit -----------------------------------------------------------------------------------------


def test_training_reduces_the_loss():
    model = network()
    history = fit(model, batches(), loss_fn, torch.optim.SGD(model.parameters(), lr=1.0), 120)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert evaluate(model, [toy()], loss_fn)["accuracy"] > 0.9


def test_fit_equals_a_loop_written_by_hand():
    ours, by_hand = network(), network()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    history = fit(ours, batches(), loss_fn, optimizer, 3)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    X, y = toy()
    order = generator("shuffle")
    for epoch in range(3):
        total = 0.0
        for rows in torch.randperm(len(X), generator=order).split(16):
            optimizer.zero_grad()
            loss = loss_fn(by_hand(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        assert math.isclose(history["loss"][epoch], total / len(X), rel_tol=1e-14)
    assert_same_weights(ours, by_hand)  # bit by bit


def test_fit_trains_in_training_mode_and_evaluates_in_eval_mode():
    model = Scripted().eval()
    X, y = toy(8)
    fit(model, [(X, y)], loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), 2, evaluate_on={"val": [(X, y)]})
    train, eval_ = (True, True), (False, False)  # (training mode, gradients)
    assert model.calls == [train, eval_, train, eval_]


def test_evaluating_during_training_changes_nothing():
    runs = []
    for evaluate_on in (None, {"val": Minibatches(*toy(33), 10)}):
        model = network(dropout=0.3)
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(model.parameters())
        fit(model, batches(), loss_fn, optimizer, 3, evaluate_on=evaluate_on)
        runs.append(model)
    assert_same_weights(*runs)


def test_evaluation_follows_eval_every_and_always_the_last_epoch():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sets = {"train": Minibatches(*toy(), 50), "val": Minibatches(*toy(20, seed=1), 50)}
    history = fit(model, batches(), loss_fn, optimizer, 7, evaluate_on=sets, eval_every=3)
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert history.epochs(column) == [3, 6, 7]
        assert len(history[column]) == 3
    assert history.epochs("loss") == history["epoch"] == [1, 2, 3, 4, 5, 6, 7]
    # The last row is that of the finished model.
    assert history["val_loss"][-1] == evaluate(model, sets["val"], loss_fn)["loss"]


def test_a_step_schedule_moves_after_each_minibatch():
    model, used = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    history = fit(model, batches(64, 32), loss_fn, optimizer, 2, step_schedule=schedule)
    assert used == [8.0, 4.0, 2.0, 1.0]
    assert history["lr"] == [2.0, 0.5]


def test_an_epoch_schedule_moves_after_each_epoch():
    model, used = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    history = fit(model, batches(64, 32), loss_fn, optimizer, 2, epoch_schedule=schedule)
    assert used == [8.0, 8.0, 4.0, 4.0]
    assert history["lr"] == [4.0, 2.0]


def test_the_loss_of_an_epoch_is_a_mean_over_images():
    # Batches of 3 and 1 images with known losses; the weights stay, since the rate is zero.
    model = Scripted()
    X = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 9.0]])
    y = torch.tensor([0, 0, 0, 0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = fit(model, Minibatches(X, y, 3), loss_fn, optimizer, 1)
    expected = (3 * math.log(2) + math.log1p(math.exp(9))) / 4
    assert history["loss"] == pytest.approx([expected], rel=1e-6)


def test_a_loss_that_is_not_a_number_stops_with_epoch_minibatch_and_rate():
    X, y = toy(40)
    poisoned = X.clone()
    poisoned[25] = math.nan

    class FromEpochTwo:
        epoch = 0

        def __iter__(self):
            self.epoch += 1
            return iter(Minibatches(X if self.epoch == 1 else poisoned, y, 10))

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    with pytest.raises(FloatingPointError) as error:
        fit(model, FromEpochTwo(), loss_fn, optimizer, 5)
    assert str(error.value) == (
        "The loss became nan in epoch 2, minibatch 3 of 4, at learning rate 0.125: "
        "lower the learning rate, or look for nan in the inputs."
    )


def test_the_rate_that_made_the_loss_explode_is_named_not_the_scheduled_next_one():
    model, factors = network(), iter([1, math.inf, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def explodes(logits, y):
        return loss_fn(logits, y) * next(factors)

    with pytest.raises(FloatingPointError, match="became inf in epoch 1, minibatch 2 of 3, at learning rate 4:"):
        fit(model, batches(30, 10), explodes, optimizer, 1, step_schedule=schedule)


@pytest.mark.parametrize(("n_epochs", "eval_every"), [(-1, 1), (1, 0)])
def test_impossible_numbers_of_epochs_are_refused(n_epochs, eval_every):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"n_epochs is {n_epochs} and eval_every {eval_every}"):
        fit(model, batches(), loss_fn, optimizer, n_epochs, eval_every=eval_every)


def test_empty_batches_are_refused():
    model = network()
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(model, [], loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(model, [], loss_fn)


def test_no_epochs_change_nothing():
    model = network()
    history = fit(model, batches(), loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), 0)
    assert len(history) == 0
    assert_same_weights(model, network())


# --- evaluate ------------------------------------------------------------------------------------


def test_evaluate_takes_means_over_images_not_over_batches():
    # 3 + 1 images: the wrong one is alone in its batch, so a mean over batches would say 0.5.
    X = torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    y = torch.zeros(4, dtype=torch.long)
    measured = evaluate(Scripted(), Minibatches(X, y, 3), loss_fn)
    assert measured["accuracy"] == 0.75
    right, wrong = math.log1p(math.exp(-9)), math.log1p(math.exp(9))
    assert measured["loss"] == pytest.approx((3 * right + wrong) / 4, rel=1e-5)
    whole = evaluate(Scripted(), [(X, y)], loss_fn)
    assert measured["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_evaluate_runs_in_eval_mode_without_gradients():
    model = Scripted().train()
    evaluate(model, [toy(4)], loss_fn)
    assert model.calls == [(False, False)]
    assert model.weight.grad is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("fails", [False, True])
def test_evaluate_puts_every_submodules_mode_back(fails):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    model[1].eval()  # frozen, as in fine-tuning
    before = [module.training for module in model.modules()]
    assert before == [True, True, False, True, True]
    broken = (torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))  # five features instead of two
    if fails:
        with pytest.raises(RuntimeError):
            evaluate(model, [toy(4), broken], loss_fn)
    else:
        evaluate(model, [toy(4)], loss_fn)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_evaluate_leaves_running_statistics_alone():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, batches(), loss_fn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_there_is_no_accuracy_for_targets_that_are_not_classes():
    X, _ = toy(6)
    assert evaluate(Scripted(), [(X, X * 0)], nn.MSELoss()) == {"loss": pytest.approx(float((X**2).mean()))}


# --- history -------------------------------------------------------------------------------------


def test_an_unknown_column_is_named_with_the_known_ones():
    history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4, "val_loss": 0.6}])
    assert history["val_loss"] == [0.6]
    assert history.epochs("val_loss") == [2]
    assert len(history) == 2
    with pytest.raises(KeyError, match="no column 'acc' in this history; it has epoch, loss, val_loss"):
        history["acc"]
    with pytest.raises(KeyError, match="no rows yet"):
        History()["loss"]


def test_histories_do_not_share_rows():
    one, other = History(), History()
    one.rows.append({"epoch": 1})
    assert len(other) == 0


# --- checkpoints ---------------------------------------------------------------------------------


class Run:
    """All the objects of a run whose every random part must be resumed: four streams and momentum."""

    def __init__(self, seed=0):
        self.model = nn.Sequential(nn.Flatten(), network(seed, dropout=0.3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2, momentum=0.9, nesterov=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.3, total_steps=10 * 5)
        self.generators = {"shuffle": generator("shuffle", seed), "augment": generator("augment", seed)}
        X, y = toy()
        self.batches = Minibatches(X.reshape(-1, 1, 1, 2), y, 16, flip=True, **self.generators)
        self.held_out = Minibatches(X.reshape(-1, 1, 1, 2), y, 50)

    def fit(self, n_epochs, history=None):
        return fit(
            self.model,
            self.batches,
            loss_fn,
            self.optimizer,
            n_epochs,
            step_schedule=self.schedule,
            evaluate_on={"val": self.held_out},
            history=history,
        )

    def save(self, path, history):
        save_checkpoint(
            path, self.model, self.optimizer, schedule=self.schedule, generators=self.generators, history=history
        )

    def load(self, path):
        return load_checkpoint(path, self.model, self.optimizer, schedule=self.schedule, generators=self.generators)


def test_five_epochs_and_five_after_a_checkpoint_equal_ten(tmp_path):
    torch.manual_seed(0)  # dropout draws from the global generator
    whole = Run()
    expected = whole.fit(10)

    torch.manual_seed(0)
    first = Run()
    first.save(tmp_path / "run.pt", first.fit(5))
    torch.manual_seed(99)
    torch.rand(1000)
    second = Run(seed=7)  # fresh objects, in another state in every respect
    history = second.load(tmp_path / "run.pt")
    assert len(history) == 5
    history = second.fit(5, history)

    assert_same_weights(second.model, whole.model)
    assert without_seconds(history) == without_seconds(expected)
    assert history["epoch"] == list(range(1, 11))
    for name, source in whole.generators.items():
        assert torch.equal(source.get_state(), second.generators[name].get_state()), name


@pytest.mark.parametrize("forgotten", ["schedule", "shuffle", "augment", "torch_rng"])
def test_each_part_of_a_checkpoint_is_needed(tmp_path, forgotten):
    # If leaving one out went unnoticed, the test above would prove nothing about it.
    torch.manual_seed(0)
    whole = Run()
    whole.fit(10)
    torch.manual_seed(0)
    first = Run()
    first.save(tmp_path / "run.pt", first.fit(5))
    torch.manual_seed(99)
    second = Run(seed=7)
    schedule, generators = second.schedule, dict(second.generators)
    before = torch.get_rng_state()
    if forgotten == "schedule":
        schedule = None
    generators.pop(forgotten, None)
    history = load_checkpoint(
        tmp_path / "run.pt", second.model, second.optimizer, schedule=schedule, generators=generators
    )
    if forgotten == "torch_rng":
        torch.set_rng_state(before)
    second.fit(5, history)
    assert not torch.equal(second.model[1][0].weight, whole.model[1][0].weight)


def test_a_checkpoint_can_be_read_without_trust(tmp_path):
    run = Run()
    run.save(tmp_path / "run.pt", run.fit(1))
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "schedule", "generators", "torch_rng", "history"}


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "code was run"),)

    torch.save({"model": Attack()}, tmp_path / "evil.pt")
    run = Run()
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        run.load(tmp_path / "evil.pt")
    assert not (tmp_path / "code was run").exists()


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failed_save_leaves_the_old_checkpoint_and_no_scratch(tmp_path, monkeypatch, failure):
    path = tmp_path / "run.pt"
    run = Run()
    run.save(path, run.fit(1))
    before = path.read_bytes()

    def breaks_off(state, file):
        file.write(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", breaks_off)
    with pytest.raises(failure):
        run.save(path, History())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_saved_again_over_the_old_one(tmp_path):
    path = tmp_path / "run.pt"
    run = Run()
    history = run.fit(1)
    run.save(path, history)
    history = run.fit(1, history)
    run.save(str(path), history)  # a text will do as path
    assert len(Run().load(str(path))) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_may_be_read_by_those_who_may_read_other_files(tmp_path):
    run = Run()
    run.save(tmp_path / "run.pt", None)
    (tmp_path / "other").touch()
    assert stat.S_IMODE((tmp_path / "run.pt").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_what_a_checkpoint_lacks_is_named_and_nothing_is_changed(tmp_path):
    run = Run(seed=1)
    save_checkpoint(tmp_path / "bare.pt", run.model, run.optimizer)
    other = Run(seed=2)
    with pytest.raises(KeyError, match=r"bare\.pt holds no shuffle, augment, schedule; it was saved without"):
        other.load(tmp_path / "bare.pt")
    assert_same_weights(other.model, Run(seed=2).model)
    with pytest.raises(FileNotFoundError):
        other.load(tmp_path / "none.pt")


def test_a_checkpoint_without_history_starts_one(tmp_path):
    run = Run()
    save_checkpoint(tmp_path / "bare.pt", run.model, run.optimizer)
    history = load_checkpoint(tmp_path / "bare.pt", run.model, run.optimizer)
    assert isinstance(history, History)
    assert len(history) == 0
