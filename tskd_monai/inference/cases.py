"""The cases of an inference run: finding their files, reading them, and reading one ahead."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.data import DataLoader, Dataset

from tskd_monai.data.datalist import case_names, load_section
from tskd_monai.data.dicom.header import is_dicom_file
from tskd_monai.data.dicom.series import counted
from tskd_monai.data.dicom.tree import series_folders
from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.data.output_names import file_stem, output_name
from tskd_monai.files.option_path import text_path, typed_path
from tskd_monai.files.private_files import FOLDER as PRIVATE
from tskd_monai.files.private_files import private_name
from tskd_monai.files.shard import Shard
from tskd_monai.inference.case_files import EARLIER, RECORDS, sort_files
from tskd_monai.inference.failures import describe

logger = logging.getLogger(__name__)

Case = dict[str, str]
"""`image`, a path, and `name`, except for the folder of a DICOM series, whose outputs are named by a hash."""

FORMULA_MARKS = ("=", "+", "-", "@")
"""Leading characters that spreadsheets evaluate in `volumes.csv` and `metrics.csv`."""


def find_cases(
    image: str | Path | Sequence[str | Path] | None = None,
    datalist: str | Path | list[Any] | None = None,
    section: str = "test",
    fold: int | None = None,
    tree: str | Path | None = None,
    output_dir: str | Path | None = None,
) -> list[Case]:
    """Returns every image to segment, with the name of its outputs.

    With a datalist, the name is the case, followed by the file name where a case has several images. With a tree, it
    is the file name, followed by eight digits that stand for the file's folder unless that is the tree itself.

    Args:
        image: a NIfTI, NRRD, MetaImage or 2D image file, a folder of such files, a folder with one DICOM series, or a
            list of these. In a folder, segmentations of earlier runs, 2D images beside a series and other files are
            skipped with a warning. A file that is named itself is never skipped.
        datalist: used when neither `image` nor `tree` is given; a JSON file, or a list of images, each a path or
            `{"image": path}`, as in the model zoo and in 3D Slicer.
        section: section of the JSON file.
        fold: fold of the JSON file.
        tree: a folder in which every image file and every DICOM series is a case, also a series that is spread over
            several folders. Files are skipped as with `image`.
        output_dir: output folder of the run; needed with `tree`, whose output names are made with the folder's private
            key.

    Raises:
        FileNotFoundError: when `image` or `tree` does not exist, or a tree holds no image.
        ValueError: when none or both of them are given, a list is empty, a folder holds images of two kinds, a name is
            not valid as a file name, or two cases have the same name.
    """
    if image is not None and tree is not None:
        raise ValueError("Expected --image or --tree, found both; give one.")
    if tree is not None:
        if output_dir is None:
            raise ValueError("Expected --output_dir with --tree, found none; names of outputs are made with its key.")
        cases = _cases_below(typed_path(tree, "tree"), text_path(output_dir, "output_dir"))
    elif image is not None:
        cases = [_case(file) for path in _listed(image) for file in _image_files(path)]
    elif isinstance(datalist, list):
        cases = [_case(file) for path in _listed_images(datalist) for file in _image_files(path)]
    elif datalist is not None:
        entries = load_section(datalist, section, fold)
        cases = [
            {"image": item["image"], "name": name} for item, name in zip(entries, case_names(entries), strict=True)
        ]
    else:
        raise ValueError(
            "Expected --image (a file with a volume, or the folder of a DICOM series), --tree (a folder of cases) or "
            "--datalist, found neither."
        )
    _check_names([case["name"] for case in cases if "name" in case])
    return cases


def own_shard(cases: Sequence[Case], shard: Shard | None = None) -> list[Case]:
    """Returns the cases of this process: those of the shard, and of these every n-th of n processes of a group."""
    own = [case for case in cases if shard is None or shard.owns(case.get("name") or case["image"])]
    return own[idist.get_rank() :: idist.get_world_size()]


def _listed(image: Any) -> list[Path]:
    """Returns the paths of `--image`: one, or a list."""
    paths = image if isinstance(image, (list, tuple)) else [typed_path(image, "image")]
    return [text_path(path, "image") for path in paths]


def _listed_images(datalist: list[Any]) -> list[Path]:
    """Returns the paths of a list of images, each a path or `{"image": path}`."""
    if not datalist:
        raise ValueError("Expected paths of images in the list --datalist, found none; give at least one.")
    entries = [entry.get("image") if isinstance(entry, Mapping) else entry for entry in datalist]
    return [text_path(entry, "datalist") for entry in entries]


def _image_files(path: Path) -> list[Path]:
    """Returns the file, the image files of the folder, or the folder itself when it holds a DICOM series."""
    if not path.exists():
        raise FileNotFoundError(f"Expected an image file or a DICOM series folder at {path}, found nothing.")
    if path.is_file():
        return [path]
    files = sort_files(path, (file for file in path.iterdir() if file.is_file()))
    volumes = len(files.images) - len(files.flat_images)
    beside = bool(volumes) if files.dicom else bool(files.flat_images) and _has_dicom_below(path)
    if beside:
        kind = f"{volumes} file(s) with a volume" if volumes else f"{len(files.flat_images)} 2D image file(s)"
        raise ValueError(
            f"Expected images of one kind in {path}, found {kind} beside a DICOM series; "
            "name the file or the folder that is meant."
        )
    if not files.images and files.left_out[EARLIER] and not _has_dicom_below(path):
        raise FileNotFoundError(
            f"Expected images in {path}, found only {counted(files.left_out)}; name a file to segment it all the same."
        )
    if not files.images or files.dicom:
        return [path]
    subfolders = Counter({"subfolder": sum(folder.is_dir() for folder in path.iterdir())})
    _log_left_out("--image", files.left_out + subfolders)
    return files.images


def _has_dicom_below(folder: Path) -> bool:
    return any(is_dicom_file(file) for file in folder.rglob("*") if file.is_file())


def _log_left_out(option: str, kinds: Counter[str]) -> None:
    if kinds:
        logger.warning("%s: left out %s.", option, counted(kinds))


def _case(path: Path) -> Case:
    """Returns a case; a DICOM series is not named after its folder, which may carry the patient's name."""
    return {"image": str(path)} if path.is_dir() else {"image": str(path), "name": file_stem(path)}


