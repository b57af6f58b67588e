from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd, Spacingd
from PIL import Image

from tests.data.itk_volumes import write_volume
from tskd_monai.data.image_file import read_image_file, read_label_file
from tskd_monai.data.volume_reader import VolumeReader, load_image_transform, load_label_transform

AFFINE = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], float)


def load(path: Path) -> MetaTensor:
    return load_image_transform("image")({"image": path})["image"]


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 100, (8, 9, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def test_nifti_has_the_metadata_that_monai_goes_by(nifti):
    image = load(nifti)
    assert image.shape == (8, 9, 10)
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_allclose(image.meta["original_affine"], AFFINE)
    assert tuple(image.meta["spatial_shape"]) == (8, 9, 10)
    assert image.meta["filename_or_obj"] == str(nifti)
    assert EnsureChannelFirstd("image")({"image": image})["image"].shape == (1, 8, 9, 10)


@pytest.mark.parametrize("name", ["~backup/a.nii.gz", "$x.nii.gz", "%a.nii.gz", "@a.nii.gz", "20240115/a.nii.gz"])
def test_path_is_taken_unchanged(nifti, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(nifti.read_bytes())  # nibabel would look for a user's home
    assert load(Path(name)).shape == load(name).shape == (8, 9, 10)


def test_orientation_and_spacing_are_undone_exactly(nifti):
    forward = Compose(
        [
            load_image_transform("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=(1.5, 2, 3), mode="nearest"),
        ]
    )
    item = forward({"image": nifti})
    item["pred"] = item["image"].clone()
    undone = Invertd("pred", transform=forward, orig_keys="image", nearest_interp=True)(item)["pred"]
    np.testing.assert_array_equal(undone[0], nib.load(nifti).get_fdata())
    np.testing.assert_allclose(undone.affine, AFFINE, atol=1e-6)


def test_dicom_folder_is_read_and_named_by_its_uid(tmp_path, write_series):
    series = write_series(tmp_path / "1.2.3.4")
    image = load(series.folder)
    np.testing.assert_array_equal(image, series.stored - 1024.0)
    assert image.meta["series_uid"] == series.uid
    assert len(image.meta["series_hash"]) == 8
    assert series.uid not in image.meta["series_hash"]


def test_series_uid_chooses(tmp_path, write_series):
    write_series(tmp_path / "7" / "a")
    second = write_series(tmp_path / "7" / "b", seed=1)
    image = load_image_transform("image", series_uid=second.uid)({"image": tmp_path / "7"})["image"]
    np.testing.assert_array_equal(image, second.stored - 1024.0)


def test_exceptions_come_through_as_they_are(tmp_path, write_series):
    write_series(tmp_path / "7" / "a")
    write_series(tmp_path / "7" / "b")
    with pytest.raises(ValueError, match="^Expected one DICOM series in .*7, found 2"):
        load(tmp_path / "7")
    with pytest.raises(FileNotFoundError, match="^Expected an image at .*absent"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(("name", "advice"), [("a.mgz", "convert it"), ("slice.dcm", "name the folder of the series")])
def test_other_formats_are_refused(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"Expected a file ending in \.nii, .*found {name}; {advice}"):
        load(tmp_path / name)


def test_a_volume_keeps_the_memory_order_of_its_file(nifti, write_series, tmp_path):
    folder = write_series(tmp_path / "series", shape=(9, 8), positions=np.arange(10) * 2.5).folder
    nrrd = write_volume(tmp_path / "a.nrrd", np.zeros((8, 9, 10), np.int16), AFFINE)
    for path in (nifti, folder, nrrd):
        volume = load(path)
        assert volume.stride() == (1, volume.shape[0], volume.shape[0] * volume.shape[1])


def test_several_paths_and_options_are_refused(nifti):
    with pytest.raises(ValueError, match="Expected one path per image, found 2"):
        VolumeReader().read([nifti, nifti])
    with pytest.raises(TypeError, match=r"found \['mmap'\]"):
        VolumeReader().read(nifti, mmap=True)


def test_images_of_different_formats_share_a_batch(tmp_path, write_series, nifti):
    shape = (10, 8)
    folder = write_series(tmp_path / "series", shape=(9, 8), positions=np.arange(10) * 2.5).folder
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
    nrrd = write_volume(tmp_path / "a.nrrd", np.zeros((8, 9, 10), np.int16), AFFINE)
    data = [{"image": nifti}, {"image": folder}, {"image": nrrd}]
    transform = Compose([load_image_transform("image"), EnsureChannelFirstd("image")])
    batch = next(iter(DataLoader(Dataset(data, transform), batch_size=3)))
    assert batch["image"].shape == (3, 1, 8, 9, 10)
    assert load(tmp_path / "a.png").meta.keys() == load(nifti).meta.keys()
    assert [load(path).meta["unit"] for path in (tmp_path / "a.png", nifti, folder)] == ["pixels", "mm", "mm"]


def test_grey_image_has_rows_first_and_one_slice(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load(tmp_path / "a.png")
    np.testing.assert_array_equal(image, pixels[:, :, None])
    np.testing.assert_array_equal(image.affine, np.eye(4))
    assert EnsureChannelFirstd("image")({"image": image})["image"].shape == (1, 4, 6, 1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_image_has_its_channels_last(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    image = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image, pixels[:, :, None])
    assert EnsureChannelFirstd("image")({"image": image})["image"].shape == (3, 4, 6, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_grey_values_are_kept_at_every_depth(tmp_path, dtype):
    pixels = (np.arange(12).reshape(3, 4) % 2 * (1 if dtype is bool else np.arange(12).reshape(3, 4) * 20)).astype(
        dtype
    )
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image_file(tmp_path / "a.tif")[:, :, 0], pixels.astype(np.float32))


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path, caplog):
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[..., 0] = 7
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert read_image_file(tmp_path / "opaque.png").shape == (4, 6, 1, 3)
    assert "alpha channel, opaque throughout" in caplog.text
    pixels[0, 0, 3] = 10
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="Expected an opaque image in clear.png"):
        read_image_file(tmp_path / "clear.png")


def test_palette_is_resolved_to_the_colours_that_are_seen(tmp_path, caplog):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    for name, palette, shape in (
        ("grey.png", [0, 0, 0, 90, 90, 90, 255, 255, 255], (2, 2, 1)),
        ("colour.png", [0, 0, 0, 90, 0, 90, 255, 255, 255], (2, 2, 1, 3)),
    ):
        image = Image.fromarray(indices)
        image.putpalette(palette)
        image.save(tmp_path / name)
        pixels = read_image_file(tmp_path / name)
        assert pixels.shape == shape
        assert pixels[0, 1].ravel()[0] == 90
    assert "read as grey" in caplog.text and "read as RGB" in caplog.text


def _grey_png(path, values, bits):
    """Writes a grey PNG of 1, 2 or 4 bits, which Pillow cannot write."""
    digits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in digits)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_are_not_stretched(tmp_path, bits):
    values = np.arange(5 * 16).reshape(5, 16) % 2**bits
    _grey_png(tmp_path / "a.png", values, bits)
    for read in (read_image_file, read_label_file):
        np.testing.assert_array_equal(read(tmp_path / "a.png")[:, :, 0], values)


def _grey_tiff(path, values, bits, white_is_zero):
    """Writes an uncompressed grey TIFF of a given bit depth."""
    digits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(len(values), -1)
    pixels = b"".join(np.packbits(row).tobytes() for row in digits)
    rows, columns = values.shape
    fields = [(256, columns), (257, rows), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1)]
    fields += [(278, rows), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_of_a_tiff_are_the_stored_numbers(tmp_path, bits, white_is_zero):
    values = np.arange(6 * 16).reshape(6, 16) % 2**bits
    _grey_tiff(tmp_path / "a.tif", values, bits, white_is_zero)
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.tif")[:, :, 0], values)


@pytest.mark.parametrize("colours", [[0, 0, 0, 128, 0, 0, 0, 128, 0], [255] * 3 + [90] * 3 + [0] * 3])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_labels_with_a_palette_are_its_indices(tmp_path, suffix, colours):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours)
    image.save(tmp_path / f"a{suffix}", **({"transparency": 0} if suffix == ".png" else {}))
    item = load_label_transform(["label"])({"label": tmp_path / f"a{suffix}"})
    np.testing.assert_array_equal(item["label"][:, :, 0], indices)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_labels_of_other_depths_are_read_like_images(tmp_path, dtype):
    values = (np.arange(12).reshape(3, 4) % 2 * 200).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_label_file(tmp_path / "a.tif")[:, :, 0], values.astype(np.float32))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_label_in_three_equal_channels_is_one_channel_and_colours_are_none(tmp_path, mode):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(values).convert(mode).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label_file(tmp_path / "grey.png"), values[:, :, None])
    Image.new(mode, (4, 3), (9, 0, 0)).save(tmp_path / "red.png")
    assert read_label_file(tmp_path / "red.png").shape == (3, 4, 1, 3)


