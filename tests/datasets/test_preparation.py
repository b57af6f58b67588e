"""Common to all datasets: complete files, resuming, repeats, rejections, and the check of a prepared folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tskd_monai.datasets import preparation
from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.masks import read_binary
from tskd_monai.datasets.preparation import prepare_dataset
from tskd_monai.datasets.verification import verify_dataset
from tskd_monai.datasets.writing import grey_image, mask_image

SHAPE = (20, 24)
DESCRIPTION = Description(
    "toy",
    "Toy images",
    "US",
    1,
    {0: "background", 1: "toy"},
    "CC0",
    "https://example.org",
    "As numbered.",
    "Drawn.",
    6,
    6,
)


@pytest.fixture
def dataset(
    tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray], square: Callable[..., np.ndarray]
) -> PublicDataset:
    """Six images of six patients with masks."""
    samples = []
    for number in range(6):
        image, mask = tmp_path / f"source/{number}.png", tmp_path / f"source/{number}_mask.png"
        save(image, noise(number, *SHAPE))
        save(mask, square(255, *SHAPE))
        samples.append(_sample(image, mask, str(number)))
    return PublicDataset(DESCRIPTION, tuple(samples))


def _sample(image: Path, mask: Path, case: str) -> Sample:
    label = mask_image(mask, f"labels/{case}.png", lambda: read_binary(mask))
    return Sample(case, grey_image(image, f"images/{case}.png"), label)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_preparation_resumes_and_ends_the_same(dataset: PublicDataset, tmp_path: Path) -> None:
    prepare_dataset(dataset, tmp_path / "whole")

    def stop(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    broken = replace(dataset.samples[3], label=replace(dataset.samples[3].label, write=stop))
    samples = (*dataset.samples[:3], broken, *dataset.samples[4:])
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(replace(dataset, samples=samples), tmp_path / "stopped")
    assert not list((tmp_path / "stopped").rglob("*tmp*")) and not (tmp_path / "stopped/datalist.json").exists()
    with pytest.raises(FileNotFoundError, match=r"Expected a JSON file at .*datalist\.json"):
        verify_dataset(tmp_path / "stopped")
    first = (tmp_path / "stopped/images/0.png").stat().st_mtime_ns
    prepare_dataset(dataset, tmp_path / "stopped")
    assert (tmp_path / "stopped/images/0.png").stat().st_mtime_ns == first
    assert _contents(tmp_path / "stopped") == _contents(tmp_path / "whole")


def test_other_options_or_files_need_another_folder(dataset: PublicDataset, tmp_path: Path) -> None:
    prepare_dataset(dataset, tmp_path / "a")
    with pytest.raises(ValueError, match=r"preparation\.json: expected a preparation of toy with .*'seed': 1"):
        prepare_dataset(dataset, tmp_path / "a", seed=1)
    other = replace(dataset, description=replace(DESCRIPTION, title="Toy images, annotator 2"))
    with pytest.raises(ValueError, match="choose another folder or delete this one"):
        prepare_dataset(other, tmp_path / "a")
    with pytest.raises(ValueError, match="Expected a new folder or an unfinished preparation"):
        prepare_dataset(dataset, tmp_path / "source")


def test_a_repeated_image_is_left_out_with_a_warning(
    dataset: PublicDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "source/4.png").write_bytes((tmp_path / "source/1.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        path = prepare_dataset(dataset, tmp_path / "a")
    datalist = verify_dataset(path.parent)
    assert datalist["left_out"] == [{"image": "images/4.png", "reason": "the same pixels as images/1.png"}]
    assert sum(number["patients"] for number in datalist["counts"].values()) == 5
    assert "images/4.png is left out: the same pixels as images/1.png" in caplog.text


def test_counts_other_than_the_official_ones_are_refused_unless_allowed(dataset: PublicDataset, tmp_path: Path) -> None:
    fewer = replace(dataset, samples=dataset.samples[:5])
    with pytest.raises(ValueError, match="toy: expected 6 labelled images of 6 patients.*found 5 of 5"):
        prepare_dataset(fewer, tmp_path / "a")
    assert prepare_dataset(fewer, tmp_path / "a", allow_partial=True).is_file()
    with pytest.raises(ValueError, match="toy: expected labelled images, found none"):
        prepare_dataset(replace(dataset, samples=()), tmp_path / "b")


def test_an_image_of_other_channels_is_refused(dataset: PublicDataset, tmp_path: Path) -> None:
    colour = replace(dataset, description=replace(DESCRIPTION, channels=3))
    with pytest.raises(ValueError, match=r"images/0\.png \(from .*0\.png\): expected 3 channel\(s\), found 1"):
        prepare_dataset(colour, tmp_path / "a")


def test_two_files_of_one_name_are_refused(dataset: PublicDataset, tmp_path: Path) -> None:
    twice = replace(dataset, samples=(*dataset.samples[:5], dataset.samples[0]))
    with pytest.raises(ValueError, match=r"a name of its own for each file, found images/0\.png twice"):
        prepare_dataset(twice, tmp_path / "a", allow_partial=True)


def test_an_empty_label_gives_a_warning(
    dataset: PublicDataset, tmp_path: Path, save: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "source/2_mask.png", np.zeros(SHAPE, np.uint8))
    with caplog.at_level(logging.WARNING):
        prepare_dataset(dataset, tmp_path / "a")
    assert "1 labels contain only background, the first is that of images/2.png" in caplog.text


def _damage(folder: Path, what: str, save: Callable[..., Any]) -> None:
    datalist = json.loads((folder / "datalist.json").read_text())
    if what == "missing":
        (folder / "labels/3.png").unlink()
    elif what == "changed":
        save(folder / "labels/3.png", np.zeros(SHAPE, np.uint8))
    elif what == "taken out":
        datalist["training"].pop()
    elif what == "twice":
        first = datalist["training"][0]
        copy = shutil.copy(folder / first["image"], folder / "images/copy.png")
        datalist["training"].append({**first, "image": f"images/{Path(copy).name}"})
    else:
        datalist["test"].append(datalist["training"][0])
    (folder / "datalist.json").write_text(json.dumps(datalist))


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("missing", FileNotFoundError, r"expected labels/3\.png of `\w+` case 3, found no file"),
        ("changed", ValueError, r"expected files as they were written, found 1 changed \(labels/3\.png\)"),
        ("taken out", ValueError, r"datalist\.json: expected \{.*as it states, found"),
        ("twice", ValueError, "expected each image once, found the pixels of"),
        ("in two sections", ValueError, "expected sections disjoint by `case`"),
    ],
)
def test_verification_names_what_is_not_as_it_was(
    dataset: PublicDataset, tmp_path: Path, save: Callable[..., Any], what: str, error: type[Exception], message: str
) -> None:
    path = prepare_dataset(dataset, tmp_path / "a", split=(4, 1, 1))
    assert verify_dataset(path.parent)["counts"]["training"] == {"images": 4, "patients": 4}
    _damage(path.parent, what, save)
    with pytest.raises(error, match=message):
        verify_dataset(path.parent)


def test_an_unfinished_record_is_named(dataset: PublicDataset, tmp_path: Path) -> None:
    path = prepare_dataset(dataset, tmp_path / "a")
    record = json.loads((path.parent / preparation.RECORD).read_text())
    record.pop("files")
    (path.parent / preparation.RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="expected the sha256 of every file, found none; .* run it again"):
        verify_dataset(path.parent)


def test_a_sample_lists_its_files_by_key() -> None:
    file = OutputFile("images/a.png", Path("a"), lambda path: None)
    assert Sample("a", file).entry() == {"image": "images/a.png", "case": "a"}
    assert list(Sample("a", file, file, file).files()) == ["image", "label", "second_reader"]
