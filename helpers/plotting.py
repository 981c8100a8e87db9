"""Pictures in the style of the house. Every function draws on `ax` (or a new one) and returns it.

Introduced in chapter 01.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): eight colours that colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#222222"
COLORS = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, BLACK)
PAPER = "#FBFAF6"  # off-white: figures read on light and on dark pages


def use_house_style() -> None:
    """Set matplotlib's defaults: an opaque off-white face, the palette, sizes that read on a phone."""
    plt.rcParams.update(
        {
            "figure.figsize": (5.2, 3.2),  # narrow, so that its letters are large on a phone
            "figure.dpi": 160,
            "figure.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11.5,
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.grid": False,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "font.size": 11,
            "image.interpolation": "nearest",
        }
    )


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def show_image(image: torch.Tensor, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw one image without axes.

    Parameters
    ----------
    image : torch.Tensor
        C x H x W with C = 3 (red, green, blue) or 1, or H x W; uint8 in 0..255 or float in 0..1.

    Raises
    ------
    ValueError
        Another shape, or floats outside 0..1, which would be clipped without a word.
    """
    ax = _axes(ax)
    pixels = image.detach().cpu()
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or len(pixels) not in (1, 3):
        raise ValueError(f"show_image takes C x H x W with 1 or 3 channels; got shape {tuple(image.shape)}.")
    if pixels.is_floating_point() and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"show_image takes floats between 0 and 1; these go from {pixels.min():.3g} to {pixels.max():.3g}."
        )
    grey = len(pixels) == 1
    top = 1.0 if pixels.is_floating_point() else 255
    shown = pixels[0] if grey else pixels.permute(1, 2, 0)
    ax.imshow(shown.numpy(), cmap="gray" if grey else None, vmin=0, vmax=top)
    ax.set_axis_off()
    ax.set_title(title, loc="center")
    return ax


def stretch(values: torch.Tensor) -> torch.Tensor:
    """Shift and scale `values` to 0..1, so that they can be shown; zero becomes mid-grey.

    The largest magnitude is mapped to 0 or 1, so that signs can be read off the brightness.
    """
    largest = values.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
    return (values / largest + 1) / 2


def show_images(
    images: Sequence[torch.Tensor] | torch.Tensor,
    titles: Sequence[str] = (),
    n_columns: int = 8,
    size: float = 0.65,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw images side by side in rows; return one axes an image.

    Parameters
    ----------
    images : tensor or sequence
        As `show_image` takes them, N of them.
    titles : sequence of str
        One an image, or none.
    n_columns : int
        Images in a row.
    size : float
        Width of an image in inches.
    ax : sequence of Axes, optional
        Where to draw; at least one an image.

    Raises
    ------
    ValueError
        No images, or another number of titles or axes than images.
    """
    N = len(images)
    if N == 0:
        raise ValueError("show_images got no images.")
    if titles and len(titles) != N:
        raise ValueError(f"show_images got {N} images and {len(titles)} titles.")
    if ax is None:
        n_columns = min(n_columns, N)
        n_rows = -(-N // n_columns)
        height = size + (0.25 if titles else 0.05)
        _, grid = plt.subplots(n_rows, n_columns, figsize=(size * n_columns, height * n_rows), squeeze=False)
        ax = list(grid.flat)
        for unused in ax[N:]:
            unused.set_axis_off()
    if len(ax) < N:
        raise ValueError(f"show_images got {N} images and {len(ax)} axes.")
    for one, image, title in zip(ax, images, titles or [""] * N, strict=False):
        show_image(image, title, one)
        one.title.set_fontsize(9)
    return list(ax[:N])


def lines_with_band(
    x: Sequence[float],
    runs: Sequence[Sequence[float]],
    label: str,
    color: str = BLUE,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean over runs, and a band from the smallest to the largest.

    Parameters
    ----------
    x : sequence of M numbers
    runs : sequence of runs, each of M numbers

    Raises
    ------
    ValueError
        No run, or a run that is not as long as `x`.
    """
    values = np.asarray(runs, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(x) or len(values) == 0:
        raise ValueError(f"lines_with_band takes runs of {len(x)} numbers each; got shape {values.shape}.")
    ax = _axes(ax)
    ax.plot(x, values.mean(axis=0), color=color, label=label)
    ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    return ax


def contours(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: Sequence[float],
    y: Sequence[float],
    ax: Axes | None = None,
    n_levels: int = 14,
) -> Axes:
    """Draw level curves of a positive function of two numbers; darker is lower.

    The levels are spaced evenly in the logarithm, so that a narrow valley keeps its shape.

    Parameters
    ----------
    function : callable
        Takes two tensors M x K of coordinates and returns the values there, M x K.
    x, y : sequence of numbers
        Coordinates of the grid, K and M of them.
    """
    ax = _axes(ax)
    X, Y = torch.meshgrid(torch.as_tensor(x), torch.as_tensor(y), indexing="xy")
    values = function(X, Y).detach().cpu().clamp_min(1e-12).log10().numpy()
    ax.contourf(X.numpy(), Y.numpy(), values, levels=n_levels, cmap="cividis", alpha=0.75)
    ax.contour(X.numpy(), Y.numpy(), values, levels=n_levels, colors=PAPER, linewidths=0.5)
    return ax


def show_svg(figure: Figure, title: str) -> None:
    """Show a diagram as SVG: sharp at any size, with its paper, so that it reads on a dark page too.

    The figure is closed, so that no notebook shows it twice. Equal figures give equal text.

    Parameters
    ----------
    title : str
        Says in a few words what the diagram is; screen readers read it.
    """
    from html import escape

    from IPython.display import SVG, display

    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    plt.close(figure)
    display(SVG(file.getvalue().replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)))


def frame_of(figure: Figure, dpi: float = 130) -> np.ndarray:
    """Return a figure as pixels, uint8 H x W x 3: one frame of an animation.

    The figure is closed, so that no notebook shows it; it may be changed and drawn again.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    plt.close(figure)
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def show_animation(frames: Sequence[np.ndarray], seconds: float = 0.2, n_colors: int = 64, max_kb: float = 500) -> None:
    """Show frames one after the other, for ever, as a GIF.

    Draw a still beside it: paper does not move, and some readers switch animations off.

    Parameters
    ----------
    frames : sequence of uint8 arrays, all H x W or all H x W x 3
    seconds : float
        How long each frame is seen; the last one stays five times as long.
    n_colors : int
        Colours of the whole animation, at most 256; fewer make a smaller file.
    max_kb : float
        What a page may spend on one animation, in kB.

    Raises
    ------
    ValueError
        No frames, frames of different shapes, or a file larger than `max_kb`.
    """
    from IPython.display import display
    from PIL import Image

    if len({frame.shape for frame in frames}) != 1:
        raise ValueError("show_animation takes one or more frames of one shape.")
    # One palette for all frames, taken from a few of them, and no dithering: what stands still
    # has the same pixels in each frame and costs nothing.
    some = np.concatenate(frames[:: max(1, len(frames) // 8)])
    palette = Image.fromarray(some).convert("RGB").quantize(n_colors)
    pictures = [
        Image.fromarray(frame).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
    ]
    file = io.BytesIO()
    durations = [1000 * seconds] * (len(frames) - 1) + [5000 * seconds]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    kb = len(file.getvalue()) / 1000
    if kb > max_kb:
        raise ValueError(
            f"This GIF has {kb:.0f} kB, and {max_kb:.0f} are allowed: fewer or smaller frames, or fewer colours."
        )
    height, width = frames[0].shape[:2]
    text = f"GIF of {len(frames)} frames, {width} x {height} pixels"
    display({"image/gif": base64.b64encode(file.getvalue()).decode(), "text/plain": text}, raw=True)
