from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.ph2 import find

SHAPE = (28, 38)


@pytest.fixture
def source(
    tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray], square: Callable[..., np.ndarray]
) -> Path:
    """Three images as in the archive, masks of 1 bit and of 8 bits."""
    for seed, case in enumerate(("IMD002", "IMD003", "IMD417")):
        folder = tmp_path / "PH2Dataset/PH2 Dataset images" / case
        save(folder / f"{case}_Dermoscopic_Image/{case}.bmp", noise(seed, *SHAPE, 3))
        mask = square(255, *SHAPE)
        save(folder / f"{case}_lesion/{case}_lesion.bmp", mask > 0 if seed else mask)
        save(folder / f"{case}_roi/{case}_R1_Label4.bmp", mask)
    (tmp_path / "PH2Dataset/PH2_dataset.txt").write_text("|| Name ||\n")
    return tmp_path


@pytest.mark.parametrize("below", ["", "PH2Dataset", "PH2Dataset/PH2 Dataset images"])
def test_images_are_copied_and_masks_become_labels(
    source: Path, prepare: Callable[..., dict[str, Any]], square: Callable[..., np.ndarray], below: str
) -> None:
    datalist = prepare(find(source / below), split=(1, 1, 1))
    entries = [datalist[section][0] for section in ("training", "validation", "test")]
    assert sorted(entry["case"] for entry in entries) == ["IMD002", "IMD003", "IMD417"]
    for entry in entries:
        folder = source / "PH2Dataset/PH2 Dataset images" / entry["case"]
        original = folder / f"{entry['case']}_Dermoscopic_Image/{entry['case']}.bmp"
        assert Path(entry["image"]).read_bytes() == original.read_bytes()
        np.testing.assert_array_equal(np.asarray(Image.open(entry["label"])), square(1, *SHAPE))


def test_a_missing_mask_is_named(source: Path) -> None:
    (source / "PH2Dataset/PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"PH2: expected the file IMD003_lesion\.bmp at"):
        find(source)


def test_another_folder_is_refused_with_the_layout(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected the folder PH2 Dataset images at .*, found images; the off"):
        find(tmp_path)
