"""Claims that stop a chapter when they are false, and records that know what they were made from."""

import concurrent.futures
import importlib.util
import itertools
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import helpers.recipes  # noqa: F401  (registers the book's recipes now, not in the midst of a test)
from helpers import datasets, recording, results
from helpers.results import Recipe, Record, claim
from helpers.stats import Estimate, prediction_interval
from helpers.training import History


@pytest.fixture(autouse=True)
def nothing_used_or_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "_used", {})
    monkeypatch.setattr(results, "RECORDS", tmp_path / "results")
    monkeypatch.setattr(results, "RECIPES", {})
    (tmp_path / "results").mkdir()


# --- claims --------------------------------------------------------------------------------------

SENTENCE = "The one-cycle recipe reaches the plain recipe's accuracy in a tenth of its time."


def test_a_claim_that_holds_is_printed_with_its_numbers(capsys):
    claim("12-one-cycle", SENTENCE, 0.88349, (0.8801, 0.8867), True)
    assert capsys.readouterr().out.splitlines() == [
        "Claim 12-one-cycle: The one-cycle recipe",
        "reaches the plain recipe's accuracy in a",
        "tenth of its time.",
        "  measured: 0.883",
        "  95 % interval: 0.88 to 0.887",
        "  holds",
    ]


def test_a_claim_without_interval_prints_its_value_alone(capsys):
    claim("01-views", "A view shares its storage.", 3, None, True)
    assert "  measured: 3\n  holds\n" in capsys.readouterr().out


def test_an_estimate_serves_as_interval(capsys):
    claim("a", SENTENCE, 0.5, Estimate(0.5, 0.25, 0.75), True)
    assert "  measured: 0.5\n  95 % interval: 0.25 to 0.75\n" in capsys.readouterr().out


def test_the_lines_of_a_claim_fit_a_phone(capsys):
    claim("12-long", " ".join(["word"] * 60), 1e-9, (1e-10, 123456.0), True)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 44


def test_a_false_claim_stops_the_chapter_with_the_sentence_and_the_numbers(capsys):
    with pytest.raises(AssertionError) as error:
        claim("12-x", "Ours is faster.", 0.9, (0.7, 1.1), False)
    assert str(error.value).splitlines() == [
        "Claim 12-x: Ours is faster.",
        "  measured: 0.9",
        "  95 % interval: 0.7 to 1.1",
        "  DOES NOT HOLD",
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("holds", [True, False])
def test_a_claim_on_stand_in_data_is_not_checked(monkeypatch, capsys, holds):
    monkeypatch.setattr(datasets, "_used", {"digits": "real", "cifar10": "stand-in"})
    claim("12-x", "Ours is faster.", 0.9, None, holds)
    assert capsys.readouterr().out.splitlines()[-1] == "  not checked: stand-in data"


def test_a_claim_on_real_data_is_checked(monkeypatch):
    monkeypatch.setattr(datasets, "_used", {"digits": "real"})
    with pytest.raises(AssertionError):
        claim("12-x", "Ours is faster.", 0.9, None, False)


def test_tensors_will_do_as_numbers(capsys):
    value = torch.tensor(0.5)
    claim("a", "b", value, (value - 0.25, value + 0.25), value > 0.4)
    assert "  measured: 0.5\n  95 % interval: 0.25 to 0.75\n" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        claim("a", "b", value, None, value > 0.6)


def test_in_a_notebook_a_claim_carries_what_the_claims_page_needs(monkeypatch, capsys):
    shown = []
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    display = SimpleNamespace(display=lambda data, metadata, raw: shown.append((data, metadata, raw)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    claim("12-x", "Ours is faster.", 2, (1, 3), True)
    [(data, metadata, raw)] = shown
    assert raw
    assert capsys.readouterr().out == ""
    assert data["text/plain"].startswith("Claim 12-x: Ours is faster.")
    about = {"id": "12-x", "sentence": "Ours is faster.", "value": 2.0, "low": 1.0, "high": 3.0}
    assert metadata["claim"] == about | {"verdict": "holds"}
    json.dumps([data, metadata])  # it ends in the notebook's file


# --- the hash of a recipe's source ---------------------------------------------------------------

SOURCE = '''
def train(seed, n_epochs):
    """Train."""
    rate = 0.1  # not too fast
    return rate * n_epochs


class Net:
    """A network."""

    def forward(self, x):
        return x + 1
'''
numbers = itertools.count()


@pytest.fixture
def sha256(tmp_path):
    """Give a function that imports a source text and hashes it as a recipe with a model."""

    def hashed(text, **changes):
        path = tmp_path / f"recipe_{next(numbers)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # inspect finds the source of a class through its module
        try:
            spec.loader.exec_module(module)
            fields = {"id": "x", "seeds": 1, "n_epochs": 1, "data": "cifar10", "uses": (module.Net,), "settings": {}}
            fields |= changes
            return Recipe(train=module.train, **fields).source_sha256()
        finally:
            del sys.modules[path.stem]

    return hashed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Train."""', '"""Train for some epochs.\n\n    Slowly.\n    """'),
        ('    """Train."""\n', ""),
        ('    """A network."""\n\n', ""),
        ("  # not too fast", ""),
        ("rate * n_epochs", "(\n        rate   * n_epochs\n    )"),
        ("\n\n\nclass", "\n\n\n\n# More to come.\nclass"),
        ("0.1", "1e-1"),
    ],
)
def test_the_source_hash_ignores_comments_docstrings_and_layout(sha256, old, new):
    assert SOURCE.count(old) == 1
    assert sha256(SOURCE.replace(old, new)) == sha256(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.1", "0.2"),
        ("rate * n", "rate + n"),
        ("x + 1", "x + 2"),
        ("forward", "backward"),
        ("return rate", 'print(\'"""\')\n    return rate'),
    ],
)
def test_the_source_hash_sees_code(sha256, old, new):
    assert sha256(SOURCE.replace(old, new)) != sha256(SOURCE)


