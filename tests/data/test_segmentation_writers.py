from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd, SaveImaged, Spacingd
from PIL import Image

from tskd_monai.data.nifti import read_nifti
from tskd_monai.data.output_names import output_name
from tskd_monai.data.segmentation_writers import AtomicPngWriter, AtomicVolumeWriter
from tskd_monai.data.volume_reader import load_image_transform

OBLIQUE = np.array([[-1.4, 0.3, 0.1, 10], [0.3, 1.9, -0.2, -20.123], [0.05, 0.2, 2.9, 5], [0, 0, 0, 1]], float)
NIFTI_WRITER = "tskd_monai.data.segmentation_writers.AtomicVolumeWriter"
PNG_WRITER = "tskd_monai.data.segmentation_writers.AtomicPngWriter"


def save(pred: MetaTensor, folder: Path, *, writer: str = NIFTI_WRITER, ext: str = ".nii.gz", **options: Any) -> Path:
    """Returns the one file that SaveImaged writes."""
    arguments: dict[str, Any] = {"output_dtype": np.uint8, "output_postfix": "seg", "separate_folder": False, **options}
    SaveImaged("pred", output_dir=folder, writer=writer, output_ext=ext, **arguments)({"pred": pred})
    (path,) = folder.iterdir()
    return path


def label_map(path: Path) -> MetaTensor:
    """Returns random labels 0 to 4 on the grid of an image, (1, X, Y, Z)."""
    image = EnsureChannelFirstd("image")(load_image_transform("image")({"image": path}))["image"][:1]
    labels = np.random.default_rng(0).integers(0, 5, image.shape)
    return MetaTensor(torch.from_numpy(labels), meta=image.meta)


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8), np.float32), None)
    image.set_sform(OBLIQUE, 1)
    nib.save(image, tmp_path / "a.b.nii.gz")
    return tmp_path / "a.b.nii.gz"


def test_nifti_has_the_shape_affine_and_values_of_its_image(tmp_path, nifti):
    pred = label_map(nifti)
    path = save(pred, tmp_path / "out")
    assert path.name == "a.b_seg.nii.gz"
    image = nib.load(path)
    assert image.shape == (6, 7, 8) and image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), pred[0])
    np.testing.assert_array_equal(image.affine, nib.load(nifti).affine)
    assert int(image.header["sform_code"]) == 1


def test_sform_and_qform_agree_where_the_qform_can(tmp_path, write_series, caplog):
    folder = write_series(
        tmp_path / "series", directions=((0.936293, 0.289629, -0.198669), (-0.301, 0.952, -0.05))
    ).folder
    path = save(label_map(folder), tmp_path / "out")
    header = nib.load(path).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 1
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"
    caplog.clear()
    read_nifti(path)
    assert not caplog.text


