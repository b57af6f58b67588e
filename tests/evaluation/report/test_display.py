from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.evaluation.label_maps import load_label_map, load_reference
from tskd_monai.evaluation.report.display import (
    fullest_slice,
    labels_for_display,
    load_for_display,
    reference_on_image,
    to_grey_levels,
)
from tskd_monai.evaluation.report.panels import (
    contact_sheet,
    evenly_spaced,
    foreground_box,
    label_colours,
    render_panel,
)


def marked_volume(codes: str, spacing: tuple[float, float, float], path: Path) -> Path:
    """Saves a volume in orientation `codes`, brighter to the right (1s), anterior (10s) and superior (100s)."""
    ras = np.indices((3, 4, 5)).transpose(1, 2, 3, 0) @ np.array([1, 10, 100])
    image = nib.Nifti1Image(ras.astype(np.int16), np.diag([*spacing, 1.0]))
    there = nib.orientations.axcodes2ornt(codes)
    back = nib.orientations.ornt_transform(nib.io_orientation(image.affine), there)
    nib.save(image.as_reoriented(back), path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PLS", "SAR", "ILP"])
def test_axial_slices_have_anterior_up_and_the_right_side_on_the_left(codes: str, tmp_path: Path) -> None:
    volume = load_for_display(marked_volume(codes, (1.0, 2.0, 5.0), tmp_path / "v.nii.gz"))
    assert volume.view == "Axial" and volume.pixel_mm == (2.0, 1.0)
    assert volume.array.shape == (4, 3, 5)
    assert volume.array[0, 0, 0] == 2 + 30  # top left: the most anterior and the rightmost voxel of the patient
    assert volume.array[-1, -1, 4] == 400


@pytest.mark.parametrize(("spacing", "view", "top_left"), [((1, 6, 1), "Coronal", 402), ((6, 1, 1), "Sagittal", 430)])
def test_the_thick_axis_decides_the_view(
    spacing: tuple[float, float, float], view: str, top_left: int, tmp_path: Path
) -> None:
    volume = load_for_display(marked_volume("LPS", spacing, tmp_path / "v.nii.gz"))
    assert volume.view == view
    assert volume.array[0, 0, 0] == top_left


def test_a_2d_image_is_shown_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    volume = load_for_display(tmp_path / "colour.png")
    assert np.array_equal(volume.array[:, :, 0], pixels) and volume.view == ""
    assert to_grey_levels(pixels) is pixels


def test_a_label_is_shown_as_the_classes_that_are_scored(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        labels_for_display(load_reference(tmp_path / "a.png", {1: "a", 2: "b"}))[:, :, 0], indices
    )
    label = marked_volume("LPS", (1.0, 2.0, 5.0), tmp_path / "v.nii.gz")
    shown = labels_for_display(load_label_map(label))
    np.testing.assert_array_equal(shown, load_for_display(label).array)
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 0.9999999, np.float32), np.eye(4)), tmp_path / "off.nii.gz")
    assert (labels_for_display(load_reference(tmp_path / "off.nii.gz", {1: "a"})) == 1).all()


def test_a_reference_that_training_would_refuse_is_not_drawn(tmp_path: Path) -> None:
    labels, affine = np.zeros((8, 6, 4), np.uint8), np.diag([-2.0, 2.0, 5.0, 1.0])
    labels[2:5, 2:5, 1:3] = 1
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "image.nii.gz")
    volume = load_for_display(tmp_path / "image.nii.gz")

    def drawn(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "label.nii.gz")
        return labels_for_display(reference_on_image(tmp_path / "label.nii.gz", volume, {1: "a"}, "label of case 7"))

    np.testing.assert_array_equal(drawn(labels, affine), volume.array)
    sheared, mirrored, beside = affine.copy(), affine * [[-1], [1], [1], [1]], affine.copy()
    sheared[1, 2], beside[0, 3] = 2.0, 3.0
    for wrong, message in ((sheared, "found one sheared by"), (mirrored, "the image's affine"), (beside, "by 3 mm")):
        with pytest.raises(ValueError, match=message):
            drawn(labels, wrong)
    with pytest.raises(ValueError, match="label of case 7: expected shape"):
        drawn(labels[:-1], affine)
    with pytest.raises(ValueError, match=r"expected label values \[0, 1\], found also \[255\]"):
        drawn(labels * 255, affine)


