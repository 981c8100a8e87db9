"""Device, profile, generators and the report line; and helpers that cost nothing to import."""

import contextlib
import subprocess
import sys

import pytest
import torch

import helpers.cifar10  # noqa: F401 - imports torchvision while torch is still as it was
from helpers import datasets, runtime
from helpers.runtime import generator, seeded_weights


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("BOOK_DEVICE", raising=False)
    monkeypatch.delenv("BOOK_PROFILE", raising=False)


@pytest.fixture
def machine(monkeypatch):
    """Give a function that pretends which accelerators this machine has."""

    def pretend(cuda_devices=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda_devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda_devices)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


# --- device --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda_devices", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (2, True, "cuda")]
)
def test_the_first_of_cuda_mps_cpu_is_chosen(machine, cuda_devices, mps, expected):
    machine(cuda_devices, mps)
    assert runtime.device() == torch.device(expected)


@pytest.mark.parametrize("wanted", ["cpu", "cuda", "cuda:1", "mps", " CUDA:0 "])
def test_book_device_decides(machine, monkeypatch, wanted):
    machine(cuda_devices=2, mps=True)
    monkeypatch.setenv("BOOK_DEVICE", wanted)
    assert runtime.device() == torch.device(wanted.strip().lower())


def test_an_empty_book_device_is_none(machine, monkeypatch):
    machine()
    monkeypatch.setenv("BOOK_DEVICE", "")
    assert runtime.device() == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps"])
def test_a_device_that_the_machine_lacks_is_explained(machine, monkeypatch, wanted):
    machine()
    monkeypatch.setenv("BOOK_DEVICE", wanted)
    with pytest.raises(RuntimeError) as error:
        runtime.device()
    assert str(error.value) == (
        f"BOOK_DEVICE='{wanted}', but torch {torch.__version__} finds no {wanted.split(':')[0]} device here; "
        "unset BOOK_DEVICE or set it to cpu."
    )


def test_a_number_beyond_the_last_device_is_explained(machine, monkeypatch):
    machine(cuda_devices=2)
    monkeypatch.setenv("BOOK_DEVICE", "cuda:2")
    with pytest.raises(RuntimeError, match="BOOK_DEVICE='cuda:2', but this machine has 2 CUDA"):
        runtime.device()


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "0", "meta", "cpu,cuda"])
def test_a_name_that_is_no_device_of_the_book_is_explained(machine, monkeypatch, wanted):
    machine(cuda_devices=1)
    monkeypatch.setenv("BOOK_DEVICE", wanted)
    with pytest.raises(RuntimeError) as error:
        runtime.device()
    assert str(error.value) == (f"BOOK_DEVICE='{wanted}' names no device; use cpu, cuda, cuda:1 or mps, or unset it.")