def test_the_source_hash_sees_a_string_that_is_no_docstring(sha256):
    one = SOURCE.replace("rate = 0.1", 'mode = "a"; rate = 0.1')
    assert sha256(one) != sha256(one.replace('"a"', '"b"'))


def test_the_source_hash_sees_settings_but_not_their_order(sha256):
    one = sha256(SOURCE, settings={"rate": 0.1, "pool": "max"})
    assert one == sha256(SOURCE, settings={"pool": "max", "rate": 0.1})
    assert len({one, sha256(SOURCE), sha256(SOURCE, settings={"rate": 0.2, "pool": "max"})}) == 3


def test_the_source_hash_covers_the_model_only_where_it_is_named(sha256):
    assert sha256(SOURCE, uses=()) != sha256(SOURCE)


def test_the_data_hash_follows_the_registered_checksums(monkeypatch):
    this = make_recipe()
    before = this.data_sha256()
    sums = {"train": "00" * 32, "test": "11" * 32}
    monkeypatch.setattr(datasets, "registry", lambda: {"cifar10": {"sha256": sums}})
    other = this.data_sha256()
    assert other != before
    # Neither the order in the file nor where the data come from matters.
    about = {"sha256": dict(reversed(sums.items())), "sources": ["elsewhere"]}
    monkeypatch.setattr(datasets, "registry", lambda: {"cifar10": about})
    assert this.data_sha256() == other


# --- records -------------------------------------------------------------------------------------

calls = []


def train_toy(seed, n_epochs):
    """Train nothing, but report as if."""
    calls.append(seed)
    rows = []
    for epoch in range(1, n_epochs + 1):
        row = {"epoch": epoch, "loss": 1 / (epoch + seed / 7), "seconds": 0.5}
        if epoch % 2 == 0:
            row["val_accuracy"] = 0.8 + 0.01 * epoch + 0.001 * seed
        rows.append(row)
    return History(rows)


def make_recipe(train=train_toy, seeds=3, n_epochs=4, **settings):
    return Recipe("99_toy", train, seeds, n_epochs, "cifar10", (), settings)


