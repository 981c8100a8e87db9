"""Stand-ins have the shape of the real data, byte by byte the same on each run, and let the chapters execute."""

import csv
import hashlib
import inspect
import math
import re
import subprocess
import sys
import time

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pydicom
import pytest

from helpers import datasets, files, standins

NAMES = [name for name, about in datasets.registry().items() if "stand_in" in about]
TABLES = {"wine": ";", "bikes": ",", "bikes_published": ","}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return the folder that holds a folder of each stand-in, and the seconds that making them took."""
    home = tmp_path_factory.mktemp("standins")
    started = time.process_time()
    for name in NAMES:
        (home / name).mkdir()
        getattr(standins, datasets.entry(name)["stand_in"])(home / name)
    return home, time.process_time() - started


@pytest.fixture(scope="session")
def tables(made):
    return {name: read_table(name, made[0] / name) for name in TABLES}


@pytest.fixture(scope="session")
def novel(made):
    return (made[0] / "novel" / "1342-0.txt").read_bytes().decode()


@pytest.fixture(scope="session")
def volume(made):
    return imageio.volread(made[0] / "chest_ct", "DICOM", progress=False)


def read_table(name, folder):
    [file] = files.names(datasets.entry(name))
    return pd.read_csv(folder / file, sep=TABLES[name])


def fingerprints(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


# --- all of them ---------------------------------------------------------------------------------


# Makes all of them in another process, which may open no file of the cache.
PROCESS = """
import sys
from pathlib import Path
from helpers import datasets, standins

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(datasets.cache_dir())):
        raise RuntimeError(f"opens {arguments[0]}")

