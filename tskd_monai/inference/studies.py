"""Which images an inference run is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from pydicom.misc import is_dicom

from tskd_monai.data.datalist import load_section, study_names
from tskd_monai.data.dicom_header import DICOM_SUFFIXES
from tskd_monai.data.output_names import IMAGE_ENDINGS, file_stem
from tskd_monai.data.private_files import private_name

Study = dict[str, str]
"""`image`, a path, and `name` unless it is the folder of a DICOM series, whose outputs a hash names."""

FORMULA_MARKS = ("=", "+", "-", "@")
"""`volumes.csv` and `metrics.csv` are opened with spreadsheets."""


def find_studies(
    image: str | Path | Sequence[str | Path] | None = None,
    datalist: str | Path | None = None,
    section: str = "test",
    fold: int | None = None,
    tree: str | Path | None = None,
    output_dir: str | Path | None = None,
) -> list[Study]:
    """Returns `{"image", "name"}` of every image to segment; outputs carry the name.

    In a datalist the name is the case, followed by the file's name where a case has several images. In a tree it is
    the file's name, followed by eight digits that stand for where in the tree the file lies unless it lies on top.

    Args:
        image: a NIfTI or 2D image file, a folder of such files, a folder with one DICOM series, or a list of these.
        datalist: taken when there is neither `image` nor `tree`.
        section: of the datalist.
        fold: of the datalist.
        tree: a folder of which every image file, and every folder that holds DICOM files, is a study.
        output_dir: of the run, whose private key makes the names of a tree's files; needed with `tree`.

    Raises:
        FileNotFoundError: when `image` or `tree` does not exist, or a tree holds no image.
        ValueError: when none or two of them are given, a name is no file name, or two images would be written under
            one.
    """
    if image is not None and tree is not None:
        raise ValueError("Expected --image or --tree, found both; give one.")
    if tree is not None:
        if output_dir is None:
            raise ValueError("Expected --output_dir with --tree, found none; names of outputs are made with its key.")
        studies = _studies_below(Path(tree), Path(output_dir))
    elif image is not None:
        paths = [image] if isinstance(image, (str, Path)) else image
        studies = [_study(file) for path in paths for file in _image_files(Path(path))]
    elif datalist is not None:
        entries = load_section(datalist, section, fold)
        studies = [
            {"image": item["image"], "name": name} for item, name in zip(entries, study_names(entries), strict=True)
        ]
    else:
        raise ValueError(
            "Expected --image (a NIfTI file or a DICOM series folder), --tree (a folder of studies) or --datalist, "
            "found neither."
        )
    _check_names([study["name"] for study in studies if "name" in study])
    return studies


def own_share(studies: Sequence[Study]) -> list[Study]:
    """Returns the studies of this process: every n-th under torchrun with n processes, else all."""
    if not torch.distributed.is_initialized():
        return list(studies)
    return list(studies[torch.distributed.get_rank() :: torch.distributed.get_world_size()])


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"Expected an image file or a DICOM series folder at {path}, found nothing.")
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if _is_image(file)) or [path]


def _is_image(file: Path) -> bool:
    # Hidden files are not scans: macOS leaves one such as `._scan.nii.gz` beside each on foreign disks.
    return file.name.lower().endswith(IMAGE_ENDINGS) and file.name[0] != "."


def _study(path: Path) -> Study:
    """One image; the folder of a DICOM series gives no name, for it may be the patient's: a hash names its outputs."""
    return {"image": str(path)} if path.is_dir() else {"image": str(path), "name": file_stem(path)}


def _studies_below(tree: Path, output_dir: Path) -> list[Study]:
    """Returns the image files and the folders of DICOM files of a tree, in order."""
    if not tree.is_dir():
        raise FileNotFoundError(f"Expected a folder of studies at {tree}, found none; check the path of --tree.")
    studies = []
    for parent, folders, names in os.walk(tree):
        folders.sort()
        files = sorted(Path(parent, name) for name in names)
        images = [file for file in files if _is_image(file)]
        studies += [{"image": str(file), "name": _name_in_tree(file, tree, output_dir)} for file in images]
        if not images and any(_is_dicom(file) for file in files):
            studies.append({"image": parent})
    if not studies:
        raise FileNotFoundError(f"Expected images or DICOM series in {tree}, found none; check the path of --tree.")
    return studies


def _is_dicom(file: Path) -> bool:
    if file.name[0] == "." or file.name.upper() == "DICOMDIR":
        return False
    return file.suffix.lower() in DICOM_SUFFIXES or is_dicom(file)


def _name_in_tree(file: Path, tree: Path, output_dir: Path) -> str:
    """Returns a name of the file's own in the tree; folders may be called after patients, so theirs is not in it."""
    folder = file.parent.relative_to(tree).as_posix()
    if folder == ".":
        return file_stem(file)
    return f"{file_stem(file)}_{private_name(output_dir, folder)}"


def _check_names(names: Sequence[str]) -> None:
    odd = sorted(name for name in names if name.startswith(FORMULA_MARKS) or not name.isprintable())
    if odd:
        raise ValueError(
            f"Expected names of printable characters that do not begin with {' '.join(FORMULA_MARKS)}, as "
            f"formulas of a spreadsheet do, found {odd}; rename the file or the `case`."
        )
    paths = sorted(name for name in names if "/" in name or "\\" in name)
    if paths:
        raise ValueError(f"Expected names without / or \\, found {paths}; outputs are named after `case`, rename it.")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(
            f"Expected distinct names, found {repeated} more than once; outputs would overwrite each other."
        )
