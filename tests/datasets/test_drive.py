from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.drive import find

SHAPE = (24, 20)


@pytest.fixture
def source(
    tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray], square: Callable[..., np.ndarray]
) -> Path:
    """All 40 images, as in the newer download: no labels for the test set."""
    for name, numbers in (("training", range(21, 41)), ("test", range(1, 21))):
        for number in numbers:
            save(tmp_path / f"{name}/images/{number:02d}_{name}.tif", noise(number, *SHAPE, 3))
            save(tmp_path / f"{name}/mask/{number:02d}_{name}_mask.gif", square(255, *SHAPE))
            if name == "training":
                save(tmp_path / f"training/1st_manual/{number:02d}_manual1.gif", square(255, *SHAPE))
    return tmp_path


def test_test_images_without_labels_are_unlabelled(
    source: Path, prepare: Callable[..., dict[str, Any]], square: Callable[..., np.ndarray]
) -> None:
    datalist = prepare(find(source))
    counts = {section: len(datalist[section]) for section in ("training", "validation", "test", "unlabeled")}
    assert counts == {"training": 14, "validation": 2, "test": 4, "unlabeled": 20}
    np.testing.assert_array_equal(np.asarray(Image.open(datalist["test"][0]["label"])), square(1, *SHAPE))


def test_official_test_labels_make_the_test_section(
    source: Path, prepare: Callable[..., dict[str, Any]], save: Callable[..., Any], square: Callable[..., np.ndarray]
) -> None:
    for number in range(1, 21):
        for reader, folder in ((1, "1st_manual"), (2, "2nd_manual")):
            save(source / f"test/{folder}/{number:02d}_manual{reader}.gif", square(255, *SHAPE))
    datalist = prepare(find(source.parent / source.name), folds=4)
    assert [entry["case"] for entry in datalist["test"]] == [f"{number:02d}" for number in range(1, 21)]
    assert (len(datalist["training"]), len(datalist["validation"])) == (18, 2)
    assert all("second_reader" in entry for entry in datalist["test"])
    tested = [case for fold in datalist["folds"] for case in fold["test"]]
    assert sorted(tested) == [f"{number:02d}" for number in range(21, 41)]  # the official test set is in no fold


def test_an_incomplete_set_is_refused(source: Path) -> None:
    (source / "training/images/30_training.tif").unlink()
    with pytest.raises(ValueError, match=r"DRIVE: expected 20 images in .*images, found 19; complete the download"):
        find(source)
    (source / "training/1st_manual/21_manual1.gif").unlink()
    with pytest.raises(FileNotFoundError, match=r"DRIVE: expected the file 21_manual1\.gif"):
        find(source)
