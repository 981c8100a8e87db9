"""Chapter and helper give equal numbers: definitions are taken out of the notebooks and compared."""

import ast

import nbformat
import pytest
import torch

from helpers import batches, models, training
from helpers.runtime import generator, seeded_weights
from tools.surroundings import NOTEBOOKS


def definitions(chapter, **names):
    """Execute the imports and definitions of a chapter (nothing else) and return its names.

    `names` stand in for what the definitions refer to and the chapter computes.
    """
    path = next(NOTEBOOKS.glob(f"{chapter}_*.ipynb"))
    space = dict(names)
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or "stub" in cell.metadata.get("tags", []):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
                exec(compile(ast.Module([node], []), path.name, "exec"), space)
    return space


@pytest.fixture(scope="module")
def chapter_12():
    return definitions("12", device=torch.device("cpu"))


@pytest.fixture
def images():
    return torch.randn(10, 3, 32, 32, generator=generator("images"))


@pytest.fixture
def labels():
    return torch.randint(0, 2, (10,), generator=generator("labels"))


def same_function(one, other, X):
    """Whether two makers of networks draw the same weights and compute the same logits."""
    networks = []
    for make in (one, other):
        with seeded_weights(4):
            networks.append(make())
    torch.testing.assert_close(networks[0](X), networks[1](X), rtol=0, atol=0)


def test_net(chapter_12, images):
    same_function(chapter_12["Net"], models.Net, images)


@pytest.mark.parametrize("pool", ["max", "average", "strided"])
def test_small_net(chapter_12, images, pool):
    same_function(lambda: chapter_12["small_net"](pool), lambda: models.small_net(pool), images)


def test_small_net_is_net_in_another_order(images):
    with seeded_weights(4):
        net = models.Net()
    with seeded_weights(4):
        small = models.small_net()
    torch.testing.assert_close(small(images), net(images))


def test_small_net_refuses_an_unknown_pooling():
    with pytest.raises(ValueError, match="must be one of max, average, strided"):
        models.small_net("median")


def test_dense_net(chapter_12, images):
    same_function(lambda: chapter_12["dense_net"](3072, 512, 2), models.dense_net, images)


def test_loop(chapter_12, images, labels):
    """The chapter's loop and `fit` move the weights alike and measure the same loss."""
    weights, losses = [], []
    for loop in ("chapter", "house"):
        with seeded_weights(4):
            net = models.Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        loader = batches.Minibatches(images, labels, 4)
        loss_fn = torch.nn.CrossEntropyLoss()
        if loop == "chapter":
            own, sizes = chapter_12["train_one_epoch"](net, loader, loss_fn, optimizer)
            losses.append(float((own * sizes).sum() / sizes.sum()))
        else:
            losses += training.fit(net, loader, loss_fn, optimizer, 1)["loss"]
        weights.append(torch.nn.utils.parameters_to_vector(net.parameters()))
    assert torch.equal(*weights)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_accuracy(chapter_12, images, labels):
    with seeded_weights(4):
        net = models.Net()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 4)
    measured = training.evaluate(net, batches.Minibatches(images, labels, 4), torch.nn.CrossEntropyLoss())
    assert chapter_12["accuracy"](net, loader) == measured["accuracy"]


def test_convolutions_by_hand(chapter_12, images):
    conv = torch.nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            chapter_12["convolve"](images[0, :, :6, :7], conv.weight, conv.bias), conv(images[:1, :, :6, :7])[0]
        )
        torch.testing.assert_close(chapter_12["convolve_unfolded"](images, conv.weight, conv.bias), conv(images))


def test_one_cycle(chapter_12):
    """The chapter's optimizer and schedule are those of the recorded recipe."""
    model = torch.nn.Linear(1, 1)
    optimizer, schedule = chapter_12["one_cycle"](model, range(10), 2, 0.1)
    recipe = torch.optim.SGD(model.parameters(), 0.1, momentum=0.95, nesterov=True)
    expected = torch.optim.lr_scheduler.OneCycleLR(recipe, 0.1, epochs=2, steps_per_epoch=10)
    for _ in range(20):
        for key in ("lr", "momentum", "nesterov", "weight_decay"):
            assert optimizer.param_groups[0][key] == recipe.param_groups[0][key]
        for one, scheduler in ((optimizer, schedule), (recipe, expected)):
            one.step()
            if scheduler.last_epoch < 19:
                scheduler.step()
