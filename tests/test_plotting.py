"""Plotting functions: they return their axes, draw on the ones given, and refuse wrong shapes."""

import base64
import io
from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from helpers import plotting

sizes = st.integers(1, 6)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@settings(deadline=None, max_examples=20, derandomize=True)
@given(channels=st.sampled_from([1, 3]), height=sizes, width=sizes)
def test_show_image_draws_any_size(channels, height, width):
    ax = plotting.show_image(torch.rand(channels, height, width))
    drawn = ax.images[0].get_array()
    assert drawn.shape[:2] == (height, width)
    plt.close("all")


def test_show_image_draws_on_the_axes_given():
    _, ax = plt.subplots()
    assert plotting.show_image(torch.zeros(3, 2, 2), "title", ax) is ax
    assert ax.get_title(loc="center") == "title"


def test_show_image_keeps_the_range_of_integers():
    ax = plotting.show_image(torch.tensor([[[10, 20]]], dtype=torch.uint8))
    assert ax.images[0].get_clim() == (0, 255)


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 3, 4, 4), (4,)])
def test_show_image_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="takes C x H x W with 1 or 3 channels; got shape"):
        plotting.show_image(torch.zeros(shape))


def test_show_image_refuses_to_clip_in_silence():
    with pytest.raises(ValueError, match=r"between 0 and 1; these go from -1 to 2"):
        plotting.show_image(torch.tensor([[[-1.0, 2.0]]]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        plotting.show_image(torch.tensor([[[torch.nan, 0.5]]]))


@settings(deadline=None, max_examples=15, derandomize=True)
@given(n=st.integers(1, 9), n_columns=st.integers(1, 5))
def test_show_images_returns_an_axes_an_image(n, n_columns):
    axes = plotting.show_images(torch.rand(n, 3, 2, 2), [str(i) for i in range(n)], n_columns)
    assert [ax.get_title(loc="center") for ax in axes] == [str(i) for i in range(n)]
    plt.close("all")


def test_show_images_draws_on_the_axes_given():
    _, grid = plt.subplots(1, 3)
    assert plotting.show_images(torch.rand(2, 1, 2, 2), ax=grid) == list(grid[:2])


def test_show_images_refuses():
    with pytest.raises(ValueError, match="no images"):
        plotting.show_images([])
    with pytest.raises(ValueError, match="2 images and 1 titles"):
        plotting.show_images(torch.rand(2, 3, 2, 2), ["one"])
    with pytest.raises(ValueError, match="2 images and 1 axes"):
        plotting.show_images(torch.rand(2, 3, 2, 2), ax=[plt.subplots()[1]])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_stretch_keeps_order_and_zero(values):
    values = torch.tensor(values)
    shown = plotting.stretch(values)
    assert 0 <= shown.min() <= shown.max() <= 1
    assert torch.equal(shown[values == 0], torch.full_like(shown[values == 0], 0.5))
    order = values.argsort()
    assert (shown[order].diff() >= 0).all()


def test_lines_with_band_draws_mean_and_range():
    _, ax = plt.subplots()
    assert plotting.lines_with_band([1, 2], [[0.0, 4.0], [2.0, 8.0]], "runs", ax=ax) is ax
    assert ax.lines[0].get_ydata().tolist() == [1.0, 6.0]
    vertices = ax.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == 0
    assert vertices[:, 1].max() == 8


@pytest.mark.parametrize("runs", [[], [[1.0]], [1.0, 2.0]])
def test_lines_with_band_refuses_runs_of_another_length(runs):
    with pytest.raises(ValueError, match="takes runs of 2 numbers each"):
        plotting.lines_with_band([1, 2], runs, "runs")


def test_house_style_has_an_opaque_face_that_reads_in_both_themes():
    with matplotlib.rc_context():
        plotting.use_house_style()
        assert matplotlib.colors.to_rgba(plt.rcParams["figure.facecolor"])[3] == 1
        fig, ax = plt.subplots()
        assert fig.get_facecolor() == ax.get_facecolor()


# --- surfaces and animations ---------------------------------------------------------------------


def test_contours_are_drawn_over_the_rectangle_given():
    ax = plotting.contours(lambda x, y: x**2 + y**2, torch.linspace(-2, 2, 9), torch.linspace(0, 1, 5))
    assert ax.get_xlim() == (-2, 2)
    assert ax.get_ylim() == (0, 1)
    assert len(ax.collections) == 2


def test_contours_put_the_first_argument_along_x():
    shapes = []

    def remember(x, y):
        shapes.append((x.shape, x[0, 1] - x[0, 0], y[0, 1] - y[0, 0]))
        return x**2 + 1

    plotting.contours(remember, torch.arange(4.0), torch.arange(3.0))
    assert shapes == [((3, 4), 1, 0)]


def moving_square(n_frames, size=40):
    frames = []
    for k in range(n_frames):
        frame = np.full((size, size, 3), 250, dtype=np.uint8)
        frame[k : k + 5, k : k + 5] = (0, 114, 178)
        frames.append(frame)
    return frames


def shown(capture):
    """Return the GIF that `show_animation` handed to the notebook, decoded to frames and durations."""
    (data,) = (call.args[0] for call in capture.call_args_list)
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/gif"])))
    frames, durations = [], []
    for k in range(picture.n_frames):
        picture.seek(k)
        frames.append(np.asarray(picture.convert("RGB")))
        durations.append(picture.info["duration"])
    return data, frames, durations


def test_an_animation_shows_every_frame_as_it_was_drawn(monkeypatch):
    display = Mock()
    monkeypatch.setattr("IPython.display.display", display)
    frames = moving_square(10)
    plotting.show_animation(frames, seconds=0.1)
    data, found, durations = shown(display)
    assert data["text/plain"] == "GIF of 10 frames, 40 x 40 pixels"
    assert durations == [100] * 9 + [500]
    for drawn, frame in zip(found, frames, strict=True):
        assert np.abs(drawn.astype(int) - frame).max() < 8


def test_grey_frames_are_taken_too(monkeypatch):
    display = Mock()
    monkeypatch.setattr("IPython.display.display", display)
    frames = [np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1)), np.zeros((8, 64), np.uint8)]
    plotting.show_animation(frames, n_colors=256)
    _, found, _ = shown(display)
    assert np.abs(found[0][..., 0].astype(int) - frames[0]).max() < 8


def test_an_animation_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="one or more frames of one shape"):
        plotting.show_animation([])
    with pytest.raises(ValueError, match="one or more frames of one shape"):
        plotting.show_animation([np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)])
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"has \d+ kB, and 1 are allowed"):
        plotting.show_animation([noise], max_kb=1)


def test_a_figure_becomes_a_frame_and_is_closed():
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.set_facecolor("red")
    frame = plotting.frame_of(figure, dpi=50)
    assert frame.shape == (50, 100, 3)
    assert (frame == (255, 0, 0)).all(axis=2).any()
    assert not plt.fignum_exists(figure.number)
    ax.set_facecolor("blue")
    assert (plotting.frame_of(figure, dpi=50) == (0, 0, 255)).all(axis=2).any()


def test_a_diagram_is_one_labelled_svg_and_the_same_each_time(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for _ in range(2):
        figure, ax = plt.subplots()
        ax.text(0.5, 0.5, "$w$")
        plotting.show_svg(figure, "Weights & losses")
        assert not plt.fignum_exists(figure.number)
    first, second = (picture.data for picture in shown)
    assert first == second
    assert first.count('role="img" aria-label="Weights &amp; losses"') == 1