@pytest.fixture
def toy(monkeypatch):
    """Register the toy recipe, and let "worker processes" be threads of this one."""
    results.RECIPES["99_toy"] = make_recipe()
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda n, mp_context: pool(1))
    calls.clear()
    threads = torch.get_num_threads()
    yield results.RECIPES["99_toy"]
    torch.set_num_threads(threads)


def content_of(id="99_toy"):
    return json.loads((results.RECORDS / f"{id}.json").read_text())


def test_run_writes_a_record_of_all_seeds(toy, capsys):
    recording.run(["99_toy"], workers=1)
    assert calls == [0, 1, 2]
    content = content_of()
    assert content["id"] == "99_toy"
    assert content["about"] == "Train nothing, but report as if."
    assert content["source_sha256"] == toy.source_sha256()
    assert content["data_sha256"] == toy.data_sha256()
    assert content["n_epochs"] == 4
    assert content["device"]
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    for run in content["runs"]:
        expected = train_toy(run["seed"], 4).rows
        assert run["history"] == [
            {name: pytest.approx(value, abs=5e-7) for name, value in row.items()} for row in expected
        ]
    assert [path.name for path in results.RECORDS.iterdir()] == ["99_toy.json"]
    assert "99_toy seed 2: val_accuracy 0.8420" in capsys.readouterr().out


def test_run_skips_a_record_that_is_up_to_date(toy, capsys):
    recording.run(["99_toy"], workers=1)
    before = (results.RECORDS / "99_toy.json").read_bytes()
    calls.clear()
    recording.run(["99_toy"], workers=1)
    assert calls == []
    assert (results.RECORDS / "99_toy.json").read_bytes() == before
    assert capsys.readouterr().out.endswith("99_toy: up to date\n")


def test_run_repeats_a_record_that_is_stale(toy):
    recording.run(["99_toy"], workers=1)
    calls.clear()
    results.RECIPES["99_toy"] = make_recipe(n_epochs=2)
    recording.run(["99_toy"], workers=1)
    assert calls == [0, 1, 2]
    assert content_of()["n_epochs"] == 2


def test_a_recipe_may_have_settings_which_reach_its_function_and_its_record(toy):
    received = []

    @results.recipe("99_toy", seeds=1, n_epochs=2, data="cifar10", rate=0.5)
    def train(seed, n_epochs, rate):
        received.append((seed, n_epochs, rate))
        return train_toy(seed, n_epochs)

    recording.run(["99_toy"], workers=1)
    assert received == [(0, 2, 0.5)]
    assert content_of()["settings"] == {"rate": 0.5}
    assert results.stale(results.RECIPES["99_toy"], results.record("99_toy")) == []


def test_a_run_that_fails_leaves_the_old_record(toy):
    recording.run(["99_toy"], workers=1)
    before = (results.RECORDS / "99_toy.json").read_bytes()

    def fails(seed, n_epochs):
        raise FloatingPointError("nan")

    results.RECIPES["99_toy"] = make_recipe(fails)
    with pytest.raises(FloatingPointError):
        recording.run(["99_toy"], workers=1)
    assert (results.RECORDS / "99_toy.json").read_bytes() == before


def test_a_run_that_was_stopped_goes_on_where_it_was(toy):
    recording.run(["99_toy"], workers=1)
    whole = content_of()
    part = whole | {"runs": whole["runs"][::2]}  # seed 1 is missing
    (results.RECORDS / "99_toy.json").write_text(json.dumps(part))
    calls.clear()
    recording.run(["99_toy"], workers=1)
    assert calls == [1]
    for run in [*whole["runs"], *(again := content_of())["runs"]]:
        del run["cpu_s"]
    assert again == whole


def test_a_run_that_fails_keeps_the_seeds_before_it(toy):
    def fails_at_2(seed, n_epochs):
        if seed == 2:
            raise FloatingPointError("nan")
        return train_toy(seed, n_epochs)

    results.RECIPES["99_toy"] = make_recipe(fails_at_2)
    with pytest.raises(FloatingPointError):
        recording.run(["99_toy"], workers=1)
    assert results.record("99_toy").seeds == [0, 1]


