from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tskd_monai.annotation.round_datalist import LabelledImage, held_out_names, round_datalist
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.nifti import read_nifti, write_nifti
from tskd_monai.datasets.phantom.render import make_grid
from tskd_monai.files.json_files import write_json

SHAPE, LABELS = (8, 9, 6), {"liver": 1, "spleen": 2}
AFFINE = make_grid(SHAPE, (2.0, 2.0, 6.0), "LAI").matrix


def labelled(folder: Path, number: int, slices: list[int] | None) -> LabelledImage:
    """Writes an image whose values are the array index along z, and a label of the same values up to 2."""
    depth = np.broadcast_to(np.arange(6.0), SHAPE)
    image, label = folder / f"scan{number}.nii.gz", folder / f"label{number}.nii.gz"
    write_nifti(image, depth.astype(np.float32), AFFINE)
    write_nifti(label, np.minimum(depth, 2).astype(np.uint8), AFFINE)
    return LabelledImage(image, label, slices)


def test_only_confirmed_slices_are_trained_and_validated_on(tmp_path: Path) -> None:
    images = [labelled(tmp_path, number, [1, 4]) for number in range(6)]
    others = [labelled(tmp_path, 7, None).image]
    datalist = round_datalist(images, others, LABELS, "MR", tmp_path / "validation")
    write_json(tmp_path / "datalist.json", datalist)
    loaded = load_datalist(tmp_path / "datalist.json")
    assert [entry["slices"] for entry in loaded["training"]] == [[1, 4]] * 5
    (validation,), (unlabelled,) = loaded["validation"], loaded["unlabeled"]
    assert "slices" not in validation and unlabelled["case"] == "scan7"
    # slices 1 and 4 are array indices 4 and 1
    assert sorted(np.unique(read_nifti(validation["image"])[0])) == [1, 4]
    label, affine = read_nifti(validation["label"])
    assert label.shape == (9, 8, 2) and sorted(np.unique(label)) == [1, 2]
    np.testing.assert_allclose(np.abs(affine[:3, :3]), np.abs(AFFINE[:3, :3])[:, [1, 0, 2]])


def test_an_image_stays_in_its_section_as_more_are_labelled() -> None:
    names = [f"scan{number}" for number in range(40)]
    few, many = held_out_names(names[:20]), held_out_names(names)
    assert len(few) == 4 and len(many) == 8 and held_out_names(names[:2])


def test_one_labelled_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 images, found 1.*Label another image"):
        round_datalist([labelled(tmp_path, 0, None)], [], LABELS, "", tmp_path)
