"""helpers.fast: whitening, alternating flips, views, averaged weights, and the training as a whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import fast
from helpers.runtime import generator, seeded_weights
from helpers.training import evaluate


def photographs(n=40, size=16):
    """Smooth random images: neighbouring pixels and colours are correlated, as in photographs."""
    X = torch.randn(n, 3, size, size, generator=generator("test images"))
    X = F.avg_pool2d(F.pad(X, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return X + 0.5 * X.mean(dim=1, keepdim=True)


def labelled(n=40):
    """Images whose brightness tells the class."""
    X = photographs(n)
    y = torch.arange(n) % 2
    return X + y[:, None, None, None], y


def tiny(seed=0, **changes):
    X, y = labelled()
    return fast.train(X, y, seed=seed, n_epochs=3, widths=(4, 8), batch_size=10, **changes)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_outputs_of_the_whitening_kernels_are_uncorrelated_with_variance_1(size):
    X = photographs()
    kernels = fast.whitening_kernels(X, size, eps=0.0)
    assert kernels.shape == (3 * size**2, 3, size, size)
    outputs = F.conv2d(X, kernels).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.cov(outputs), torch.eye(len(kernels)), atol=2e-3, rtol=0)
    before = torch.cov(F.unfold(X, size).transpose(1, 2).flatten(0, 1).T)
    assert (before - torch.eye(len(kernels))).abs().max() > 0.2


def test_whitening_puts_the_largest_variance_first_and_eps_tames_the_last():
    X = photographs()
    free, tamed = fast.whitening_kernels(X, eps=0.0), fast.whitening_kernels(X, eps=0.1)
    lengths = free.flatten(1).norm(dim=1)
    assert (lengths[1:] >= lengths[:-1]).all()
    assert tamed[-1].norm() < 0.9 * free[-1].norm()
    torch.testing.assert_close(tamed[0] / tamed[0].norm(), free[0] / free[0].norm())


def test_whitening_does_not_depend_on_the_sign_that_a_library_gives_an_eigenvector(monkeypatch):
    X, eigh = photographs(), torch.linalg.eigh
    kernels = fast.whitening_kernels(X)
    monkeypatch.setattr(torch.linalg, "eigh", lambda A: (eigh(A)[0], -eigh(A)[1]))
    torch.testing.assert_close(fast.whitening_kernels(X), kernels)


def test_the_first_layer_is_frozen_and_the_rest_learns():
    X, _ = labelled()
    with seeded_weights(0):
        start = fast.FastNet(X, 2, (4, 8))
    model = tiny().model
    torch.testing.assert_close(model.whiten.weight, start.whiten.weight, rtol=0, atol=0)
    for name in ("whiten.bias", "blocks.1.weight", "head.weight"):
        assert not torch.equal(model.get_parameter(name), start.get_parameter(name)), name
    assert model(X).shape == (40, 2)


def test_a_convolution_copies_its_first_channels_at_the_start():
    conv = fast._conv(3, 5)
    X = photographs(2)
    torch.testing.assert_close(conv(X)[:, :3], X)


def test_each_image_is_mirrored_in_every_second_epoch():
    X, y = photographs(), torch.arange(40)
    batches = fast.AlternatingBatches(X, y, 10, 0, shift=0)
    states = []
    for _ in range(3):
        state = torch.empty(40, dtype=torch.bool)
        for images, which in batches:
            for image, i in zip(images, which, strict=True):
                state[i] = torch.equal(image, X[i].flip(2))
                assert state[i] or torch.equal(image, X[i])
        states.append(state)
    assert torch.equal(states[0], ~states[1])
    assert torch.equal(states[0], states[2])
    assert 5 < states[0].sum() < 35


def test_shifts_are_those_of_padding_by_reflection():
    X, y = photographs(), torch.arange(40)
    batches = fast.AlternatingBatches(X, y, 40, 0, shift=2)
    padded = F.pad(X, (2, 2, 2, 2), mode="reflect")
    seen = set()
    for images, which in batches:
        for image, i in zip(images, which, strict=True):
            windows = {
                (top, left, mirrored): padded[i, :, top : top + 16, left : left + 16].flip([2] if mirrored else [])
                for top in range(5)
                for left in range(5)
                for mirrored in (False, True)
            }
            found = [place for place, window in windows.items() if torch.equal(image, window)]
            assert len(found) == 1
            seen.add(found[0][:2])
    assert len(seen) > 12


def test_an_epoch_has_full_minibatches_of_different_images():
    X, y = photographs(), torch.arange(40)
    batches = fast.AlternatingBatches(X, y, 12, 0)
    walk = torch.cat([which for _, which in batches])
    assert len(batches) == 3
    assert len(walk) == 36 == len(walk.unique())
    assert not torch.equal(walk, torch.cat([which for _, which in batches]))
    images, _ = next(iter(batches))
    assert images.is_contiguous(memory_format=torch.channels_last)


class Symmetric(nn.Module):
    """The same answer for an image and its mirror image."""

    def forward(self, X):
        return (X + X.flip(3)).flatten(2)[:, :, :40].mean(dim=2)


def test_the_mirror_changes_nothing_for_a_symmetric_model():
    X = photographs()
    torch.testing.assert_close(fast.Views(Symmetric(), shift=0)(X), Symmetric()(X))
    assert not torch.allclose(fast.Views(Symmetric(), shift=1)(X), Symmetric()(X), atol=1e-4)


def test_views_are_the_image_two_shifts_and_their_mirror_images():
    X = photographs()
    views = fast.Views(nn.Identity()).views(X)
    assert len(views) == 6
    assert torch.equal(views[0], X)
    # Moved down and right, and up and left.
    torch.testing.assert_close(views[1][:, :, 1:, 1:], X[:, :, :-1, :-1], rtol=0, atol=0)
    torch.testing.assert_close(views[2][:, :, :-1, :-1], X[:, :, 1:, 1:], rtol=0, atol=0)
    for view, mirrored in zip(views[:3], views[3:], strict=True):
        assert torch.equal(view.flip(3), mirrored)
    assert len(fast.Views(nn.Identity(), mirror=False, shift=0).views(X)) == 1


@pytest.fixture
def steps(monkeypatch):
    """What each optimizer step used and left: pairs of a learning rate and the last layer's weights."""
    seen = []

    def note(optimizer, *_):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["params"][-1].detach().clone()))

    class Watched(torch.optim.SGD):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.register_step_post_hook(note)

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    return seen