@pytest.mark.parametrize("key", ["versions", "device"])
def test_part_of_a_record_from_elsewhere_is_not_mixed_with_runs_made_here(toy, key):
    recording.run(["99_toy"], workers=1)
    part = content_of()
    part |= {"runs": part["runs"][:2], key: "another"}
    (results.RECORDS / "99_toy.json").write_text(json.dumps(part))
    calls.clear()
    recording.run(["99_toy"], workers=1)
    assert calls == [0, 1, 2]
    assert content_of()[key] != "another"


def test_a_recipe_may_train_all_seeds_together(toy):
    received = []

    @results.recipe("99_toy", seeds=3, n_epochs=2, data=None, together=True)
    def train(seeds, n_epochs):
        received.append(seeds)
        return [train_toy(seed, n_epochs) for seed in seeds]

    recording.run(["99_toy"], workers=1)
    assert received == [[0, 1, 2]]
    assert results.record("99_toy").final("val_accuracy") == pytest.approx([0.82, 0.821, 0.822])
    assert content_of()["data_sha256"] is None
    assert recording.repeat_one() == 0
    assert len(received[1]) == 1


def test_an_optional_record_may_be_missing_and_is_run_only_when_named(toy, capsys):
    results.recipe("98_long", seeds=1, n_epochs=2, data="cifar10", optional=True)(train_toy)
    assert recording.main(["run"]) == 0
    assert recording.main(["check"]) == 0
    assert (
        "There is no record 98_long.json in data/results; run `make results`. It is optional."
        in capsys.readouterr().out
    )
    assert recording.main(["run", "98_long"]) == 0
    assert results.record("98_long").seeds == [0]


def test_a_record_gives_final_values_curves_and_seconds(toy):
    recording.run(["99_toy"], workers=1)
    recorded = results.record("99_toy")
    assert recorded.seeds == [0, 1, 2]
    assert recorded.final("val_accuracy") == pytest.approx([0.84, 0.841, 0.842])
    epochs, curves = recorded.curves("val_accuracy")
    assert epochs == [2, 4]
    assert curves == [pytest.approx([0.82 + s / 1000, 0.84 + s / 1000]) for s in range(3)]
    assert recorded.at(2, "val_accuracy") == pytest.approx([0.82, 0.821, 0.822])
    assert recorded.expects("val_accuracy", epoch=2) == prediction_interval(recorded.at(2, "val_accuracy"), 0.99)
    assert recorded.curves("loss")[0] == [1, 2, 3, 4]
    assert recorded.seconds() == [2.0, 2.0, 2.0]
    assert recorded.expects("val_accuracy") == prediction_interval(recorded.final("val_accuracy"), 0.99)


def test_a_record_that_is_not_there_says_how_to_get_it():
    with pytest.raises(FileNotFoundError) as error:
        results.record("99_none")
    assert str(error.value) == "There is no record 99_none.json in data/results; run `make results`."


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"source_sha256": "0"}, ["the source of its recipe or model changed"]),
        ({"data_sha256": "0"}, ["its data changed"]),
        ({"n_epochs": 5}, ["its number of epochs changed"]),
        ({"runs": [{"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": 3}]}, []),
        ({"runs": [{"seed": 0}, {"seed": 1}]}, ["it holds 2 runs, not seeds 0 to 2"]),
        ({"runs": [{"seed": 0}, {"seed": 1}, {"seed": 3}]}, ["it holds 3 runs, not seeds 0 to 2"]),
        ({"data_sha256": "0", "n_epochs": 1}, ["its data changed", "its number of epochs changed"]),
    ],
)
def test_a_record_is_stale_for_each_thing_it_was_made_from(toy, change, reasons):
    content = {
        "source_sha256": toy.source_sha256(),
        "data_sha256": toy.data_sha256(),
        "n_epochs": 4,
        "runs": [{"seed": 0}, {"seed": 1}, {"seed": 2}],
    }
    assert results.stale(toy, Record(content | change)) == reasons


