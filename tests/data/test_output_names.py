from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

from tskd_monai.data.output_names import file_stem, output_name, output_suffix, segmentation_path
from tskd_monai.data.task import Task

NAMES = ["case_07", "case.7", "1.2.840.10008", "a b", "scan.nii", "scan.nii.gz", ".hidden", "Bahía"]


def saved_name(folder: Path, suffix: str = ".nii.gz", **metadata: Any) -> str:
    """Returns the name of the file that MONAI's saver writes with our formatter."""
    meta = {"affine": np.eye(4), "original_affine": np.eye(4), "spatial_shape": (3, 4, 1), **metadata}
    writer = "AtomicPngWriter" if suffix == ".png" else "AtomicVolumeWriter"
    SaveImage(
        output_dir=folder,
        output_postfix="seg",
        output_ext=suffix,
        output_dtype=np.uint8,
        resample=False,
        separate_folder=False,
        print_log=False,
        writer=f"tskd_monai.data.segmentation_writers.{writer}",
        output_name_formatter=output_name,
    )(MetaTensor(torch.zeros(1, 3, 4, 1, dtype=torch.uint8), meta=meta))
    (path,) = [file for file in folder.rglob("*") if file.is_file()]
    return str(path.relative_to(folder))


@pytest.mark.parametrize("axcodes", ["PLS", None], ids=["volume", "image"])
@pytest.mark.parametrize("name", NAMES)
def test_output_is_where_it_is_looked_for(
    tmp_path: Path, make_task: Callable[..., Task], name: str, axcodes: str | None
) -> None:
    task = make_task(axcodes=axcodes)
    written = saved_name(tmp_path, output_suffix(task), output_name=name, filename_or_obj="/data/other.nii.gz")
    assert tmp_path / written == segmentation_path(tmp_path, name, task)


def test_volumes_are_nifti_and_images_png(make_task: Callable[..., Task]) -> None:
    assert segmentation_path("out", "case.7", make_task()) == Path("out/case.7_seg.nii.gz")
    assert segmentation_path("out", "case.7", make_task(axcodes=None)) == Path("out/case.7_seg.png")


@pytest.mark.parametrize(
    ("output_format", "image", "ending"),
    [
        ("nifti", "a.nrrd", ".nii.gz"),
        ("nrrd", "a.nii.gz", ".nrrd"),
        ("nrrd", "series", ".nrrd"),
        ("same", "a.NRRD", ".nrrd"),
        ("same", "a.nhdr", ".nrrd"),
        ("same", "a.mha", ".nii.gz"),
        ("same", "series", ".nii.gz"),
    ],
)
def test_volumes_are_written_in_the_format_asked_for(
    make_task: Callable[..., Task], output_format: str, image: str, ending: str
) -> None:
    assert segmentation_path("out", "a", make_task(), output_format, image) == Path(f"out/a_seg{ending}")
    assert output_suffix(make_task(axcodes=None), output_format, image) == ".png"


def test_series_without_a_name_is_named_by_its_hash_not_its_folder(tmp_path: Path) -> None:
    written = saved_name(tmp_path, filename_or_obj="/data/Doe^Jane", series_hash="0a1b2c3d", output_name="")
    assert written == "0a1b2c3d_seg.nii.gz"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".MHA"])
def test_file_without_a_name_gives_its_own(tmp_path: Path, ending: str) -> None:
    written = saved_name(tmp_path, filename_or_obj=f"/data/scan.1{ending}", series_hash="")
    assert written == "scan.1_seg.nii.gz"


def test_image_without_any_name_is_refused() -> None:
    with pytest.raises(KeyError, match="filename_or_obj"):
        output_name({"affine": np.eye(4)}, None)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("a.b.NII", "a.b"),
        ("a.nii.png", "a.nii"),
        ("a.dcm", "a.dcm"),
        ("a.seg.nrrd", "a"),
        ("a.nhdr", "a"),
        ("a.MHD", "a"),
    ],  # fmt: skip
)
def test_stem_is_the_name_without_the_image_ending(tmp_path: Path, name: str, stem: str) -> None:
    (tmp_path / name).touch()
    assert file_stem(tmp_path / name) == stem


def test_stem_of_a_folder_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.2.nii").mkdir()
    assert file_stem(tmp_path / "1.2.nii") == "1.2.nii"
    monkeypatch.chdir(tmp_path / "1.2.nii")
    assert file_stem(Path()) == "1.2.nii"


def test_stem_of_a_link_is_the_links(tmp_path: Path) -> None:
    (tmp_path / "0a1b2c.nii.gz").touch()
    (tmp_path / "case_01.nii.gz").symlink_to("0a1b2c.nii.gz")
    assert file_stem(tmp_path / "case_01.nii.gz") == "case_01"
