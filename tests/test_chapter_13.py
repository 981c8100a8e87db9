"""Chapter 13's own layers are those of `torch.nn`, and its networks and split those of the recorded recipes."""

import pytest
import torch
from torch import nn

from helpers.recipes import chapter_13 as recipes
from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions, same_function


@pytest.fixture(scope="module")
def chapter():
    return definitions("13", device=torch.device("cpu"))


LAYERS = {
    "convolution": ("Convolution", nn.Conv2d, (3, 4, 3), {}),
    "convolution, padded": ("Convolution", nn.Conv2d, (3, 2, 5), {"padding": 2}),
    "pooling": ("Pooling", nn.MaxPool2d, (2,), {}),
    "pooling, odd": ("Pooling", nn.MaxPool2d, (3,), {}),
    "batch normalisation": ("BatchNormalisation", nn.BatchNorm2d, (3,), {}),
    "batch normalisation, quick": ("BatchNormalisation", nn.BatchNorm2d, (3,), {"eps": 0.1, "momentum": 0.4}),
    "dropout": ("Dropout", nn.Dropout, (0.3,), {}),
}


def layers(chapter, kind):
    """Return the chapter's layer and the library's with equal weights, which are not those of a new layer."""
    name, library, arguments, settings = LAYERS[kind]
    with seeded_weights(1):
        own, other = (make(*arguments, **settings).double() for make in (chapter[name], library))
        for tensor in (*own.parameters(), *own.buffers()):
            if tensor.is_floating_point():
                tensor.data.add_(torch.rand_like(tensor))
    other.load_state_dict(own.state_dict())
    return own, other


def passes(layer, X):
    """Return the output and the gradients of X and all parameters, for a weighted sum."""
    X = X.clone().requires_grad_()
    with seeded_weights(2):
        out = layer(X)
    weights = torch.randn(out.shape, dtype=out.dtype, generator=generator("sum"))
    gradients = torch.autograd.grad((out * weights).sum(), [X, *layer.parameters()])
    return out, *gradients


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(chapter, kind, training):
    """Equal outputs and gradients, for three batches one after the other, and equal state afterwards."""
    own, other = (layer.train(training) for layer in layers(chapter, kind))
    for seed in range(3):
        X = torch.randn(6, 3, 9, 10, dtype=torch.float64, generator=generator("images", seed)).relu()  # many ties
        torch.testing.assert_close(passes(own, X), passes(other, X))
    torch.testing.assert_close(own.state_dict(), other.state_dict())


@pytest.mark.parametrize("kind", ["convolution", "convolution, padded"])
def test_first_weights_are_drawn_alike(chapter, kind):
    name, library, arguments, settings = LAYERS[kind]
    states = []
    for make in (chapter[name], library):
        with seeded_weights(3):
            states.append(make(*arguments, **settings).state_dict())
    torch.testing.assert_close(*states)


def test_check_equal_finds_a_wrong_gradient(chapter):
    """The chapter's own check accepts its layers and refuses statistics that are cut off."""
    X = torch.randn(4, 3, 5, 5, generator=generator("images"))
    chapter["check_equal"](chapter["BatchNormalisation"](3), nn.BatchNorm2d(3), X)
    with pytest.raises(AssertionError):
        chapter["check_equal"](chapter["Detached"](3), nn.BatchNorm2d(3), X)
    with pytest.raises(AssertionError):
        chapter["check_equal"](nn.AvgPool2d(2), nn.MaxPool2d(2), X)


def test_networks(chapter):
    """Published, pooled and with dropout: the recorded ones, with the numbers of parameters that the text names."""
    X = torch.randn(5, 1, 28, 28, generator=generator("images"))
    count = chapter["n_parameters"]
    same_function(chapter["published_net"], lambda: recipes._network(False, 0.0), X)
    same_function(chapter["pooled_net"], lambda: recipes._network(True, 0.0), X)
    assert count(chapter["published_net"]()) == 202_386
    assert chapter["sizes"](chapter["published_net"]()) == [160, 1_160, 200_736, 330]
    assert count(chapter["pooled_net"]()) == 14_226
    assert count(chapter["SlippedNet"]()) - count(chapter["DigitNet"]()) == 101_770
    for make, pool in ((chapter["published_net"], False), (chapter["pooled_net"], True)):
        outputs = []
        for build in (lambda make=make: chapter["with_dropout"](make()), lambda p=pool: recipes._network(p, 0.5)):
            with seeded_weights(5):
                outputs.append(build()(X))
        assert torch.equal(*outputs)


def test_unused(chapter):
    X, y = torch.randn(5, 1, 28, 28, generator=generator("images")), torch.arange(5)
    assert chapter["unused"](chapter["DigitNet"](), X, y) == []
    expected = ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
    assert chapter["unused"](chapter["SlippedNet"](), X, y) == expected


def test_split_and_data_are_the_recorded_ones(chapter):
    """The recipe cuts the digits as the chapter does; no digit is in two parts."""
    images, labels = chapter["load"]("digits")
    rows = chapter["split"](labels, generator("split"))
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(5000))
    pixels = images / 255
    mean, deviation = pixels[rows[0]].mean(), pixels[rows[0]].std()
    for part, (X, y), n in zip(rows, recipes._digits(), (350, 50, 100), strict=True):
        torch.testing.assert_close((pixels[part] - mean) / deviation, X)
        assert torch.equal(labels[part], y)
        assert y.bincount().tolist() == [n] * 10