sys.addaudithook(refuse)
for name in sys.argv[2:]:
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    getattr(standins, name)(folder)
print("torch" in sys.modules)
"""


def test_another_process_writes_equal_bytes_without_the_real_data_or_torch(made, tmp_path):
    functions = [datasets.entry(name)["stand_in"] for name in NAMES]
    command = [sys.executable, "-c", PROCESS, str(tmp_path), *functions]
    done = subprocess.run(command, cwd=datasets.HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
    for name, function in zip(NAMES, functions, strict=True):
        assert fingerprints(tmp_path / function) == fingerprints(made[0] / name)


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_the_files_of_the_registry_and_no_other(made, name):
    assert sorted(fingerprints(made[0] / name)) == sorted(files.names(datasets.entry(name)))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_never_taken_for_the_real_data(made, name):
    with pytest.raises(datasets.DataError, match="is not the published data"):
        datasets.verify(name, made[0] / name)


def test_they_are_made_in_a_few_seconds(made):
    assert made[1] < 6


def test_no_other_function_is_left_over():
    public = {name for name, _ in inspect.getmembers(standins, inspect.isfunction) if not name.startswith("_")}
    assert public == {datasets.entry(name)["stand_in"] for name in NAMES}


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_the_columns_are_those_of_the_registry(tables, name):
    assert list(tables[name]) == datasets.entry(name)["columns"]
    assert not tables[name].isna().any(axis=None)


@pytest.mark.parametrize("name", TABLES)
def test_whole_numbers_have_no_point_and_no_line_has_spaces(made, name):
    [file] = (made[0] / name).iterdir()
    lines = file.read_bytes().decode("ascii").split("\n")
    assert lines.pop() == ""  # the last line ends, too
    assert not any(line != line.strip() for line in lines)
    for row in csv.reader(lines[1:], delimiter=TABLES[name]):
        assert not any(value.endswith((".", ".0")) for value in row)


def test_the_header_of_the_wines_is_quoted(made):
    first, second = (made[0] / "wine" / "winequality-white.csv").read_text().splitlines()[:2]
    assert first.startswith('"fixed acidity";"volatile acidity";')
    assert '"' not in second


def test_the_wines_are_as_many_and_as_good_as_real_ones(tables):
    wine = tables["wine"]
    assert len(wine) == 4898
    counts = wine["quality"].value_counts()
    assert sorted(counts.index) == list(range(3, 10))
    assert counts.idxmax() == 6
    assert 5 <= counts[3] <= 60
    assert 1 <= counts[9] <= 20
    assert (wine.drop(columns="quality").min() >= 0).all()
    assert wine["density"].between(0.98, 1.04).all()
    assert wine["pH"].between(2.5, 4).all()


def test_good_wines_differ_from_bad_ones_as_real_ones_do(tables):
    wine = tables["wine"]
    links = wine.corr()["quality"]
    assert links["alcohol"] > 0.25
    assert links["density"] < -0.15
    means = wine.groupby(pd.cut(wine["quality"], [0, 3, 6, 10]), observed=True)["total sulfur dioxide"].mean()
    assert means.is_monotonic_decreasing


def test_the_published_hours_lack_those_that_nobody_recorded(tables):
    hours = tables["bikes_published"]
    assert len(hours) == 17_379
    assert (hours["instant"] == np.arange(1, 17_380)).all()
    days = pd.date_range("2011-01-01", "2012-12-31").strftime("%Y-%m-%d")
    assert list(hours["dteday"].unique()) == list(days)
    assert hours.groupby("dteday").size().max() == 24
    assert not hours.duplicated(["dteday", "hr"]).any()


def test_the_columns_of_an_hour_agree(tables):
    hours = tables["bikes_published"]
    assert (hours["cnt"] == hours["casual"] + hours["registered"]).all()
    assert hours["cnt"].between(1, 999).all()
    assert hours["casual"].min() == 0
    dates = pd.to_datetime(hours["dteday"])
    assert (hours["yr"] == dates.dt.year - 2011).all()
    assert (hours["mnth"] == dates.dt.month).all()
    assert (hours["weekday"] == (dates.dt.weekday + 1) % 7).all()  # 0 is Sunday
    assert (hours["workingday"] == (hours["weekday"].between(1, 5) & (hours["holiday"] == 0))).all()
    assert hours.groupby("season")["mnth"].agg(set).to_dict() == {
        1: {12, 1, 2, 3},
        2: {3, 4, 5, 6},
        3: {6, 7, 8, 9},
        4: {9, 10, 11, 12},
    }


def test_the_weather_is_scaled_as_in_the_real_file(tables):
    hours = tables["bikes_published"]
    for name, steps in {"temp": 50, "atemp": 66, "hum": 100, "windspeed": 67}.items():
        assert hours[name].between(0, 1).all()
        scaled = hours[name] * steps  # whole steps, rounded to four decimals
        assert np.allclose(scaled, scaled.round(), atol=0.004), name
    states = hours["weathersit"].value_counts()
    assert list(states.index) == [1, 2, 3, 4]  # by frequency
    assert states[4] == 3


def test_riders_follow_the_clock_and_the_year(tables):
    hours = tables["bikes_published"]
    by_hour = hours[hours["workingday"] == 1].groupby("hr")["cnt"].mean()
    assert by_hour.idxmax() in (17, 18)
    assert by_hour[8] > 2 * by_hour[11]
    assert by_hour.idxmin() in (2, 3, 4)
    by_month = hours.groupby("mnth")["cnt"].mean()
    assert by_month[7] > 1.5 * by_month[1]
    assert hours[hours["yr"] == 1]["cnt"].mean() > 1.3 * hours[hours["yr"] == 0]["cnt"].mean()


def audit(bikes):
    """Return the flaws that chapter 04 looks for, counted; the same numbers come out of the real file."""
    blocks = bikes["dteday"].to_numpy().reshape(-1, 24)
    spliced = [i for i, dates in enumerate(blocks) if len(set(dates)) > 1]
    disagrees = bikes["cnt"] != bikes["casual"] + bikes["registered"]
    return {
        "rows": len(bikes),
        "dates": bikes["dteday"].nunique(),
        "rows that repeat an index": int(bikes["instant"].duplicated().sum()),
        "counts that disagree with their parts": int(disagrees.sum()),
        "of these, count 0": int((bikes["cnt"][disagrees] == 0).sum()),
        "dates without humidity": sorted(set(bikes["dteday"][bikes["hum"] == 0])),
        "blocks that splice dates": [(i, *sorted(set(blocks[i]))) for i in spliced],
        "first hour of the second date": [int(np.argmax(blocks[i] == blocks[i][-1])) for i in spliced],
    }


def test_the_filled_hours_carry_the_flaws_of_the_real_file(tables):
    bikes = tables["bikes"]
    assert audit(bikes) == {
        "rows": 17_520,
        "dates": 731,
        "rows that repeat an index": 141,
        "counts that disagree with their parts": 141,
        "of these, count 0": 141,
        "dates without humidity": ["2011-03-10"],
        "blocks that splice dates": [(667, "2012-10-29", "2012-10-30")],
        "first hour of the second date": [13],
    }
    assert (bikes["hr"] == np.tile(np.arange(24), 730)).all()


def test_a_filled_hour_repeats_a_neighbour_of_its_day_and_all_else_is_as_published(tables):
    bikes, published = tables["bikes"], tables["bikes_published"]
    by_index = published.set_index("instant").loc[bikes["instant"]].reset_index()
    filled = bikes["cnt"] == 0
    pd.testing.assert_frame_equal(bikes[~filled], by_index[~filled])
    kept = [name for name in bikes if name not in ("hr", "cnt")]
    pd.testing.assert_frame_equal(bikes.loc[filled, kept], by_index.loc[filled, kept])


# --- novel ---------------------------------------------------------------------------------------


def test_the_text_has_the_frame_of_a_file_of_project_gutenberg(novel):
    assert novel[0] == "\ufeff"
    assert "\r" not in novel
    lines = novel.split("\n")
    start = lines.index("*** START OF THIS PROJECT GUTENBERG EBOOK PRIDE AND PREJUDICE ***")
    end = lines.index("*** END OF THIS PROJECT GUTENBERG EBOOK PRIDE AND PREJUDICE ***")
    chapters = [i for i, line in enumerate(lines) if re.fullmatch(r"Chapter \d+", line)]
    assert 0 < start < chapters[0] < chapters[-1] < end < len(lines) - 100
    assert [lines[i] for i in chapters] == [f"Chapter {i}" for i in range(1, len(chapters) + 1)]
    assert max(map(len, lines)) <= 74


def test_the_text_has_what_chapter_05_looks_for(novel):
    assert len(novel.split()) > 60_000
    assert set(novel) - {chr(code) for code in range(128)} == set("\ufeff“”")
    assert novel.count("“") == novel.count("”") > 500
    for pattern in (r"\w--\w", r"\b_\w+_", r"\w's\b", r"n't\b"):
        assert len(re.findall(pattern, novel)) > 20, pattern
    assert any(line.startswith("“Impossible,") for line in novel.split("\n"))


def test_the_text_varies(novel):
    words = re.findall(r"[a-z]+", novel.lower())
    assert len(set(words)) > 500
    paragraphs = novel.split("\n\n")
    assert len(set(paragraphs)) > 0.95 * len(paragraphs)


def test_the_licence_has_words_that_the_novel_lacks(novel):
    body, licence = (set(re.findall("[a-z]+", part.lower())) for part in novel.split("*** END OF"))
    assert {"royalty", "warranty", "trademark"} <= licence - body


# --- chest CT ------------------------------------------------------------------------------------


def test_imageio_reads_the_slices_as_a_volume_in_hounsfield_units(volume):
    assert volume.shape == (99, 512, 512)
    assert volume.dtype == np.int16
    assert volume.min() == -1024
    assert volume.max() <= 3071
    assert volume.meta["sampling"] == (3.0, 0.5625, 0.5625)
    air, lung, tissue = (
        ((low < volume) & (volume < high)).mean() for low, high in [(-1025, -950), (-950, -750), (0, 90)]
    )
    assert 0.1 < air < 0.5
    assert 0.05 < lung < 0.3
    assert 0.2 < tissue < 0.6
    assert (volume > 350).mean() > 0.001  # bone


def test_pydicom_reads_the_same_numbers_and_the_names_are_not_in_order(made, volume):
    headers = [pydicom.dcmread(made[0] / "chest_ct" / f"{i:06d}.dcm") for i in range(99)]
    places = [int(header.InstanceNumber) for header in headers]
    assert sorted(places) == list(range(1, 100))
    assert places != sorted(places)
    for header, place in zip(headers[::9], places[::9], strict=True):
        assert header.ImagePositionPatient[2] == header.SliceLocation == 6 - 3 * (place - 1)
        hounsfield = header.pixel_array.astype(int) * int(header.RescaleSlope) + int(header.RescaleIntercept)
        np.testing.assert_array_equal(hounsfield, volume[place - 1])
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert len({header.SOPInstanceUID for header in headers}) == 99


def test_the_headers_are_in_the_form_of_the_real_ones(made):
    header = pydicom.dcmread(made[0] / "chest_ct" / "000000.dcm")
    assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert (header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation) == (16, 12, 11, 0)
    assert (header.Rows, header.Columns, header.SliceThickness) == (512, 512, 3)
    assert header.pixel_array.dtype == np.uint16
    assert all(uid.is_valid for uid in (header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID))


def test_neighbouring_slices_are_alike_and_distant_ones_are_not(volume):
    thin = volume[:, ::8, ::8].astype(float)
    near, far = np.abs(thin[1:] - thin[:-1]).mean(), np.abs(thin[50:] - thin[:-50]).mean()
    assert near < 0.5 * far


# --- side by side with the real data -------------------------------------------------------------


def real_folder(name):
    if not datasets.real_folder(name).is_dir():
        pytest.skip(f"the real data are not in {datasets.real_folder(name)}; `make data` fetches them")
    return datasets.real_folder(name)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_resembles_the_real_one(tables, name):
    ours, real = tables[name], read_table(name, real_folder(name))
    assert (ours.dtypes == real.dtypes).all()
    assert ours.shape == real.shape
    for column in ours.select_dtypes("number"):
        distance = abs(ours[column].mean() - real[column].mean()) / real[column].std()
        assert distance < 0.15, f"the mean of {column} is {distance:.2f} standard deviations off"
        assert 0.7 < ours[column].std() / real[column].std() < 1.4, column


def test_the_audit_finds_in_the_real_file_what_it_finds_in_the_stand_in(tables):
    assert audit(read_table("bikes", real_folder("bikes"))) == audit(tables["bikes"])


def test_scores_are_as_frequent_as_real_ones(tables):
    real = read_table("wine", real_folder("wine"))["quality"].value_counts()
    ours = tables["wine"]["quality"].value_counts()
    for score in real.index:
        assert abs(ours[score] - real[score]) < 3 * math.sqrt(real[score]) + 1


def test_the_text_resembles_the_real_one(novel):
    real = (real_folder("novel") / "1342-0.txt").read_bytes().decode()
    marks = re.compile(r"^\*\*\*.*$", re.MULTILINE)
    assert marks.findall(novel) == [line for line in marks.findall(real) if "should be named" not in line]
    assert set(novel) - set(real) == set()
    for count in (lambda text: text.count("--"), lambda text: text.count("_"), lambda text: len(text.split())):
        assert 0.4 < count(novel) / count(real) < 2.5


def test_the_slices_resemble_the_real_ones(made, volume):
    ours = pydicom.dcmread(made[0] / "chest_ct" / "000000.dcm")
    header = pydicom.dcmread(real_folder("chest_ct") / "000000.dcm")
    for tag in ours:
        if tag.keyword not in ("PatientName", "PatientID", "SeriesDescription"):
            assert header[tag.tag].VR == tag.VR, tag.keyword
    for keyword in ("Rows", "Columns", "BitsStored", "HighBit", "PixelRepresentation", "SliceThickness"):
        assert header[keyword].value == ours[keyword].value, keyword
    assert header.file_meta.TransferSyntaxUID == ours.file_meta.TransferSyntaxUID
    assert (header.RescaleIntercept, header.RescaleSlope) == (ours.RescaleIntercept, ours.RescaleSlope)
    real = [pydicom.dcmread(real_folder("chest_ct") / f"{i:06d}.dcm").pixel_array[::4, ::4] for i in range(0, 99, 3)]
    thin = volume[:, ::4, ::4].astype(float)
    assert abs(thin.mean() - (np.mean(real) - 1024)) < 150
    assert 0.7 < thin.std() / np.std(real) < 1.4