def test_damaged_and_unusual_image_files_are_refused(tmp_path, caplog):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with pytest.raises(ValueError, match="found a.png truncated or damaged"):
        read_image_file(tmp_path / "a.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="Expected a grey or RGB image in b.jpg, found mode CMYK"):
        read_image_file(tmp_path / "b.jpg")
    Image.new("L", (4, 4)).save(tmp_path / "c.tif", save_all=True, append_images=[Image.new("L", (4, 4), 1)])
    with pytest.raises(ValueError, match="Expected one image in c.tif, found 2"):
        read_image_file(tmp_path / "c.tif")
    with pytest.raises(FileNotFoundError, match="Expected an image file at"):
        read_image_file(tmp_path / "absent.png")


def test_exif_rotation_gives_a_warning(tmp_path, caplog):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image_file(tmp_path / "a.jpg").shape == (4, 6, 1, 3)
    assert "EXIF orientation 6" in caplog.text


@pytest.mark.parametrize("dataset", ["chaos_t2spir", "hc18", "ph2", "msd_hippocampus", "chase_db1"])
def test_real_images_and_labels_share_their_grid(real_data, dataset):
    folder = real_data / dataset
    entry = json.loads((folder / "datalist.json").read_text())["training"][0]
    paths = {key: folder / entry[key] for key in ("image", "label")}
    item = load_image_transform(["image", "label"])(paths)
    assert tuple(item["image"].meta["spatial_shape"]) == tuple(item["label"].meta["spatial_shape"])
    np.testing.assert_allclose(item["image"].affine, item["label"].affine, atol=1e-3)
    if paths["image"].name.endswith(".nii.gz"):
        np.testing.assert_array_equal(item["image"], nib.load(paths["image"]).get_fdata(dtype=np.float32))


def _png(size: tuple[int, int], claimed: int | None = None) -> bytes:
    """Returns a grey PNG whose header states a size, optionally with pixel data of a given number of bytes."""
    pixels = zlib.compress(bytes(64))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        length = claimed if claimed and kind == b"IDAT" else len(body)
        content += struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


def test_image_that_states_more_than_it_holds_allocates_no_memory(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_png((2**17, 2**17)))
    (tmp_path / "chunk.png").write_bytes(_png((4, 4), claimed=2**32 - 129))
    tracemalloc.start()
    with pytest.raises(ValueError, match="found bomb.png truncated or damaged"):
        read_image_file(tmp_path / "bomb.png")
    assert read_image_file(tmp_path / "chunk.png").shape == (4, 4, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e9  # the headers state 17 and 4 GB


def test_tiff_without_its_size_is_refused_by_name(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = content.index(struct.pack("<HH", 256, 4))  # ImageWidth
    content[at : at + 2] = struct.pack("<H", 40000)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match="found a.tif truncated or damaged"):
        read_image_file(tmp_path / "a.tif")
