"""Which images an inference run is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tskd_monai.data.datalist import load_section, study_names
from tskd_monai.data.output_names import IMAGE_ENDINGS, file_stem


def find_studies(
    image: str | Path | None = None,
    datalist: str | Path | None = None,
    section: str = "test",
    fold: int | None = None,
) -> list[dict[str, str]]:
    """Returns `{"image", "name"}` of every image to segment; outputs carry the name.

    In a datalist the name is the case, followed by the file's name where a case has several images.

    Args:
        image: a NIfTI or 2D image file, a folder of such files, or a folder with one DICOM series.
        datalist: taken when there is no `image`.
        section: of the datalist.
        fold: of the datalist.

    Raises:
        FileNotFoundError: when `image` does not exist.
        ValueError: when neither is given, a name is no file name, or two images would be written under one.
    """
    if image is None and datalist is None:
        raise ValueError("Expected --image (a NIfTI file or a DICOM series folder) or --datalist, found neither.")
    if image is None:
        entries = load_section(datalist, section, fold)
        studies = [
            {"image": item["image"], "name": name} for item, name in zip(entries, study_names(entries), strict=True)
        ]
    else:
        studies = [_study(path) for path in _image_files(Path(image))]
    _check_names([study["name"] for study in studies if "name" in study])
    return studies


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"Expected an image file or a DICOM series folder at {path}, found nothing.")
    if path.is_file():
        return [path]
    # Hidden files are not scans: macOS leaves one such as `._scan.nii.gz` beside each on foreign disks.
    files = [file for file in path.iterdir() if file.name.lower().endswith(IMAGE_ENDINGS) and file.name[0] != "."]
    return sorted(files) or [path]


def _study(path: Path) -> dict[str, str]:
    """One image; the folder of a DICOM series gives no name, for it may be the patient's: a hash names its outputs."""
    return {"image": str(path)} if path.is_dir() else {"image": str(path), "name": file_stem(path)}


def _check_names(names: Sequence[str]) -> None:
    paths = sorted(name for name in names if "/" in name or "\\" in name)
    if paths:
        raise ValueError(f"Expected names without / or \\, found {paths}; outputs are named after `case`, rename it.")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(
            f"Expected distinct names, found {repeated} more than once; outputs would overwrite each other."
        )