numeric_rows = st.dictionaries(
    st.sampled_from(["loss", "lr", "seconds", "val_accuracy"]),
    st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False),
)
histories = st.lists(numeric_rows.map(lambda row: {"epoch": 1} | row), min_size=1, max_size=4)
texts = st.text(max_size=20)


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(about=texts, device=texts, runs=st.lists(histories, min_size=1, max_size=3))
def test_a_record_reads_back_as_it_was_written(about, device, runs):
    content = {"about": about, "versions": {"torch": device}, "threads": 1}
    content["runs"] = [{"seed": seed, "history": rows} for seed, rows in enumerate(runs)]
    text = recording._compact(content)
    assert json.loads(text) == content
    # A row of a history is one line, so that a diff shows which epochs changed.
    assert sum(line.lstrip().startswith('{"epoch"') for line in text.splitlines()) == sum(map(len, runs))


# --- check, repeat, and the command --------------------------------------------------------------


def test_check_counts_good_records(toy, capsys):
    recording.run(["99_toy"], workers=1)
    capsys.readouterr()
    assert recording.check() == 0
    assert capsys.readouterr().out == "no record contradicts its recipe\n"


def test_check_names_missing_stale_and_orphaned_records(toy, capsys):
    recording.run(["99_toy"], workers=1)
    (results.RECORDS / "99_toy.json").rename(results.RECORDS / "98_old.json")
    capsys.readouterr()
    assert recording.check() == 1  # the orphan; what is missing is listed
    assert capsys.readouterr().out.splitlines() == [
        "There is no record 99_toy.json in data/results; run `make results`.",
        "record 98_old.json belongs to no recipe; delete it.",
    ]
    (results.RECORDS / "98_old.json").rename(results.RECORDS / "99_toy.json")
    results.RECIPES["99_toy"] = make_recipe(n_epochs=5)
    assert recording.check() == 1
    assert capsys.readouterr().out == "record 99_toy: its number of epochs changed; run `make results`.\n"


def test_check_lists_records_from_another_torch_but_does_not_fail(toy, capsys):
    recording.run(["99_toy"], workers=1)
    path = results.RECORDS / "99_toy.json"
    path.write_text(path.read_text().replace(torch.__version__.split("+")[0], "1.2.3"))
    capsys.readouterr()
    assert recording.check() == 0
    assert "record 99_toy is from torch 1.2.3 (stale, not wrong" in capsys.readouterr().out


def test_repeating_a_run_agrees_with_its_record(toy, capsys):
    recording.run(["99_toy"], workers=1)
    assert recording.repeat_one() == 0
    assert "agrees" in capsys.readouterr().out


@pytest.mark.parametrize("shift", [0.1, -0.1, math.nan])
def test_repeating_a_run_notices_another_result(toy, capsys, shift):
    recording.run(["99_toy"], workers=1)

    def drifted(seed, n_epochs):
        rows = train_toy(seed, n_epochs).rows
        rows[-1]["val_accuracy"] += shift
        return History(rows)

    results.RECIPES["99_toy"] = make_recipe(drifted)
    assert recording.repeat_one() == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_the_command_runs_checks_and_repeats(toy, capsys):
    assert recording.main(["check"]) == 0
    assert "There is no record 99_toy.json" in capsys.readouterr().out
    assert recording.main(["run"]) == 0
    assert recording.main(["check"]) == 0
    assert recording.main(["repeat"]) == 0
    assert recording.main(["run", "--workers", "1", "99_toy"]) == 0
    assert "99_toy: up to date" in capsys.readouterr().out


def test_the_command_explains_an_unknown_recipe(toy, capsys):
    with pytest.raises(SystemExit) as stop:
        recording.main(["run", "77_none"])
    assert stop.value.code == 2
    assert "no recipe 77_none; there are 99_toy" in capsys.readouterr().err
