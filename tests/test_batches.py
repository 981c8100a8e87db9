"""Minibatches visit every item once, as DataLoader does, and augmentation changes nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from helpers.batches import Minibatches, random_crop, random_flip, shift_right
from helpers.runtime import generator

# Derandomized, so that a run on another machine tests the same; no deadline, since it may be busy.
several = settings(deadline=None, max_examples=40, derandomize=True, database=None)

shapes = st.tuples(st.integers(1, 23), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
sizes = st.integers(1, 30)


def numbered(N, C=1, H=1, W=1):
    """Return images whose pixels are all different, and the numbers of the images as targets."""
    return torch.arange(N * C * H * W).reshape(N, C, H, W).float(), torch.arange(N)


def epoch(batches):
    X, y = zip(*batches, strict=True)
    return torch.cat(X), torch.cat(y)


# --- shuffling and batch sizes -------------------------------------------------------------------


@several
@given(shape=shapes, batch_size=sizes, shuffled=st.booleans())
def test_every_item_comes_once_an_epoch_with_its_target(shape, batch_size, shuffled):
    X, y = numbered(*shape)
    batches = Minibatches(X, y, batch_size, shuffle=generator("shuffle") if shuffled else None)
    for _ in range(2):
        X_seen, y_seen = epoch(batches)
        assert sorted(y_seen.tolist()) == y.tolist()
        torch.testing.assert_close(X_seen, X[y_seen], rtol=0, atol=0)
        assert X_seen.dtype == X.dtype
        assert y_seen.dtype == y.dtype


@several
@given(shape=shapes, batch_size=sizes)
def test_all_batches_are_full_but_the_last_which_holds_the_rest(shape, batch_size):
    X, y = numbered(*shape)
    batches = Minibatches(X, y, batch_size)
    lengths = [len(images) for images, _ in batches]
    full, rest = divmod(shape[0], batch_size)
    assert lengths == [batch_size] * full + [rest] * (rest > 0)
    assert len(batches) == len(lengths)


@several
@given(N=st.integers(1, 23), batch_size=sizes)
def test_without_a_generator_the_order_stays(N, batch_size):
    X, y = numbered(N)
    batches = Minibatches(X, y, batch_size)
    for _ in range(2):
        assert epoch(batches)[1].tolist() == list(range(N))


@several
@given(N=st.integers(20, 60), batch_size=sizes, seed=st.integers(0, 1000))
def test_each_epoch_has_a_new_order(N, batch_size, seed):
    # Two of 20! orders agree by chance never.
    batches = Minibatches(*numbered(N), batch_size, shuffle=generator("shuffle", seed))
    orders = [epoch(batches)[1].tolist() for _ in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(range(N)) not in orders


def test_the_same_seed_gives_the_same_epochs_whatever_the_global_generator():
    X, y = numbered(50)
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        batches = Minibatches(X, y, 7, shuffle=generator("shuffle", 3))
        runs.append([epoch(batches)[1].tolist() for _ in range(2)])
    assert runs[0] == runs[1]


def test_walking_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    batches = Minibatches(
        *numbered(9, 1, 4, 4), 4, shuffle=generator("shuffle"), augment=generator("augment"), flip=True, crop=1
    )
    epoch(batches)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_batches_are_copies_when_shuffled():
    # A chapter that changes a batch in place must not change the data.
    X, y = numbered(6)
    for images, _ in Minibatches(X, y, 4, shuffle=generator("shuffle")):
        images.zero_()
    torch.testing.assert_close(X, numbered(6)[0])


def test_any_shape_of_inputs_and_targets_will_do():
    X, y = torch.arange(5.0), torch.arange(10.0).reshape(5, 2)
    images, targets = epoch(Minibatches(X, y, 2))
    assert torch.equal(images, X)
    assert torch.equal(targets, y)


# --- beside DataLoader ---------------------------------------------------------------------------


@several
@given(N=st.integers(1, 40), batch_size=sizes, seed=st.integers(0, 1000))
def test_batches_equal_dataloader_on_the_same_permutation(N, batch_size, seed):
    X, y = numbered(N, 1, 2, 3)
    batches = Minibatches(X, y, batch_size, shuffle=generator("shuffle", seed))
    source = generator("shuffle", seed)
    for _ in range(2):
        order = torch.randperm(N, generator=source).tolist()
        loader = DataLoader(TensorDataset(X, y), batch_size, sampler=order)
        assert len(loader) == len(batches)
        for ours, theirs in zip(batches, loader, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@several
@given(N=st.integers(1, 40), batch_size=sizes)
def test_an_epoch_holds_the_same_images_as_a_shuffling_dataloader(N, batch_size):
    X, y = numbered(N, 1, 2, 2)
    ours = epoch(Minibatches(X, y, batch_size, shuffle=generator("shuffle")))
    theirs = epoch(DataLoader(TensorDataset(X, y), batch_size, shuffle=True, generator=generator("loader")))
    for images, labels in (ours, theirs):
        order = labels.argsort()
        assert torch.equal(images[order], X)
        assert torch.equal(labels[order], y)


# --- flips ---------------------------------------------------------------------------------------


@several
@given(shape=shapes, seed=st.integers(0, 1000))
def test_a_flip_gives_each_image_or_its_mirror(shape, seed):
    X, _ = numbered(*shape)
    flipped = random_flip(X, generator("augment", seed))
    assert flipped.shape == X.shape
    for before, after in zip(X, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))


def test_half_of_the_images_are_flipped():
    X, _ = numbered(10_000, 1, 1, 2)
    share = (random_flip(X, generator("augment")) != X).any(dim=(1, 2, 3)).double().mean()
    # Four standard errors of a fair coin.
    assert abs(share - 0.5) < 4 * 0.5 / 100


def test_flipped_images_keep_their_targets_and_their_order():
    X, y = numbered(40, 2, 3, 4)
    plain = Minibatches(X, y, 7, shuffle=generator("shuffle"))
    flipping = Minibatches(X, y, 7, shuffle=generator("shuffle"), augment=generator("augment"), flip=True)
    for _ in range(2):
        (X_plain, y_plain), (X_flipped, y_flipped) = epoch(plain), epoch(flipping)
        # Switching augmentation on leaves the shuffle's stream as it was.
        assert torch.equal(y_plain, y_flipped)
        mirrored = (X_flipped != X_plain).any(dim=(1, 2, 3))
        assert mirrored.any()
        assert not mirrored.all()
        assert torch.equal(X_flipped[mirrored], X_plain[mirrored].flip(3))


# --- crops ---------------------------------------------------------------------------------------


@several
@given(shape=shapes, padding=st.integers(0, 4), seed=st.integers(0, 1000))
def test_a_crop_equals_padding_and_cutting_in_a_loop(shape, padding, seed):
    X, _ = numbered(*shape)
    X = X + 1  # so that a zero can only come from outside
    N, _, H, W = shape
    cropped = random_crop(X, padding, generator("augment", seed))
    top, left = torch.randint(0, 2 * padding + 1, (2, N), generator=generator("augment", seed))
    for image, got, t, w in zip(X, cropped, top, left, strict=True):
        padded = torch.zeros(shape[1], H + 2 * padding, W + 2 * padding)
        padded[:, padding : padding + H, padding : padding + W] = image
        assert torch.equal(got, padded[:, t : t + H, w : w + W])
    assert cropped.is_contiguous()


@several
@given(shape=shapes)
def test_a_crop_without_padding_is_the_image(shape):
    X, _ = numbered(*shape)
    assert torch.equal(random_crop(X, 0, generator("augment")), X)


def test_crops_shift_along_both_axes_by_every_distance():
    # One bright pixel in the middle tells the shift of its image.
    X = torch.zeros(2000, 1, 5, 5)
    X[:, :, 2, 2] = 1
    places = random_crop(X, 1, generator("augment"))[:, 0].nonzero()[:, 1:]
    shifts, counts = (places - 2).unique(dim=0, return_counts=True)
    assert shifts.tolist() == [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    # Each of the nine with probability 1/9: within four standard errors.
    assert ((counts - 2000 / 9).abs() < 4 * (2000 * 1 / 9 * 8 / 9) ** 0.5).all()


def test_cropped_images_keep_their_targets_and_their_order():
    X, y = numbered(20, 1, 8, 8)
    X = X * 0 + y[:, None, None, None] + 1  # an image of one grey value, which tells its number
    batches = Minibatches(X, y, 6, shuffle=generator("shuffle"), augment=generator("augment"), crop=2, flip=True)
    plain = Minibatches(X, y, 6, shuffle=generator("shuffle"))
    for _ in range(2):
        images, targets = epoch(batches)
        assert torch.equal(images.amax(dim=(1, 2, 3)) - 1, targets.float())
        assert torch.equal(targets, epoch(plain)[1])


def test_augmentation_differs_from_epoch_to_epoch():
    X, y = numbered(30, 1, 6, 6)
    batches = Minibatches(X, y, 8, augment=generator("augment"), flip=True, crop=2)
    first, second = epoch(batches)[0], epoch(batches)[0]
    assert not torch.equal(first, second)


def test_augmentation_keeps_uint8():
    X = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8, generator=generator("images"))
    batches = Minibatches(X, torch.arange(4), 3, augment=generator("augment"), flip=True, crop=1)
    assert epoch(batches)[0].dtype == torch.uint8


# --- shifts --------------------------------------------------------------------------------------


@several
@given(shape=shapes, data=st.data())
def test_a_shift_moves_every_column_and_fills_with_zeros(shape, data):
    X, _ = numbered(*shape)
    W = shape[3]
    pixels = data.draw(st.integers(0, W))
    shifted = shift_right(X, pixels)
    assert shifted.shape == X.shape
    for column in range(W):
        expected = X[..., column - pixels] if column >= pixels else torch.zeros(shape[:3])
        assert torch.equal(shifted[..., column], expected)


@pytest.mark.parametrize("pixels", [-1, 5])
def test_a_shift_out_of_the_picture_is_refused(pixels):
    with pytest.raises(ValueError, match=f"4 pixels wide cannot be shifted by {pixels}"):
        shift_right(torch.zeros(1, 1, 4, 4), pixels)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(3, 1, 2, 2), torch.zeros(4), 2, {}), "3 items and y 4"),
        ((torch.zeros(0, 1, 2, 2), torch.zeros(0), 2, {}), "no items"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3), 0, {}), "batch_size is 0"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3), -1, {}), "batch_size is -1"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3), 2, {"flip": True}), "pass augment"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3), 2, {"crop": 1}), "pass augment"),
        ((torch.zeros(3, 4), torch.zeros(3), 2, {"flip": True, "augment": torch.Generator()}), r"shape \(3, 4\)"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, words):
    X, y, batch_size, options = arguments
    with pytest.raises(ValueError, match=words):
        Minibatches(X, y, batch_size, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_batches():
    X, y = numbered(30, 2, 5, 5)
    runs = []
    for where in ("cpu", "cuda"):
        batches = Minibatches(X, y, 8, shuffle=generator("s"), augment=generator("a"), flip=True, crop=1, device=where)
        assert all(images.device.type == labels.device.type == where for images, labels in batches)
        runs.append(epoch(batches))
    assert torch.equal(runs[0][0], runs[1][0].cpu())
    assert torch.equal(runs[0][1], runs[1][1].cpu())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shuffled_batches_keep_the_memory_format(memory_format):
    X = torch.rand(10, 3, 4, 5).to(memory_format=memory_format)
    order = torch.randperm(10, generator=generator("order"))
    for start, (images, _) in zip((0, 4, 8), Minibatches(X, torch.arange(10), 4, shuffle=generator("order"))):
        assert torch.equal(images, X[order[start : start + 4]])
        assert images.is_contiguous(memory_format=memory_format)
