"""`helpers.distributed`: equal to one process, through a killed worker too; shards, and what it refuses."""

import json
import socket
import subprocess
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DistributedSampler

from helpers import distributed, training
from helpers.batches import Minibatches
from helpers.distributed import Shards
from helpers.runtime import generator, seeded_weights

N_EPOCHS, BATCH_SIZE = 3, 16


def images(N, purpose):
    """Noisy copies of ten patterns, and which one it was."""
    patterns = torch.randn(10, 1, 28, 28, generator=generator("patterns of the digits"))
    y = torch.randint(0, 10, (N,), generator=generator(f"labels {purpose}"))
    return patterns[y] + 2 * torch.randn(N, 1, 28, 28, generator=generator(f"noise {purpose}")), y


@pytest.fixture(scope="module")
def data():
    """300 images to learn from: the last minibatch is short. 101 to tune with: unequal shares."""
    (X, y), (X_tune, y_tune) = images(300, "train"), images(101, "tune")
    return {"X_train": X, "y_train": y, "X_tune": X_tune, "y_tune": y_tune}


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    torch.save(data, folder / "digits.pt")
    return folder


def started(folder, n_processes, name, *arguments, **options):
    """Run the program; return what was printed and the checkpoint."""
    settings = ["--checkpoint", folder / name, "--batch-size", BATCH_SIZE, "--epochs", N_EPOCHS, *arguments]
    run = distributed.launch(n_processes, folder / "digits.pt", *settings, **options)
    assert run.returncode == 0, run.stderr
    return run.stdout, torch.load(folder / name, weights_only=True)


@pytest.fixture(scope="module")
def two(folder):
    return started(folder, 2, "two.pt")


def assert_same_run(one, other):
    """Weights, momenta, losses and accuracies agree up to rounding."""
    torch.testing.assert_close(one["model"], other["model"], rtol=1e-3, atol=1e-5)
    momenta = [[state["momentum_buffer"] for state in run["optimizer"]["state"].values()] for run in (one, other)]
    torch.testing.assert_close(*momenta, rtol=1e-3, atol=1e-5)
    assert len(one["history"]) == len(other["history"]) == N_EPOCHS
    for row, same in zip(one["history"], other["history"]):
        for column in ("loss", "tune_loss"):
            assert row[column] == pytest.approx(same[column], rel=1e-3)
        assert row["tune_accuracy"] == pytest.approx(same["tune_accuracy"], abs=0.011)  # one image of 101


# --- processes ----------------------------------------------------------------------------------


def test_equal_global_batch_gives_equal_results(folder, data, two):
    """One process under the plain command line, two processes, and `fit` without any of it."""
    _, one = started(folder, 1, "one.pt", forks=False)
    assert_same_run(one, two[1])

    with seeded_weights(0):
        network = distributed.conv_net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    shards = Shards(data["X_train"], data["y_train"], BATCH_SIZE, DistributedSampler(data["X_train"], 1, 0))
    tune = {"tune": Minibatches(data["X_tune"], data["y_tune"], 500)}
    history = training.fit(network, shards, nn.CrossEntropyLoss(), optimizer, N_EPOCHS, evaluate_on=tune)
    plain = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "history": history.rows}
    assert_same_run(plain, one)
    assert history["loss"][-1] < 0.7 * history["loss"][0]  # something was learned


def test_killed_worker_ends_with_the_same_result(folder, two):
    printed, killed = started(folder, 2, "killed.pt", "--kill", 2, restarts=1)
    assert "process 1 is killed in epoch 2" in printed
    lives = [line for line in printed.splitlines() if line.startswith("life")]
    assert lives == ["life 1 begins after 0 epochs", "life 2 begins after 1 epochs"]
    for name, weight in two[1]["model"].items():
        assert torch.equal(weight, killed["model"][name]), name
    losses = [[row["loss"] for row in run["history"]] for run in (two[1], killed)]
    assert losses[0] == losses[1]


def test_a_run_that_takes_too_long_is_ended(folder):
    psutil = pytest.importorskip("psutil")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(subprocess.TimeoutExpired):
        distributed.launch(1, folder / "digits.pt", "--checkpoint", folder / "never.pt", timeout=0.2)
    assert not set(psutil.Process().children(recursive=True)) - before