def test_sheared_affine_is_written_as_sform_only(tmp_path, nifti, caplog):
    path = save(label_map(nifti), tmp_path / "out")
    assert int(nib.load(path).header["qform_code"]) == 0  # OBLIQUE has no right angles
    np.testing.assert_allclose(read_nifti(path)[1], OBLIQUE, atol=1e-5)
    assert "disagree" not in caplog.text


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_inverted_prediction_returns_to_the_grid_of_its_image(tmp_path, nifti, write_series, kind):
    source = nifti if kind == "nifti" else write_series(tmp_path / "1.2.3.4").folder
    forward = Compose(
        [
            load_image_transform("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PLS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=(0.9, 1.1, -1)),
        ]
    )
    item = forward({"image": source})
    item["pred"] = MetaTensor(
        torch.ones_like(item["image"].as_tensor()), meta=item["image"].meta, applied_operations=[]
    )
    with pytest.raises(RuntimeError, match="place Invertd before SaveImaged"):
        save(item["pred"], tmp_path / "out")
    undone = Invertd("pred", transform=forward, orig_keys="image", nearest_interp=True)(item)["pred"]
    image = nib.load(save(undone, tmp_path / "out"))
    original = load_image_transform("image")({"image": source})["image"]
    assert image.shape == tuple(original.shape)
    np.testing.assert_allclose(image.affine, original.meta["original_affine"], rtol=1e-6)
    assert np.asarray(image.dataobj).min() == 1


def test_dicom_folders_with_dots_write_files_of_their_own(tmp_path, write_series):
    names = set()
    for number in (4, 5):
        pred = label_map(write_series(tmp_path / f"1.2.3.{number}").folder)
        path = save(pred, tmp_path / f"out{number}", output_name_formatter=output_name)
        assert path.name == f"{pred.meta['series_hash']}_seg.nii.gz"
        names.add(path.name)
    assert len(names) == 2


def test_single_slice_keeps_its_third_axis(tmp_path, write_series):
    folder = write_series(tmp_path / "series", positions=[0]).folder
    assert nib.load(save(label_map(folder), tmp_path / "out")).shape == (14, 10, 1)


def test_same_label_map_gives_the_same_bytes(tmp_path, nifti):
    pred = label_map(nifti)
    first, second = (save(pred, tmp_path / name).read_bytes() for name in ("one", "two"))
    assert first == second


def test_compression_level_changes_only_the_size(tmp_path, nifti):
    sizes = []
    for level in (1, 9):
        writer = AtomicVolumeWriter(np.uint8, compress_level=level)
        pred = label_map(nifti)
        writer.set_data_array(pred)
        writer.set_metadata(pred.meta)
        writer.write(tmp_path / f"{level}.nii.gz")
        sizes.append((tmp_path / f"{level}.nii.gz").stat().st_size)
    assert sizes[1] < sizes[0]
    assert gzip.decompress((tmp_path / "1.nii.gz").read_bytes()) == gzip.decompress(
        (tmp_path / "9.nii.gz").read_bytes()
    )
    with pytest.raises(ValueError, match="Expected compress_level from 1 to 9, found 0"):
        AtomicVolumeWriter(compress_level=0)


def test_failed_write_leaves_the_former_file(tmp_path, nifti, monkeypatch):
    pred = label_map(nifti)
    path = save(pred, tmp_path / "out")
    former = path.read_bytes()

    def disk_full(self: nib.Nifti1Image, stream: Any) -> None:
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", disk_full)
    with pytest.raises(RuntimeError, match="No space left on device"):
        save(pred, tmp_path / "out")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == former


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (torch.full((1, 6, 7, 8), 0.5), np.uint8, "Expected whole labels from 0 to 255, found float32 values"),
        (torch.full((1, 6, 7, 8), 256), np.uint8, "from 256 to 256"),
        (torch.full((1, 6, 7, 8), -1), np.uint16, "from 0 to 65535, found int64 values from -1"),
        (torch.full((1, 6, 7, 8), torch.nan), np.uint8, "Expected finite labels"),
        (torch.zeros((2, 6, 7, 8)), np.uint8, r"Expected one channel in a label map, found 2.*AsDiscreted"),
        (torch.zeros((1, 6, 7, 9)), np.uint8, r"Expected a label map of \(6, 7, 8\) for a.b.nii.gz, found \(6, 7, 9\)"),
        (torch.zeros((1, 6, 7, 8)), np.float32, "Expected uint8, uint16 or None for a label map, found float32"),
    ],
)
def test_what_is_no_label_map_of_the_image_is_refused(tmp_path, nifti, values, dtype, message):
    pred = MetaTensor(values, meta=label_map(nifti).meta)
    with pytest.raises(RuntimeError, match=message):
        save(pred, tmp_path / "out", output_dtype=dtype)


def test_sixteen_bits_are_chosen_when_needed(tmp_path, nifti):
    for value, dtype in ((255, np.uint8), (256, np.uint16)):
        pred = MetaTensor(torch.full((1, 6, 7, 8), float(value)), meta=label_map(nifti).meta)
        image = nib.load(save(pred, tmp_path / str(value), output_dtype=None))
        assert image.get_data_dtype() == dtype and np.asarray(image.dataobj).max() == value


def test_png_has_the_size_and_values_of_its_image(tmp_path):
    Image.fromarray(np.zeros((9, 13), np.uint8)).save(tmp_path / "a.png")
    pred = label_map(tmp_path / "a.png")
    path = save(pred, tmp_path / "out", writer=PNG_WRITER, ext=".png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pred[0, :, :, 0])
    assert [file.name for file in path.parent.iterdir()] == ["a_seg.png"]


def test_png_of_a_colour_image_and_of_sixteen_bits(tmp_path):
    Image.fromarray(np.zeros((9, 13, 3), np.uint8)).save(tmp_path / "a.jpg")
    pred = label_map(tmp_path / "a.jpg")
    wide = MetaTensor(pred.as_tensor() * 1000, meta=pred.meta)
    path = save(wide, tmp_path / "out", writer=PNG_WRITER, ext=".png", output_dtype=np.uint16)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), wide[0, :, :, 0])


def test_png_of_a_volume_and_wrong_suffix_are_refused(tmp_path, nifti):
    pred = label_map(nifti)
    with pytest.raises(RuntimeError, match="Expected a label map of one slice for a.b_seg.png, found 8"):
        save(pred, tmp_path / "out", writer=PNG_WRITER, ext=".png")
    writer = AtomicPngWriter()
    with pytest.raises(ValueError, match="Expected a file name ending in .png, found a.nii"):
        writer.write(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="found no affine, original_affine, spatial_shape; load with VolumeReader"):
        writer.set_metadata({})
    with pytest.raises(ValueError, match="Expected no scale for a label map, found 255"):
        AtomicPngWriter(scale=255)


def test_log_has_the_name_and_not_the_folder(tmp_path, nifti, caplog):
    caplog.set_level(logging.INFO)
    save(label_map(nifti), tmp_path / "patient")
    assert "Wrote a.b_seg.nii.gz." in caplog.text
    assert str(tmp_path) not in caplog.text
