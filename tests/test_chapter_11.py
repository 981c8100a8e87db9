"""Chapter 11's definitions against references: torch, the helpers, and the recorded recipes."""

import copy

import pytest
import torch
from torch import nn

from helpers import models
from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    """The definitions; some default arguments and bodies refer to what the chapter computes."""
    return definitions(
        "11",
        device=torch.device("cpu"),
        loss_fn=nn.CrossEntropyLoss(),
        mean=torch.tensor([0.5, 0.4, 0.3]),
        std=torch.tensor([0.2, 0.3, 0.25]),
        order=torch.randperm(1024, generator=generator("order")),
    )


@pytest.fixture
def images():
    return torch.randn(6, 3, 32, 32, generator=generator("images"))


@pytest.mark.parametrize(
    ("sizes", "reference"),
    [((3072, 512, 2), models.dense_net), ((3072, 1024, 512, 128, 2), models.deep_dense_net)],
)
def test_dense_net_is_the_recorded_one(chapter, images, sizes, reference):
    networks = []
    for make in (lambda: chapter["dense_net"](*sizes), reference):
        with seeded_weights(4):
            networks.append(make())
    torch.testing.assert_close(networks[0](images), networks[1](images), rtol=0, atol=0)


def test_to_picture_undoes_normalise(chapter):
    from torchvision.transforms import v2

    x = torch.rand(3, 5, 4, generator=generator("picture"))
    z = v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])(x)
    torch.testing.assert_close(chapter["to_picture"](z), x)
    assert chapter["to_picture"](100 * z).max() == 1


def test_squared_error(chapter):
    z = torch.randn(7, 3, generator=generator("z"))
    y = torch.tensor([0, 1, 2, 2, 1, 0, 2])
    by_hand = sum((z[i].softmax(0)[k] - (y[i] == k).float()) ** 2 for i in range(7) for k in range(3)) / 21
    torch.testing.assert_close(chapter["squared_error"](z, y), by_hand)


def test_transformed(chapter):
    pairs = [(torch.full((2,), float(i)), i) for i in range(5)]
    few = chapter["Transformed"](pairs, lambda x: 2 * x, 3)
    assert len(few) == 3
    assert few[2][0].tolist() == [4, 4]
    assert few[2][1] == 2


def test_shuffle_pixels_moves_whole_places(chapter, images):
    shuffled = chapter["shuffle_pixels"](images)
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    colours = {tuple(pixel) for pixel in images[0].flatten(1).T.tolist()}
    assert {tuple(pixel) for pixel in shuffled[0].flatten(1).T.tolist()} == colours


def test_training_on_shuffled_pixels_from_shuffled_weights(chapter, images):
    """Step by step the same losses, as the text says."""
    y, order = torch.tensor([0, 1, 1, 0, 1, 0]), chapter["order"]
    with seeded_weights(1):
        net = chapter["dense_net"](3072, 8, 2).double()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[1].weight.copy_(net[1].weight.unflatten(1, (3, 1024))[:, :, order].flatten(1))
    losses = []
    for model, X in ((net, images), (other, chapter["shuffle_pixels"](images))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(5):
            loss = nn.CrossEntropyLoss()(model(X.double()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[4] < losses[0]
    assert losses[:5] == pytest.approx(losses[5:], rel=1e-9)


def test_record_or_none(chapter):
    assert chapter["record_or_none"]("no such record") is None
    assert chapter["record_or_none"]("12_dense").content["id"] == "12_dense"
    assert chapter["record_or_none"]("12_dense", 11) is None  # it holds ten seeds
