"""Folders with a mistake: `tskd check` names the file, what was expected and found, and what to do, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tskd_monai.commands.main import main

Break = Callable[[Path], object]
REFUSED = "Planning and training would refuse 1 of 6 images"


@pytest.fixture
def skin(tmp_path: Path) -> Path:
    """Returns a folder of colour images with masks of 0 and 255."""
    generator = np.random.default_rng(0)
    for index in range(6):
        mask = np.zeros((20, 24), np.uint8)
        mask[3 : 9 + index, 6:17] = 255
        save(tmp_path / f"skin/images/im {index}.png", generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        save(tmp_path / f"skin/labels/im {index}.png", mask)
    return tmp_path / "skin"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mask(folder: Path, index: int = 0) -> np.ndarray:
    return np.asarray(Image.open(folder / f"labels/im {index}.png"))


def transparent(folder: Path) -> None:
    alpha = np.full((20, 24, 4), 200, np.uint8)
    save(folder / "images/im 0.png", alpha)


def jpeg_mask(folder: Path) -> None:
    save(folder / "labels/im 0.jpg", mask(folder))
    (folder / "labels/im 0.png").unlink()


def smooth_mask(folder: Path) -> None:
    save(folder / "labels/im 0.png", np.tile(np.arange(100, 124, dtype=np.uint8), (20, 1)))


def coloured_mask(folder: Path) -> None:
    red = mask(folder)
    save(folder / "labels/im 0.png", np.dstack([red, 0 * red, 0 * red]))


def copied_image(folder: Path) -> None:
    Image.open(folder / "images/im 1.png").save(folder / "images/im 0.bmp")
    (folder / "images/im 0.png").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (transparent, "im 0: Expected an opaque image in im 0.png, found transparent pixels; save it without an alpha"),
        (lambda folder: (folder / "images/im 0.png").write_bytes(b"?"), "im 0: Expected a complete image file, found"),
        (
            lambda folder: save(folder / "images/im 0.png", np.zeros((20, 24), np.uint8)),
            "im 0: Expected images of one kind, found 3 channel(s) in im 2.png and 1 in im 0.png",
        ),
        (
            lambda folder: save(folder / "labels/im 0.png", mask(folder).T.copy()),
            "im 0: label im 0.png of image im 0.png: expected shape (20, 24, 1), found (24, 20, 1). Resample the label",
        ),
        (jpeg_mask, "found also [1, 2, 3, 4, 5, 6, 7, 8] and"),
        (jpeg_mask, "JPEG compression changes values at edges; export the label as PNG."),
        (coloured_mask, "expected 1 channel, found 3. Save one number per voxel, the value of its label"),
        (
            lambda folder: save(folder / "labels/im 0.png", mask(folder) // 255),
            "im 0.png: expected label values [0, 255], found also [1]. Write 255 instead of 1 into the file",
        ),
        (
            lambda folder: save(folder / "labels/im 0.png", mask(folder) // 255 * 7),
            "7 (label_7). Take it out of the datalist's `labels` (or --labels), or add a case that has it.",
        ),
        (copied_image, "Expected each image once, found the content of "),
    ],
)
def test_a_case_at_fault_is_listed_and_the_others_described(
    skin: Path, capsys: pytest.CaptureFixture[str], change: Break, message: str
) -> None:
    change(skin)
    assert main(["check", str(skin), "--output-dir", str(skin.parent / "check")]) == 1
    text = capsys.readouterr().out
    assert "Would be refused:" in text and message in text
    assert str(skin.parent) not in text.partition("Report:")[0]
    assert REFUSED in text or "Every image can be read, but planning and training would refuse" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "labels").rename(folder / "masks"), "found none (but with masks/). Name the folder"),
        (
            lambda folder: (folder / "images/im 0.png").rename(folder / "images/9.png"),
            "each label, found none for im 0",
        ),
        (
            lambda folder: save(folder / "labels/im 0_seg.png", mask(folder)),
            "Expected one label of im 0, found im 0.png",
        ),
        (lambda folder: save(folder / "images/im 0.tif", mask(folder)), "Expected one image called im 0 in "),
        (
            lambda folder: [path.unlink() for path in sorted((folder / "labels").iterdir())[2:]],
            "Expected at least 3 patients with a label in ",
        ),
        (
            lambda folder: [save(path, 0 * mask(folder)) for path in (folder / "labels").iterdir()],
            "Expected label values above 0 in labels/, found background only.",
        ),
        (
            lambda folder: (folder / "images/IM0001.dcm").write_bytes(b"\0" * 128 + b"DICM"),
            "found 1 DICOM file directly in ",
        ),
        (lambda folder: (folder / "images").rename(folder / "im"), "without dataset.json (but with im/, labels/)."),
    ],
)
def test_a_folder_at_fault_is_refused_and_nothing_written(
    skin: Path, capsys: pytest.CaptureFixture[str], change: Break, message: str
) -> None:
    change(skin)
    before = sorted(skin.rglob("*"))
    assert main(["check", str(skin), "--output-dir", str(skin / "check")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tskd check: error: ") and message in line
    assert sorted(skin.rglob("*")) == before
