"""Plotting functions: they return their axes, draw on the ones given, and refuse wrong shapes."""

import matplotlib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