def test_averaged_weights_equal_an_average_by_hand(steps):
    trained = tiny(average_every=5, decay=0.8)
    assert len(steps) == 12
    by_hand = steps[1][1]  # of 12 steps, the average takes in the second, the seventh and the last
    for _, weights in (steps[6], steps[11]):
        by_hand = 0.8 * by_hand + 0.2 * weights
    torch.testing.assert_close(trained.averaged.head.weight, by_hand)
    torch.testing.assert_close(trained.model.head.weight, steps[-1][1], rtol=0, atol=0)


def test_the_learning_rate_rises_to_its_top_and_ends_with_the_last_step(steps):
    tiny(lr=0.5, warm_up=0.25)
    rates = torch.tensor([rate for rate, _ in steps])
    expected = torch.cat([torch.linspace(0.1, 0.5, 3), torch.linspace(0.5, 0.05, 10)[1:]])
    torch.testing.assert_close(rates, expected)


def test_equal_seeds_give_equal_results_and_others_do_not():
    one, two, other = tiny(), tiny(), tiny(seed=1)
    assert one.history["loss"] == two.history["loss"] != other.history["loss"]
    for a, b in zip(one.averaged.parameters(), two.averaged.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert one.history["all_seconds"][0] >= one.history["seconds"][-1]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tiny()
    assert torch.equal(before, torch.get_rng_state())


def test_training_learns_and_views_can_be_evaluated():
    X, y = labelled(80)
    trained = fast.train(X, y, seed=0, n_epochs=8, widths=(4, 8), batch_size=20)
    measured = evaluate(fast.Views(trained.averaged), [(X, y)], nn.CrossEntropyLoss())
    assert measured["accuracy"] > 0.9


def test_half_precision_gives_nearly_the_same_logits_and_keeps_weights_whole():
    X, _ = labelled()
    with seeded_weights(0):
        whole = fast.FastNet(X, 2, (4, 8)).eval()
    with seeded_weights(0):
        half = fast.FastNet(X, 2, (4, 8), half=True).eval()
    with torch.no_grad():
        assert half(X).dtype == torch.float32
        torch.testing.assert_close(half(X), whole(X), atol=0.03, rtol=0.05)
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda X, y: fast.whitening_kernels(X[0]), "need images N x C x H x W"),
        (lambda X, y: fast.whitening_kernels(X, 17), "patches of 17 x 17 pixels"),
        (lambda X, y: fast.AlternatingBatches(X, y[:-1], 10, 0), "X must be N x C x H x W and y N"),
        (lambda X, y: fast.AlternatingBatches(X, y, 41, 0), "40 images cannot fill minibatches of 41"),
        (lambda X, y: fast.AlternatingBatches(X, y, 10, 0, shift=16), "cannot be shifted by 16"),
    ],
)
def test_errors_are_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call(*labelled())
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
