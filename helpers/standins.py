"""Stand-ins: made-up data in the shape of the real ones, for chapters that run before `make data`.

One function for each ``stand_in`` of ``data/registry.toml`` writes its files into an empty folder, in
the format of the real ones and with similar values: a chapter executes, but nothing it finds is true.
Equal bytes on each run; a change of what is written needs a new `VERSION`. Introduced in chapter 02.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np

VERSION = 1


def _write_table(file: Path, table: dict[str, np.ndarray], separator: str) -> None:
    """Write a table; a whole number is written without a point, as in the real files."""
    columns = [[f"{value:.15g}" if x.dtype.kind == "f" else str(value) for value in x] for x in table.values()]
    lines = [separator.join(table), *map(separator.join, zip(*columns, strict=True))]
    file.write_bytes(("\n".join(lines) + "\n").encode())


# --- wine -----------------------------------------------------------------------------------------

# Name, decimals, and the values at these normal scores.
Z_LEVELS = [-3.6, -2.33, -1.28, -0.67, 0, 0.67, 1.28, 2.33, 3.6]
WINE = [
    ("fixed acidity", 1, [3.8, 5.0, 5.9, 6.3, 6.8, 7.3, 7.9, 9.2, 14.0]),
    ("volatile acidity", 2, [0.08, 0.12, 0.17, 0.21, 0.26, 0.32, 0.4, 0.63, 1.1]),
    ("citric acid", 2, [0, 0.05, 0.21, 0.27, 0.32, 0.39, 0.48, 0.74, 1.5]),
    ("residual sugar", 1, [0.6, 0.9, 1.2, 1.7, 5.2, 9.9, 14.0, 18.8, 45]),
    ("chlorides", 3, [0.01, 0.02, 0.03, 0.036, 0.043, 0.05, 0.057, 0.16, 0.34]),
    ("free sulfur dioxide", 0, [2, 6, 16, 23, 34, 46, 57, 81, 200]),
    ("total sulfur dioxide", 0, [10, 51, 87, 108, 134, 167, 196, 241, 400]),
    ("density", 5, [0.9872, 0.9888, 0.9904, 0.9917, 0.9937, 0.9961, 0.9981, 1.0003, 1.012]),
    ("pH", 2, [2.73, 2.88, 3.0, 3.09, 3.18, 3.28, 3.39, 3.6, 3.81]),
    ("sulphates", 2, [0.23, 0.29, 0.36, 0.41, 0.47, 0.55, 0.64, 0.83, 1.07]),
    ("alcohol", 1, [8.1, 8.7, 9.0, 9.5, 10.4, 11.4, 12.4, 13.4, 14.1]),
]
# Correlations in per cent of each column with those before it; the last row is the score.
WINE_LINKS = """-2; 29 -15; 9 6 9; 2 7 11 9; -5 -10 9 30 10; 9 9 12 40 20 62; 27 3 15 84 26 29 53;
-43 -3 -16 -19 -9 0 0 -9; -2 -4 6 -3 2 6 13 7 16; -12 7 -8 -45 -36 -25 -45 -78 12 -2;
-11 -19 -1 -10 -21 1 -17 -31 10 5 44"""
SCORES = [0.0041, 0.0374, 0.3349, 0.7836, 0.9633, 0.999]  # the share of scores up to 3, 4, 5, 6, 7, 8


def wine(folder: Path) -> None:
    """Write 4,898 wines, about a fifth of them repeated rows, as in the real file."""
    rng = np.random.default_rng(3)
    links = np.eye(12)
    for i, row in enumerate(WINE_LINKS.split(";"), start=1):
        links[i, :i] = links[:i, i] = [int(value) / 100 for value in row.split()]
    n = 3961
    z = rng.standard_normal((n, 12)) @ np.linalg.cholesky(links + 0.02 * np.eye(12)).T
    table = {}
    for (name, decimals, values), scores in zip(WINE, z.T):
        x = np.round(np.interp(scores, Z_LEVELS, values), decimals)
        few = rng.random(n)
        if name == "alcohol":
            x[few < 0.007] += 1 / 30  # the mean of three readings
        elif "sulfur" in name:
            x[few < 0.01] += 0.5
        table[f'"{name}"'] = x
    table['"quality"'] = 3 + np.searchsorted(SCORES, np.argsort(np.argsort(z[:, 11])) / n, side="right")
    rows = rng.permutation(np.append(np.arange(n), rng.integers(0, n, 4898 - n)))
    _write_table(folder / "winequality-white.csv", {name: x[rows] for name, x in table.items()}, ";")


# --- bicycles -------------------------------------------------------------------------------------

BIKES = """instant dteday season yr mnth hr holiday weekday workingday weathersit temp atemp hum windspeed
casual registered cnt"""
HOLIDAYS = """110117 110221 110415 110530 110704 110905 111010 111111 111124 111226 120102 120116 120220 120416
120528 120704 120903 121008 121112 121122 121225"""  # year, month, day
# Hours that nobody recorded: a few long gaps (the last is a hurricane) besides single hours at night.
GAPS = {"2011-01-18": (0, 12), "2011-01-27": (0, 16), "2011-02-22": (0, 6), "2011-08-27": (18, 24)}
GAPS |= {"2011-08-28": (0, 7), "2012-10-29": (1, 24), "2012-10-30": (0, 13)}
N_MISSING = 165
# Typical riders by the hour: casual, then registered; each on days off, then on working days.
RIDERS = [
    [17, 13, 10, 6, 2, 2, 4, 9, 20, 45, 79, 107, 126, 136, 140, 137, 129, 112, 84, 66, 47, 36, 28, 19],
    [7, 4, 2, 1, 1, 1, 4, 12, 22, 24, 31, 38, 41, 43, 46, 46, 48, 57, 50, 41, 31, 25, 20, 13],
    [74, 57, 43, 19, 6, 7, 15, 35, 85, 127, 177, 209, 240, 236, 225, 222, 224, 212, 197, 166, 128, 106, 88, 67],
    [30, 13, 7, 4, 5, 24, 98, 278, 455, 217, 104, 121, 159, 156, 138, 155, 245, 468, 442, 307, 218, 162, 119, 75],
]


def _drifting(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    """Return n normal scores, each of which remembers a share of the one before."""
    value, values = rng.standard_normal(), []
    for step in (rng.standard_normal(n) * np.sqrt(1 - memory**2)).tolist():
        value = memory * value + step
        values.append(value)
    return np.array(values)


def _hours() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return 731 x 24 hours, and which of them were recorded."""
    rng = np.random.default_rng(4)
    hr, day = np.tile(np.arange(24), 731), np.repeat(np.arange(731), 24)
    text, n = np.datetime_as_string(np.datetime64("2011-01-01") + day), len(day)
    month_day = np.array([int(date[5:7] + date[8:]) for date in text])
    yr = (day >= 365).astype(int)
    season = np.where(month_day >= 1221, 1, 1 + sum((month_day >= start).astype(int) for start in (321, 621, 923)))
    holiday = np.isin((11 + yr) * 10_000 + month_day, [int(date) for date in HOLIDAYS.split()]).astype(int)
    weekday = (day + 6) % 7
    workingday = ((weekday % 6 > 0) & (holiday == 0)).astype(int)
    afternoon = np.cos(2 * np.pi * (hr - 15) / 24)
    clouds, breeze = _drifting(rng, n, 0.95), _drifting(rng, n, 0.85)
    warmth = 0.5 + 0.23 * np.cos(2 * np.pi * (day - 202) / 365.25) + 0.065 * _drifting(rng, n, 0.985)
    temp = np.round(np.clip(warmth + 0.065 * afternoon, 0.02, 1) * 50) / 50
    knots = np.clip(np.round(6.9 + 4.4 * breeze + 1.3 * afternoon), 0, 31)
    wind = np.where(knots < 3, 0, np.round(1.852 * knots)) / 67
    atemp = np.round(np.clip(0.042 + 0.892 * temp - 0.05 * wind + 0.01 * rng.standard_normal(n), 0, 1) * 66) / 66
    hum = np.round(np.clip(0.63 - 0.115 * afternoon + 0.12 * clouds + 0.06 * rng.standard_normal(n), 0.08, 1), 2)
    hum[text == "2011-03-10"] = 0  # the sensor failed
    weathersit = 1 + (clouds > 0.4).astype(int) + (clouds > 1.39)
    recorded = np.ones(n, dtype=bool)
    for date, (first, last) in GAPS.items():
        recorded[(text == date) & (hr >= first) & (hr < last)] = False
    nights = np.flatnonzero(~np.isin(text, list(GAPS)) & (hr >= 2) & (hr <= 5))
    recorded[rng.choice(nights, N_MISSING - np.sum(~recorded), replace=False)] = False
    weathersit[np.argsort(np.where(recorded, clouds, -9))[-3:]] = 4
    mood = np.array([0.78, 1.22])[yr] * np.array([0, 1.04, 1, 0.65, 0.45])[weathersit]
    mood *= np.exp(0.22 * _drifting(rng, n, 0.9) + 0.15 * rng.standard_normal(n))
    casual = rng.poisson(np.array(RIDERS)[workingday, hr] * mood * (temp / 0.53) ** 1.4).clip(0, 367)
    registered = rng.poisson(np.array(RIDERS)[2 + workingday, hr] * mood * (0.42 + 1.08 * temp)).clip(0, 977 - casual)
    registered += (casual + registered) == 0  # an hour without riders is no record
    columns = [np.cumsum(recorded), text, season, yr, month_day // 100, hr, holiday, weekday, workingday, weathersit]
    columns += [temp, np.round(atemp, 4), hum, np.round(wind, 4), casual, registered, casual + registered]
    hours = dict(zip(BIKES.split(), columns, strict=True))
    return hours, recorded


def bikes_published(folder: Path) -> None:
    """Write the 17,379 recorded hours."""
    hours, recorded = _hours()
    _write_table(folder / "hour.csv", {name: column[recorded] for name, column in hours.items()}, ",")


def bikes(folder: Path) -> None:
    """Write 730 blocks of 24 hours, with the flaws of the real file.

    A missing hour repeats another record of its day, index and all, with a count of 0. One block
    splices 29 and 30 October 2012, so that 731 dates fit into 730 blocks.
    """
    hours, recorded = _hours()
    place = np.arange(len(recorded))
    before = np.maximum.accumulate(np.where(recorded, place, -1))
    after = np.minimum.accumulate(np.where(recorded, place, len(place))[::-1])[::-1]
    source = np.where(before // 24 == place // 24, before, after)
    filled = {name: column if name == "hr" else column[source] for name, column in hours.items()}
    filled["cnt"] = np.where(recorded, hours["cnt"], 0)
    cut = np.searchsorted(hours["dteday"], "2012-10-29") + 13
    kept = (place < cut) | (place >= cut + 24)
    _write_table(folder / "hour-fixed.csv", {name: column[kept] for name, column in filled.items()}, ",")


# --- novel ----------------------------------------------------------------------------------------

# What a name in braces may become; the first choices are the most frequent.
GRAMMAR = {
    "person": "Mrs. Alder|Mr. Alder|Harriet|Captain Wren|Miss Quill|Thomas|Aunt Dorothea|Mr. {place}|Lady {place}",
    "place": "{front}{back}|{front}{back}|{front}{back} Park|{front}{back} Abbey|{front}{back} Cottage",
    "front": "Ash|Thorn|Marl|Hazel|West|Stan|Elder|Bram|Oak|Win|Copper|Raven|Lang|Mill|Fern|Sutter|Hollo|Cran|Whit|Dun",
    "back": "ley|bury|worth|stead|combe|mere|field|wick|dale|ford|ham|brook|gate|thorpe|hurst|cliffe|minster|well",
    "noun": "letter|garden|visit|morning|carriage|answer|window|promise|road|guest|book|harvest|silence|dinner|river|"
    "ribbon|quarrel|teapot|umbrella|sermon|lantern|orchard|violin|ledger|clock|horse|curtain|picture|bargain|cousin|"
    "rumour|portrait|staircase|candle|journey|neighbour|debt|storm|market|bonnet|secret|kitchen|doctor|inheritance",
    "adjective": "kind|quiet|sensible|proud|tender|polite|grave|bright|solemn|sincere|modest|eager|patient|honest|"
    "curious|stubborn|unkind|unfair|cheerful|faint|splendid|awkward|obvious|cold|delicate|absurd|ardent|timid|bold",
    "verb": "consider|remember|want|mention|expect|answer|regard|doubt|enjoy|recommend|support|fear|accept|follow|"
    "dread|avoid|respect|defend|disregard|discover|explain|detest|assist|honour|lament|overlook|commend|alter",
    "said": "said|replied|cried|returned|whispered|answered|repeated|murmured",
    "when": "on Monday|before dinner|after church|in the evening|at last|within the hour|the next morning|in July",
    "thing": "the {noun}|a {adjective} {noun}|every {noun} in {place}|the {noun}s|his {noun}|{person}'s {noun}",
    "clause": "{person} {verb}ed {thing}|nobody could {verb} {thing}|he had not {verb}ed {thing} {when}|"
    "it was {adjective} to {verb} {thing}|she would sooner {verb} {thing} than {verb} {thing}|"
    "{person} walked quietly towards {place}|they spoke of {thing} and of {thing}",
    "link": ", and|, but|; for|; and yet|, because|, though|--and|; so that",
    "narration": "{clause}{link} {clause}.|{clause}.|When {clause}, {clause}{link} {clause}.|{clause} {when}.|"
    "Of all {adjective} people, {person} was the least likely to {verb} {thing}.",
    "speech": "I cannot {verb} {thing}|you must not {verb} {thing}|who would {verb} {thing}|I don't {verb} it|"
    "it is _quite_ {adjective}|there is nothing so {adjective} as {thing}|I shall {verb} {thing} {when}|"
    "my dear {person}, {clause}|_you_ may {verb} {thing}, if you can|{clause}--indeed {clause}",
    "quote": "“{speech},” {said} {person}; “{speech}{link} {speech}.”|“{speech}!” {said} {person}.|“Impossible, my "
    "dear {person}!” {said} {person}; “{speech}.”|“Oh!” {said} {person}, “it is impossible that {clause}.”|“{speech}.”",
    "paragraph": "{narration} {narration} {narration} {narration} {narration}|{quote}|{quote}|{narration} {quote}",
    "term": "Anybody may copy or redistribute {thing} without a royalty.|No warranty is given that {thing} would be "
    "merchantable.|No distributor owes a refund for {thing}.|No agreement, donation or trademark limits {thing}.",
}
MARKER = "*** {} OF THIS PROJECT GUTENBERG EBOOK PRIDE AND PREJUDICE ***"
TITLE = """A Stand-In for a Novel\n\nNobody wrote this: a small grammar drew the sentences at random, so that
a chapter runs before the real novel is fetched. The lines with three
stars stand where a program expects them, and mean nothing else.\n"""


def novel(folder: Path) -> None:
    """Write a text of 40 chapters between the lines that mark a novel in a file of Project Gutenberg."""
    rng = np.random.default_rng(5)
    choices = {name: options.split("|") for name, options in GRAMMAR.items()}

    def expand(name: str) -> str:
        option = choices[name][int(len(choices[name]) * rng.random() ** 1.3)]
        return re.sub(r"\{(\w+)\}", lambda match: expand(match[1]), option)

    def paragraph(kind: str) -> str:
        text = re.sub(r"\b([Aa]) (?=[aeiou]|honest)", r"\1n ", expand(kind))
        text = re.sub(r"(^|\.”? )(“?_?)([a-z])", lambda match: match[1] + match[2] + match[3].upper(), text)
        return textwrap.fill(text, 72, break_on_hyphens=False)

    parts = [TITLE, MARKER.format("START"), "\n\n\nPRIDE AND PREJUDICE", "A Stand-In"]
    for chapter in range(1, 41):
        parts.append(f"\n\nChapter {chapter}\n")
        n_words = 0
        while n_words < 1700:
            parts.append(paragraph("paragraph"))
            n_words += len(parts[-1].split())
    parts += ["\n\n" + MARKER.format("END"), "\n*** START: FULL LICENSE ***"]
    parts += [f"1.{section}.\n" + paragraph("term") for section in range(1, 120)]
    (folder / "1342-0.txt").write_bytes(("\ufeff" + "\n\n".join(parts) + "\n").encode())


# --- chest CT -------------------------------------------------------------------------------------

N_SLICES, SIZE, LUNG = 99, 512, -870  # Hounsfield units


def _put(image: np.ndarray, x: float, y: float, rx: float, ry: float, value: float, inside: float | None = None):
    """Draw an ellipse; with `inside`, only where the image has this value."""
    top, left = max(0, int(y - ry)), max(0, int(x - rx))
    window = image[top : max(0, int(y + ry) + 2), left : max(0, int(x + rx) + 2)]
    rows = ((np.arange(window.shape[0], dtype=np.float32) + (top - y)) / ry) ** 2
    columns = ((np.arange(window.shape[1], dtype=np.float32) + (left - x)) / rx) ** 2
    chosen = rows[:, None] + columns <= 1
    window[chosen if inside is None else chosen & (window == inside)] = value


def _phantom(t: float, vessels: np.ndarray) -> np.ndarray:
    """Return a slice of the phantom; `t` runs from the neck, 0, to the belly, 1."""
    image = np.full((SIZE, SIZE), -1000, dtype=np.float32)
    wide = min(1.0, 0.7 + 2 * t)
    _put(image, 256, 950, 620, 480, -250)  # the table
    _put(image, 256, 962, 618, 480, -1000)
    _put(image, 256, 245, 275 * wide, 218 * wide, -100)  # fat
    _put(image, 256, 245, 246 * wide, 190 * wide, 45)  # muscle
    lung = np.sqrt(max(0.0, 1 - ((t - 0.46) / 0.42) ** 2))
    _put(image, 140, 245, 96 * lung + 0.1, 148 * lung + 0.1, LUNG)
    _put(image, 372, 245, 96 * lung + 0.1, 148 * lung + 0.1, LUNG)
    for i, (x, y, drift_x, drift_y, radius) in enumerate(vessels):
        x, y = (140, 372)[i % 2] + x * lung + drift_x * (t - 0.5), 245 + y * lung + drift_y * (t - 0.5)
        _put(image, x, y, radius, radius, 40, inside=LUNG)
    if t < 0.45:
        _put(image, 256, 225, 13, 15, -990)  # windpipe
    if 0.35 < t < 0.75:
        _put(image, 285, 190, 95 * np.sin(np.pi * (t - 0.35) / 0.4) + 0.1, 80, 110)  # heart
    if t > 0.6:
        _put(image, 165, 215, 330 * (t - 0.6), 300 * (t - 0.6), 120)  # liver
    _put(image, 285, 300, 22, 22, 220)  # aorta, with contrast
    for i in range(36):  # each pair of ribs runs down from the back to the front
        along = (40 * (i // 2) - 600 * t) / 160
        if 0 < along < 0.8:
            angle = np.pi * (0.5 + (0.12 + along) * (1, -1)[i % 2])
            _put(image, 256 + 238 * wide * np.cos(angle), 245 + 182 * wide * np.sin(angle), 12, 9, 600)
    _put(image, 256, 350, 36, 30, 500)  # spine
    _put(image, 256, 350, 32, 26, 180 + 60 * np.sin(60 * t))
    _put(image, 256, 388, 12, 10, 20)
    return image


def chest_ct(folder: Path) -> None:
    """Write 99 DICOM slices of a phantom; as in the real series, names of files are not in order of position."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    rng = np.random.default_rng(6)
    vessels = np.column_stack([rng.normal(0, [40, 60, 90, 90], (80, 4)), rng.gamma(3, 0.9, 80) + 1])
    uid = f"2.25.7{VERSION}0"
    for number, place in enumerate(rng.permutation(N_SLICES).tolist()):
        noise = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
        stored = np.round(_phantom(place / (N_SLICES - 1), vessels) + 35 * noise) + 1024
        meta, image = FileMetaDataset(), Dataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID, meta.ImplementationVersionName = f"{uid}1", "STANDIN"
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"{uid}2{place:02d}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = f"{uid}3", f"{uid}4", f"{uid}5"
        image.PatientName = image.PatientID = image.SeriesDescription = "Stand-in"
        image.Modality, image.PatientPosition, image.PhotometricInterpretation = "CT", "HFS", "MONOCHROME2"
        image.StudyDate, image.StudyTime, image.SeriesNumber, image.InstanceNumber = "20000101", "120000", 2, place + 1
        image.ImagePositionPatient, image.SliceLocation = [-143.5, -287.5, 6 - 3 * place], 6 - 3 * place
        image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5625, 0.5625]
        image.SliceThickness, image.Rows, image.Columns, image.SamplesPerPixel = 3, SIZE, SIZE, 1
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.RescaleIntercept, image.RescaleSlope, image.file_meta = -1024, 1, meta
        image.PixelData = np.clip(stored, 0, 4095).astype("<u2").tobytes()
        image.save_as(folder / f"{number:06d}.dcm", enforce_file_format=True)