# --- in this process ----------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """The environment that torchrun gives to a single process."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    about = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    for name, value in (about | {"MASTER_ADDR": "localhost", "MASTER_PORT": port}).items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def group(alone):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_goes_on_with_a_run_of_two(alone, folder, data, two, tmp_path, capsys):
    """The number of processes is no part of the state."""
    path = tmp_path / "run.pt"
    torch.save(two[1], path)
    more = ["--batch-size", str(BATCH_SIZE), "--epochs", str(N_EPOCHS + 1)]
    assert distributed.main([str(folder / "digits.pt"), "--checkpoint", str(path), *more]) == 0
    assert f"life 1 begins after {N_EPOCHS} epochs" in capsys.readouterr().out
    rows = torch.load(path, weights_only=True)["history"]
    assert [row["epoch"] for row in rows] == list(range(1, N_EPOCHS + 2))
    assert rows[:-1] == two[1]["history"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not dist.is_initialized()


def test_measure(group):
    networks = {"dense": distributed.dense_net(7), "conv": distributed.conv_net()}
    rows = distributed.measure(networks, [2, 3], torch.device("cpu"), repeats=2)
    assert [(row["network"], row["batch_size"]) for row in rows] == [
        *(("dense", 2), ("dense", 3)),
        *(("conv", 2), ("conv", 3)),
    ]
    assert rows[0]["n_parameters"] == 785 * 7 + 8 * 10
    assert all(row[kind] > 0 for row in rows for kind in ("alone", "together", "all_reduce"))
    json.dumps(rows)


def test_mean_over_one_process_is_its_own(group):
    assert distributed.mean_over(0.25, 8) == 0.25


@pytest.mark.parametrize(("restarts", "life"), [(None, 1), ("0", 1), ("2", 3)])
def test_life(restarts, life, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    assert distributed.life() == life


# --- shards -------------------------------------------------------------------------------------


def walked(N, n_processes, rank, batch_size, n_epochs=1, done=0):
    """The items that a process sees, a list an epoch."""
    items = torch.arange(N)
    sampler = DistributedSampler(items, n_processes, rank, seed=4)
    shards = Shards(items, items, batch_size, sampler, done=done)
    epochs = []
    for _ in range(n_epochs):
        sizes = [len(X) for X, _ in shards]
        assert len(sizes) == len(shards)
        shards.done -= 1  # look at the same epoch again, for its items
        epochs.append(torch.cat([X for X, _ in shards]).tolist())
        assert all(size == batch_size for size in sizes[:-1])
        assert sum(sizes) == len(epochs[-1])
    return epochs


@pytest.mark.parametrize(("N", "n_processes"), [(12, 2), (13, 2), (10, 4), (5, 1), (2, 3)])
def test_shards_are_equally_long_and_leave_nothing_out(N, n_processes):
    """Where the items do not go up, some are repeated: as many as are missing."""
    hands = [walked(N, n_processes, rank, batch_size=2)[0] for rank in range(n_processes)]
    n_each = -(-N // n_processes)
    assert [len(hand) for hand in hands] == [n_each] * n_processes
    dealt = [item for hand in hands for item in hand]
    assert set(dealt) == set(range(N))
    assert len(dealt) - len(set(dealt)) == -N % n_processes


def test_shards_of_a_step_are_the_minibatch_of_one_process():
    whole = walked(20, 1, 0, batch_size=6)[0]
    halves = [walked(20, 2, rank, batch_size=3)[0] for rank in (0, 1)]
    assert whole == [item for pair in zip(*halves) for item in pair]


def test_each_epoch_has_its_own_order_and_a_restart_finds_it():
    epochs = walked(40, 2, 1, batch_size=7, n_epochs=4)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert walked(40, 2, 1, batch_size=7, n_epochs=2, done=2) == epochs[2:]


# --- what is refused ----------------------------------------------------------------------------


def refusal(capsys, *arguments):
    assert distributed.main([*map(str, arguments), "--checkpoint", "never.pt"]) == 2
    sentence = capsys.readouterr().err.strip()
    assert "\n" not in sentence
    return sentence


def test_started_without_torchrun(monkeypatch, folder, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert "torchrun --standalone --nproc-per-node 2" in refusal(capsys, folder / "digits.pt")


def test_a_batch_that_cannot_be_shared(alone, monkeypatch, folder, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    sentence = refusal(capsys, folder / "digits.pt", "--batch-size", 64)
    assert "3 processes cannot share minibatches of 64" in sentence


def test_only_the_first_process_speaks(alone, monkeypatch, folder, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert refusal(capsys, folder / "digits.pt") == ""


def test_missing_data(alone, tmp_path, capsys):
    assert "there is no file nothing.pt" in refusal(capsys, tmp_path / "nothing.pt")


def test_more_processes_than_gpus(alone, monkeypatch, folder, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 2))
    assert "4 processes need as many GPUs, and this machine has 2" in refusal(
        capsys, folder / "digits.pt", "--device", "cuda"
    )
