"""The loop of the house in several processes at once, each with its share of every minibatch.

Introduced in chapter 17. The module is also the program that torchrun starts, here on two CPU cores:
``torchrun --standalone --nproc-per-node 2 -m helpers.distributed digits.pt --checkpoint run.pt``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DistributedSampler

from helpers import training
from helpers.batches import Minibatches
from helpers.runtime import generator, seeded_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOME = Path(__file__).resolve().parents[1]
# Imports all that workers need, becomes torchrun, and forks the workers.
WARM = "import torch._dynamo, torch.distributed.run as run; run.main()"


class SetupError(Exception):
    """Why a run cannot start, in one sentence."""


def conv_net() -> nn.Sequential:
    """Return chapter 17's network for digits: 4 and 8 channels, all smooth, so that rounding errors stay small."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(2), nn.Tanh()),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.AvgPool2d(2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8 * 7 * 7, 10)),
    )


def dense_net(width: int) -> nn.Sequential:
    """Return a fully connected network for digits: 28 x 28 pixels, `width` ReLU units, 10 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, width), nn.ReLU(), nn.Linear(width, 10))


class Shards:
    """Walk over one process's share of `X` and `y` in minibatches; each walk is one epoch.

    The order is a function of the sampler's seed and the epoch, so a run that goes on from a
    checkpoint has no generator to carry: it says how many epochs are `done`.

    Parameters
    ----------
    sampler : torch.utils.data.DistributedSampler
        Deals out the rows.
    batch_size : int
        Items that this process takes at a step.
    done : int
        Epochs that the run has behind it.
    device : torch.device, optional
        Where the minibatches are wanted; only they are moved there, the data stay where they are.
    """

    def __init__(self, X, y, batch_size: int, sampler: DistributedSampler, *, done: int = 0, device=None):
        self.X, self.y = X, y
        self.batch_size, self.sampler = batch_size, sampler
        self.done, self.device = done, device

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.sampler.set_epoch(self.done)
        self.done += 1
        rows = torch.tensor(list(self.sampler))
        for some in rows.split(self.batch_size):
            yield self.X[some].to(self.device), self.y[some].to(self.device)


class Rehearsal(Shards):
    """Shards whose process is killed in the middle of epoch `kill`, as if its machine had lost power."""

    kill = 0

    def __iter__(self):
        for step, batch in enumerate(super().__iter__()):
            if self.done == self.kill and step == len(self) // 2:
                print(f"  process {dist.get_rank()} is killed in epoch {self.done}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def life() -> int:
    """Return 1 for workers started first, 2 after the first restart, and so on."""
    return 1 + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def mean_over(value: float, n: int, device: torch.device | None = None) -> float:
    """Return the mean over the items of all processes, from this one's mean `value` over its `n` items.

    Sums and counts are added up, then divided: a mean of means would weigh every process alike.
    """
    sums = torch.tensor([value * n, n], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).item()


def train(data, chosen, device) -> training.History:
    """Train with all processes; process 0 writes."""
    with seeded_weights(chosen.seed):
        network = conv_net().to(device)
    model = DistributedDataParallel(network)
    optimizer = SGD(model.parameters(), chosen.lr, momentum=0.9)
    path, history = chosen.checkpoint, training.History()
    run = (network, optimizer)
    if path.exists():
        history = training.load_checkpoint(path, *run)
    say(f"life {life()} begins after {len(history)} epochs")
    shards, tune = shares(data, chosen, len(history), device)
    n_own, n_tune = len(shards.sampler), len(tune.X)
    job = (model, shards, nn.CrossEntropyLoss(), optimizer)
    while len(history) < chosen.epochs:
        row = training.fit(*job, 1, history=history).rows[-1]
        row["loss"] = mean_over(row["loss"], n_own, device)
        own = training.evaluate(network, tune, job[2])
        for name, value in own.items():
            mean = mean_over(value, n_tune, device)
            row[f"tune_{name}"] = mean
        say(f"  epoch {len(history)}: loss {row['loss']:.3f}")
        if dist.get_rank() == 0:
            about = {"history": history}
            training.save_checkpoint(path, *run, **about)
    return history


def shares(data, chosen, done: int, device: torch.device) -> tuple[Shards, Minibatches]:
    """Return this process's part of the training set, dealt out anew each epoch, and of the tuning set.

    The tuning set is cut without padding: an item shown twice would count twice.
    """
    rank, n_processes = dist.get_rank(), dist.get_world_size()
    X, y = data["X_train"], data["y_train"]
    sampler = DistributedSampler(X, n_processes, rank, seed=chosen.seed)
    shards = Rehearsal(X, y, chosen.batch_size // n_processes, sampler, done=done, device=device)
    if chosen.kill and life() == 1 and rank == n_processes - 1:
        shards.kill = chosen.kill
    own = slice(rank, None, n_processes)
    return shards, Minibatches(data["X_tune"][own], data["y_tune"][own], 500, device=device)


def say(text: str) -> None:
    """Print from the first process only."""
    if dist.get_rank() == 0:
        print(text, flush=True)


# --- what communication costs -------------------------------------------------------------------


def measure(networks: dict[str, nn.Module], batch_sizes: list[int], device: torch.device, repeats: int = 10):
    """Time steps of each network, in seconds, with all processes at work at the same time.

    Returns rows with the seconds of a step without communication (``alone``), of the same step
    under DistributedDataParallel (``together``), and of adding up as many numbers as there are
    parameters (``all_reduce``): the best of `repeats` in each process, and of these the slowest.
    """
    rows = []
    for name, network in networks.items():
        network.to(device)
        model = DistributedDataParallel(network)
        gradient = torch.zeros(sum(p.numel() for p in network.parameters()), device=device)
        for batch_size in batch_sizes:
            X = torch.rand(batch_size, 1, 28, 28, generator=generator("measure")).to(device)
            y = torch.zeros(batch_size, dtype=torch.long, device=device)
            actions = {
                "alone": partial(_step, network, X, y),
                "together": partial(_step, model, X, y),
                "all_reduce": partial(dist.all_reduce, gradient),
            }
            # The kinds take turns, so that a busy moment of the computer hits all of them; the first turn warms up.
            turns = [{kind: _seconds(action, device) for kind, action in actions.items()} for _ in range(1 + repeats)]
            best = {kind: _slowest(min(turn[kind] for turn in turns[1:]), device) for kind in actions}
            rows.append({"network": name, "n_parameters": len(gradient), "batch_size": batch_size, **best})
    return rows


def _step(model, X, y) -> None:
    model.zero_grad()
    nn.functional.cross_entropy(model(X), y).backward()


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Start `action` in all processes at the same time; return the seconds of this one."""
    dist.barrier()
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _slowest(seconds: float, device: torch.device) -> float:
    seconds = torch.tensor(seconds, device=device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.item()


# --- the program --------------------------------------------------------------------------------


def launch(
    n_processes: int,
    *arguments: str | Path,
    restarts: int = 0,
    forks: bool = sys.platform == "linux",
    timeout: float = 500,
) -> subprocess.CompletedProcess:
    """Run this program under torchrun on this machine; return the finished process with what it printed.

    With `forks` the processes are copies of torchrun, which has imported PyTorch; without, each
    imports it for itself, for several seconds. Both are ended when `timeout` seconds have passed.
    """
    torchrun = ["--standalone", "--nproc-per-node", n_processes, "--max-restarts", restarts]
    torchrun += ["--local-addr", "localhost"]  # a name that can be looked up without a network
    if forks:
        command = ["-c", WARM, *torchrun, "--start-method", "fork", "--run-path", __file__]
    else:
        command = ["-m", "torch.distributed.run", *torchrun, "-m", "helpers.distributed"]
    command = [sys.executable, *map(str, command), *map(str, arguments)]
    # Each life of the workers gets an address book of its own (pytorch issue 135712).
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    # torchrun leaves folders behind, here where they can be removed.
    logs = tempfile.TemporaryDirectory(prefix="torchrun-")
    settings["TMPDIR"] = logs.name
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    agent = subprocess.Popen(command, cwd=HOME, env=os.environ | settings, **pipes)
    try:
        printed, errors = agent.communicate(timeout=timeout)
    except BaseException:
        agent.terminate()  # torchrun ends its workers before it ends itself
        agent.communicate()
        raise
    finally:
        logs.cleanup()
    return subprocess.CompletedProcess(command, agent.returncode, printed, errors)


def _check(chosen) -> None:
    """Find what keeps the run from starting before the processes wait for each other."""
    if "WORLD_SIZE" not in os.environ:
        raise SetupError(
            "torchrun starts this program, and tells each process its number: "
            "torchrun --standalone --nproc-per-node 2 -m helpers.distributed ..."
        )
    n_processes = int(os.environ["WORLD_SIZE"])
    if chosen.batch_size % n_processes:
        raise SetupError(
            f"{n_processes} processes cannot share minibatches of {chosen.batch_size} items equally; "
            f"choose a multiple of {n_processes} as --batch-size."
        )
    if not chosen.data.exists():
        raise SetupError(f"there is no file {chosen.data.name} to learn from; chapter 17 writes one.")
    if chosen.device == "cuda" and int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        raise SetupError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes need as many GPUs, and this machine has "
            f"{torch.cuda.device_count()}; use a smaller --nproc-per-node or --device cpu."
        )


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 when trained, 2 when the run could not start."""
    parser = argparse.ArgumentParser(prog="torchrun ... -m helpers.distributed", description=__doc__)
    parser.add_argument("data", type=Path, help="file of X_train, y_train, X_tune and y_tune, written by torch.save")
    parser.add_argument("--checkpoint", type=Path, required=True, help="written every epoch; a run goes on from it")
    parser.add_argument("--batch-size", type=int, default=64, help="items in a step, of all processes together")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: one GPU a process, with nccl")
    parser.add_argument("--kill", type=int, default=0, help="epoch in which the last process is killed, once")
    parser.add_argument("--measure", type=Path, help="time steps as well, and write the seconds to this JSON file")
    chosen = parser.parse_args(arguments)
    try:
        _check(chosen)
    except SetupError as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        return 2
    device = torch.device("cpu")
    if chosen.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if chosen.device == "cuda" else "gloo")
    try:
        # mmap: a row is read from the file when it is taken, so a process reads its own share only.
        train(torch.load(chosen.data, mmap=True, weights_only=True), chosen, device)
        if chosen.measure:
            networks = {f"dense {width}": dense_net(width) for width in (64, 256, 1024)} | {"conv": conv_net()}
            rows = measure(networks, [8, 32, 128], device)
            if dist.get_rank() == 0:
                chosen.measure.write_text(json.dumps(rows))
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
