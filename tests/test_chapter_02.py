"""Chapter 02's loaders and windows, on small inputs made here."""

import imageio.v2 as imageio
import numpy as np
import pydicom
import pytest
import torch

from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    return definitions("02")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, 10, 4), dtype=np.uint8)


def slice_file(path, z, value=0, series="1.2.3", slope=1):
    """Write a slice of 2 x 3 pixels, all equal."""
    dataset, uid = pydicom.Dataset(), pydicom.uid
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation = uid.ExplicitVRLittleEndian, "MONOCHROME2"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = uid.CTImageStorage, "1.2.4", series
    dataset.ImagePositionPatient, dataset.RescaleSlope, dataset.RescaleIntercept = [0, 0, z], slope, -1024
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = 2, 3, 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = np.full((2, 3), value, np.uint16).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("loader", ["read_rgb", "load_image"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_come_from_the_middle_without_alpha(chapter, pixels, tmp_path, loader, channels):
    imageio.imwrite(tmp_path / "a.png", pixels[..., :channels])
    image = chapter[loader](tmp_path / "a.png", 4)
    assert torch.equal(image, torch.from_numpy(pixels[2:6, 3:7, :3]).permute(2, 0, 1))


@pytest.mark.parametrize("channels", [0, slice(0, 2)])
def test_grey_becomes_three_equal_channels(chapter, pixels, tmp_path, channels):
    imageio.imwrite(tmp_path / "a.png", pixels[..., channels])
    image = chapter["load_image"](tmp_path / "a.png", 8)
    assert torch.equal(image, torch.from_numpy(pixels[:, 1:9, 0]).expand(3, 8, 8))


@pytest.mark.parametrize(("name", "message"), [("deep", "uint16"), ("cut", "cannot be read"), ("a", "smaller than 9")])
def test_what_is_no_image_is_named(chapter, pixels, tmp_path, name, message):
    imageio.imwrite(tmp_path / "deep.png", pixels[..., 0].astype(np.uint16))
    imageio.imwrite(tmp_path / "a.png", pixels)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:150])
    with pytest.raises(ValueError, match=rf"{name}\.png .*{message}"):
        chapter["load_image"](tmp_path / f"{name}.png", 9)


def test_window(chapter):
    assert chapter["window"](torch.tensor([-500.0, -160.0, 40.0, 240.0, 999.0]), 40, 400).tolist() == [0, 0, 0.5, 1, 1]


def test_volumes_are_sorted_rescaled_grouped_or_refused(chapter, tmp_path):
    one = [slice_file(tmp_path / f"{z}.dcm", z, 100 + z, slope=2) for z in (0, 6, 3)]
    other = [slice_file(tmp_path / f"b{z}.dcm", z, series="1.2.9") for z in (0, 3, 9)]
    assert chapter["read_volume"](one)[:, 1, 2].tolist() == [2 * v - 1024 for v in (106, 103, 100)]
    with pytest.raises(ValueError, match=r"steps from 3\.0 to 6\.0 mm"):
        chapter["read_volume"](other)
    with pytest.raises(ValueError, match="2 series among 6 files"):
        chapter["read_volume"](one + other)
    assert chapter["group_by_series"](one + other) == {"1.2.3": one, "1.2.9": other}


def test_statistics_of_filled_slots(chapter):
    batch = torch.tensor([0, 255, 51, 9], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    mean, std = chapter["channel_statistics"](batch, torch.tensor([False, True, True, False]))
    torch.testing.assert_close(mean, torch.full((3,), 0.6))
    torch.testing.assert_close(std, torch.tensor([1.0] * 4 + [0.2] * 4).std().expand(3))