def _cases_below(tree: Path, output_dir: Path) -> list[Case]:
    """Returns the image files of a tree in order, followed by the folders of its DICOM series."""
    if not tree.is_dir():
        raise FileNotFoundError(f"Expected a folder of cases at {tree}, found none; check the path of --tree.")
    images: list[Path] = []
    dicom: list[Path] = []
    left_out: Counter[str] = Counter()
    own = [output_dir / name for name in (RECORDS, PRIVATE)]
    closed: list[OSError] = []
    for parent, folders, names in os.walk(tree, onerror=closed.append):
        folders[:] = sorted(name for name in folders if Path(parent, name) not in own)
        files = sort_files(Path(parent), (Path(parent, name) for name in names))
        skipped = files.flat_images if files.dicom else []
        images += [file for file in files.images if file not in skipped]
        dicom += files.dicom
        left_out += files.left_out + Counter({"image file": len(skipped)})
    folders_of_series, no_images = series_folders(dicom)
    left_out += no_images
    if not images and not folders_of_series and not closed:
        found = counted(left_out) or "none"
        raise FileNotFoundError(f"Expected images or DICOM series in {tree}, found {found}; check the path of --tree.")
    _log_left_out("--tree", left_out)
    named = [{"image": str(file), "name": name_in_tree(file, tree, output_dir)} for file in images]
    # A folder without read permission becomes a case that fails, so the others are segmented.
    unread = [str(error.filename) for error in closed]
    return [*named, *({"image": str(folder)} for folder in (*folders_of_series, *unread))]


def name_in_tree(file: Path, tree: Path, output_dir: Path) -> str:
    """Returns a name that is unique in the tree and discloses no folder, which may be named after a patient."""
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
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(
            f"Expected distinct names, found {repeated} more than once; outputs would overwrite each other."
        )


CASE, OUTPUT, FAILURE, WARNING = "case", "output", "failure", "warning"


class CaseDataset(Dataset):
    """Reads cases; an item of a case that cannot be read holds the reason, so the run continues.

    An item has the output of the transform, `output` (the name of its outputs) and `warning` (how it differs from the
    training images, or an empty string), or else `failure` (the message); and `case`, the index of the case.

    Args:
        data: cases with `image`.
        transform: transform from a case to the network's input.
    """

    def __init__(self, data: Sequence[Case], transform: Callable[[Any], Any]) -> None:
        super().__init__(list(data), transform)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Returns the item of one case."""
        try:
            item = self._transform(index)
        except Exception as error:  # any error concerns only this case
            return {CASE: index, FAILURE: describe(error)}
        name = str(output_name(item["image"].meta, None)["subject"]).removesuffix(".nii.gz")
        return {**item, CASE: index, OUTPUT: name, WARNING: item["image"].meta.get(UNLIKE_TRAINING, "")}


class PrefetchingLoader(DataLoader):
    """A `DataLoader` that reads one batch ahead in a thread: with one case per batch, two cases are in memory.

    MONAI's `ThreadDataLoader` silently ends the loop when reading fails; here the error is raised instead of the batch.
    A worker process would copy each volume between processes.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches in order.

        Raises:
            Exception: any error of reading a batch, when it is due.
        """
        batches, end = iter(super().__iter__()), object()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
            ahead = reader.submit(next, batches, end)
            while (batch := ahead.result()) is not end:
                ahead = reader.submit(next, batches, end)
                yield batch