def test_a_damaged_file_is_not_shown(tmp_path: Path) -> None:
    path = marked_volume("LPS", (1.0, 2.0, 5.0), tmp_path / "v.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # in the checksum, which nibabel does not verify
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"found v\.nii\.gz truncated or damaged"):
        load_for_display(path)


def test_grey_levels_span_the_range_of_bytes() -> None:
    levels = to_grey_levels(np.linspace(-1000, 3000, 400).reshape(20, 20))
    assert (levels.dtype, levels.min(), levels.max()) == (np.uint8, 0, 255)
    assert not to_grey_levels(np.zeros((4, 4))).any()


def test_the_fullest_slice_counts_small_organs_like_large_ones() -> None:
    labels = np.zeros((10, 10, 5), dtype=int)
    labels[:9, :9, 1] = 1
    labels[:8, :8, 3] = 1
    labels[9, 9, 3] = 2
    assert fullest_slice(labels) == 3
    assert fullest_slice(np.zeros((3, 3, 5), dtype=int)) == 2


def test_a_panel_has_the_proportions_of_the_body_and_the_colour_of_the_label() -> None:
    labels = np.zeros((40, 40), dtype=int)
    labels[10:30, 10:30] = 3
    png = render_panel(np.zeros((40, 40)), labels, {3: "#ff0000"}, (3.0, 1.0))
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert picture.shape[0] == pytest.approx(3 * picture.shape[1], abs=1)
    red = picture[..., 0]
    assert red[0, 0] == 0 and red.max() == 255 and 0 < red[picture.shape[0] // 2, picture.shape[1] // 2] < 255


def test_the_box_holds_the_foreground_of_all_maps() -> None:
    one, two = np.zeros((50, 60), dtype=int), np.zeros((50, 60), dtype=int)
    one[20, 20], two[30, 40] = 1, 2
    rows, columns = foreground_box([one, two])
    assert rows.start < 20 and rows.stop > 31 and columns.start < 20 and columns.stop > 41
    assert foreground_box([np.zeros((5, 6), dtype=int)]) == (slice(0, 5), slice(0, 6))


def test_a_contact_sheet_takes_evenly_spaced_images(tmp_path: Path) -> None:
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.full((8, 16), 50 * index, dtype=np.uint8)).save(paths[-1])
    assert [path.name for path in evenly_spaced(paths, 2)] == ["1.png", "3.png"]
    assert evenly_spaced(paths, 9) == paths and evenly_spaced([], 3) == []
    sheet = Image.open(io.BytesIO(contact_sheet(paths, columns=2)))
    assert sheet.width / sheet.height == pytest.approx(2 / 3, abs=0.02)


def test_fourteen_labels_have_fourteen_colours() -> None:
    assert len(set(label_colours({value: str(value) for value in range(1, 15)}).values())) == 14


def test_a_dicom_series_is_shown_like_its_volume_in_nifti(tmp_path: Path) -> None:
    nifti = marked_volume("PLS", (1.0, 2.0, 5.0), tmp_path / "v.nii.gz")
    image = nib.load(nifti)
    write_dicom_series(tmp_path / "series", np.asarray(image.dataobj), image.affine, seed=1)
    found, expected = load_for_display(tmp_path / "series"), load_for_display(nifti)
    assert (found.view, found.pixel_mm) == (expected.view, expected.pixel_mm)
    np.testing.assert_array_equal(found.array, expected.array)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected a DICOM image series"):
        load_for_display(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_for_display(tmp_path / "absent.png")