# --- profile -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [(None, "quick"), ("quick", "quick"), (" Full", "full")])
def test_the_profile_is_quick_unless_the_environment_says_full(monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv("BOOK_PROFILE", value)
    assert runtime.profile() == expected


def test_an_unknown_profile_is_explained(monkeypatch):
    monkeypatch.setenv("BOOK_PROFILE", "fast")
    with pytest.raises(RuntimeError, match=r"BOOK_PROFILE='fast' is no profile; use one of quick, full\."):
        runtime.profile()


# --- random numbers ------------------------------------------------------------------------------


# As torch 2.14 draws them. PyTorch does not promise the same draws in every release; records and
# stored outputs depend on them, so a release that changes them must be noticed.
SHUFFLED = [0, 5, 8, 1, 7, 3, 2, 9, 4, 6]
DRAWN = [49, 7, 20, 39, 88]


def draws(source, n=1000):
    return torch.randn(n, generator=source)


def test_a_generator_is_reproducible_and_on_the_cpu():
    assert torch.equal(draws(generator("shuffle", 3)), draws(generator("shuffle", 3)))
    assert generator("shuffle", 3).device.type == "cpu"
    assert torch.equal(draws(generator("shuffle")), draws(generator("shuffle", 0)))


def test_the_streams_do_not_change_from_version_to_version():
    assert torch.randperm(10, generator=generator("shuffle", 0)).tolist() == SHUFFLED
    assert torch.randint(0, 100, (5,), generator=generator("augment", 1)).tolist() == DRAWN


def test_purposes_and_seeds_give_unrelated_streams():
    streams = [
        draws(generator(purpose, seed))
        for purpose in ("shuffle", "augment", "noise", "points")
        for seed in (0, 1, 2, 41)
    ]
    correlations = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    # 120 pairs of 1000 draws: the deviation is 1 / sqrt(1000), and 5 of them is never reached.
    assert correlations.abs().max() < 5 / 1000**0.5


def test_drawing_for_one_purpose_leaves_the_others_alone():
    shuffle, augment = generator("shuffle"), generator("augment")
    draws(augment, 12_345)
    assert torch.equal(draws(shuffle), draws(generator("shuffle")))


def test_making_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    draws(generator("shuffle"))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_come_from_their_seed_and_nothing_else():
    layers = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        with seeded_weights(seed):
            layers.append(torch.nn.Linear(4, 4).weight)
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_seeded_weights_are_those_of_a_plain_manual_seed():
    # So that a reader can repeat them without this helper.
    with seeded_weights(5):
        ours = torch.nn.Linear(4, 4).weight
    state = torch.get_rng_state()
    torch.manual_seed(5)
    theirs = torch.nn.Linear(4, 4).weight
    torch.set_rng_state(state)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fails", [False, True])
def test_seeded_weights_puts_the_global_generator_back(fails):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    expected = pytest.raises(KeyError) if fails else contextlib.nullcontext()
    with expected, seeded_weights(0):
        torch.rand(3)
        if fails:
            raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


# --- the report line -----------------------------------------------------------------------------


def test_the_report_line_names_device_profile_and_data(machine, monkeypatch, capsys):
    machine()
    monkeypatch.setattr(datasets, "_used", {"cifar10": "real", "ct": "stand-in"})
    runtime.report()
    assert capsys.readouterr().out == "device: cpu | profile: quick | data: made in the chapter\n"
    monkeypatch.setenv("BOOK_PROFILE", "full")
    runtime.report("cifar10", "ct")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["device: cpu | profile: full", "data: cifar10 (real), ct (stand-in)"]
    assert "claims are not checked" in lines[3]


def test_the_report_line_fails_with_a_sentence_without_its_data(machine, monkeypatch, tmp_path, capsys):
    machine()
    monkeypatch.setattr(datasets, "_used", {})
    monkeypatch.setenv("BOOK_DATA_CACHE", str(tmp_path))
    with pytest.raises(datasets.DataError, match=r"CIFAR-10 is not in .*: run `make data`"):
        runtime.report("cifar10")
    with pytest.raises(datasets.DataError, match="There is no data set 'birds'"):
        runtime.report("birds")
    assert capsys.readouterr().out == ""


# --- imports -------------------------------------------------------------------------------------

LIGHT = "import helpers, helpers.runtime, helpers.datasets, helpers.fetching"


def test_importing_the_helpers_takes_less_than_a_third_of_a_second():
    def cpu_seconds(statement):
        code = f"{statement}\nimport time\nprint(time.process_time())"
        done = [
            subprocess.run([sys.executable, "-c", code], cwd=datasets.HOME, capture_output=True, text=True, check=True)
            for _ in range(3)
        ]
        return min(float(process.stdout) for process in done)

    # CPU time and the best of three, since other processes may keep the machine busy.
    assert cpu_seconds(LIGHT) - cpu_seconds("pass") < 0.3


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (LIGHT, ["torch", "torchvision", "numpy", "matplotlib", "scipy", "requests", "pooch"]),
        ("import helpers.stats, helpers.results", ["torch", "torchvision", "matplotlib", "scipy"]),
    ],
)
def test_a_module_imports_nothing_heavy_that_it_can_do_without(statement, heavy):
    code = f"import sys\n{statement}\nprint(*sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=datasets.HOME, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
