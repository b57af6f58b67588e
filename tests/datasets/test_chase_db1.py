from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.chase_db1 import find

SHAPE = (24, 26)


@pytest.fixture
def source(
    tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray], square: Callable[..., np.ndarray]
) -> Path:
    """Both eyes of three children, masks of 1 bit."""
    for child in range(1, 4):
        for seed, eye in enumerate("LR"):
            name = f"Image_{child:02d}{eye}"
            save(tmp_path / f"{name}.jpg", noise(10 * child + seed, *SHAPE, 3))
            save(tmp_path / f"{name}_1stHO.png", square(1, *SHAPE) > 0)
            save(tmp_path / f"{name}_2ndHO.png", square(1, *SHAPE).T[: SHAPE[0]].repeat(2, 1)[:, : SHAPE[1]] > 0)
    return tmp_path


def test_both_eyes_stay_with_their_child(
    source: Path, prepare: Callable[..., dict[str, Any]], square: Callable[..., np.ndarray]
) -> None:
    datalist = prepare(find(source), split=(1, 1, 1), folds=3)
    for section in ("training", "validation", "test"):
        assert len(datalist[section]) == 2 and len({entry["case"] for entry in datalist[section]}) == 1
    entry = datalist["training"][0]
    np.testing.assert_array_equal(np.asarray(Image.open(entry["label"])), square(1, *SHAPE))
    assert Path(entry["image"]).read_bytes() == (source / Path(entry["image"]).name).read_bytes()
    assert sorted(fold["test"][0] for fold in datalist["folds"]) == ["01", "02", "03"]


def test_a_missing_reader_is_named(source: Path) -> None:
    (source / "Image_02R_2ndHO.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"CHASE_DB1: expected the file Image_02R_2ndHO\.png"):
        find(source)
