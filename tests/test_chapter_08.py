"""Chapter 08: its layers, losses and gradients against PyTorch's own, on fresh inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions

SHAPES = ((2, 3), (1, 3), (3, 3), (1, 3), (3, 4), (1, 4))
CENTRES = torch.tensor([[1.0, 1], [-1, 1], [-1, -1], [1, -1]])
labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])


@pytest.fixture(scope="module")
def chapter():
    return definitions("08", SHAPES=SHAPES, CENTRES=CENTRES)


@pytest.fixture
def X():
    return torch.randn(9, 2, generator=generator("chapter 08"))


@pytest.fixture
def weights():
    g = generator("chapter 08 weights")
    return [torch.randn(*shape, generator=g) for shape in SHAPES]


def test_published_draws(chapter):
    before = torch.get_rng_state()
    X, y = chapter["draw_clouds"]()
    assert torch.equal(before, torch.get_rng_state())
    assert y.bincount().tolist() == [200] * 4
    assert int((chapter["quadrant"](X) != y).sum()) == 35


def test_summed_bce(chapter, X):
    outputs, targets = torch.sigmoid(X @ torch.ones(2, 4)), F.one_hot(labels, 4).float()
    torch.testing.assert_close(chapter["summed_bce"](outputs, targets), 4 * nn.BCELoss()(outputs, targets))


@pytest.mark.parametrize("name", ["FoldedNetwork", "LayeredNetwork", "ActiveNetwork", "LinearNetwork", "network_of"])
def test_every_form_is_the_same_function(chapter, X, weights, name):
    model = chapter[name]([2, 3, 3, 4]) if name == "network_of" else chapter[name]()
    in_shape = chapter["transpose" if len(list(model.parameters())) == 6 else "fold"](weights)
    chapter["copy_into"](model.parameters(), in_shape)
    reference = X
    for W, b in zip(weights[::2], weights[1::2]):
        reference = torch.sigmoid(F.linear(reference, W.T, b[0]))
    torch.testing.assert_close(model(X), reference)
    torch.testing.assert_close(chapter["activations"](X, weights)[2], reference)


def test_gradients_by_hand(chapter, X, weights):
    targets = F.one_hot(labels, 4).float()
    leaves = [w.clone().requires_grad_() for w in weights]
    nn.BCELoss(reduction="sum")(chapter["activations"](X, leaves)[2], targets).div(len(X)).backward()
    stacked = [torch.stack([torch.zeros_like(w), w]) for w in weights]
    for inputs, some, pick in ((X, weights, ...), (X.expand(2, -1, -1), stacked, 1)):
        for ours, leaf in zip(chapter["gradients_by_hand"](inputs, targets, some)[0], leaves):
            torch.testing.assert_close(ours[pick], leaf.grad)


def test_stacked_training_is_separate_training(chapter):
    """Three networks, each with points of its own, in one stack and one after the other."""
    g = generator("chapter 08 stack")
    targets = F.one_hot(labels, 4).float()
    points = torch.randn(3, 9, 2, generator=g)
    stacked = [torch.randn(3, *shape, generator=g) for shape in SHAPES]
    starts = [[w[n].clone() for w in stacked] for n in range(3)]
    losses = chapter["train_many"](stacked, points, targets, 21, lr=0.5)
    assert losses.shape == (3, 3)
    for n, start in enumerate(starts):
        model = chapter["PlainNetwork"](start)
        optimizer = torch.optim.SGD(model.weights, lr=0.5)
        for step in range(21):
            loss = nn.BCELoss(reduction="sum")(model(points[n]), targets) / 9
            if step % 10 == 0:
                torch.testing.assert_close(losses[step // 10, n], loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for ours, theirs in zip(stacked, model.weights):
            torch.testing.assert_close(ours[n], theirs.detach(), rtol=1e-4, atol=1e-5)


def test_memoriser(chapter, X):
    """Its answers are those of the nearest neighbour, for one set of points and for a stack."""
    memoriser, points = chapter["memoriser"], torch.randn(50, 2, generator=generator("chapter 08 points"))
    assert torch.equal(memoriser(X, X, labels), labels)
    nearest = (points[:, None] - X).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(memoriser(points, X, labels), labels[nearest])
    stack = torch.stack([X, X.flip(0)])
    both = memoriser(points.expand(2, -1, -1), stack, labels)
    assert torch.equal(both, torch.stack([labels[nearest], labels.flip(0)[nearest]]))


def test_losses_of_a_stack(chapter, X):
    targets = F.one_hot(labels, 4).float()
    stack = torch.stack([torch.sigmoid(X @ torch.ones(2, 4)), torch.sigmoid(-X @ torch.ones(2, 4))])
    for ours, outputs in zip(chapter["losses_by_network"](stack, labels), stack):
        torch.testing.assert_close(ours.float(), chapter["summed_bce"](outputs, targets))
    torch.testing.assert_close(chapter["truth"](stack[:, :, :2])[1], chapter["truth"](stack[1, :, :2]))


@pytest.mark.parametrize("ends_with_sigmoid", [True, False])
def test_centres_are_trained_on_cross_entropy(chapter, ends_with_sigmoid):
    """The first losses of the stacked 2-10-4 networks are those of nn.CrossEntropyLoss."""
    g = generator("centres")
    W1, b1, W2, b2 = (0.5 * torch.randn(20, *shape, generator=g) for shape in ((2, 10), (1, 10), (10, 4), (1, 4)))
    outputs = torch.sigmoid(CENTRES @ W1 + b1) @ W2 + b2
    outputs = torch.sigmoid(outputs) if ends_with_sigmoid else outputs
    expected = torch.stack([nn.CrossEntropyLoss()(out, torch.arange(4)) for out in outputs])
    torch.testing.assert_close(chapter["train_centres"](ends_with_sigmoid, 1)[0], expected)


def test_quadrants_layer(chapter, X):
    layer = chapter["Quadrants"]()
    torch.testing.assert_close(layer(X).exp().sum(dim=1), torch.ones(9))
    # logits of clouds with sd s: x . c / s^2
    torch.testing.assert_close(nn.NLLLoss()(layer(X), labels), nn.CrossEntropyLoss()(X @ CENTRES.T / 2, labels))
    nn.init.constant_(layer.slope, 8)
    torch.testing.assert_close(layer(X).exp().double(), chapter["truth"](X), atol=1e-6, rtol=1e-4)


def test_residual_and_solutions(chapter, X):
    inner = nn.Linear(2, 3)
    torch.testing.assert_close(chapter["Residual"](inner, 3)(X), F.pad(X, (0, 1)) + inner(X))
    with seeded_weights(1):
        ours, real = chapter["OwnLinear"](2, 4), nn.Linear(2, 4)
    ours.load_state_dict(real.state_dict())
    torch.testing.assert_close(ours(X), real(X))
    assert chapter["squeezed_softmax"](4, 0, 1)[2] == pytest.approx(math.log(1 + 3 / math.e))
    z = real(X).detach().requires_grad_()
    nn.CrossEntropyLoss()(z, labels).backward()
    torch.testing.assert_close(chapter["logit_gradient"](z.detach(), labels), z.grad)
