"""A folder that images are dropped into: which of them have arrived completely.

An image is complete once none of its files has changed for some time, and, if it is a DICOM series, once it can be
read: no slice is missing, and no file is truncated. The folder is polled: network shares report no changes.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tskd_monai.data.dicom.header import is_dicom_file, read_header
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.dicom.series import image_kind, series_hash
from tskd_monai.data.dicom.tree import TAGS
from tskd_monai.data.itk_file import data_files
from tskd_monai.data.output_names import IMAGE_ENDINGS
from tskd_monai.files.private_files import private_file, private_name
from tskd_monai.inference.case_files import is_segmentation, stems_of
from tskd_monai.inference.cases import Case, name_in_tree

logger = logging.getLogger(__name__)

State = tuple[int, int]
"""Size in bytes and time of modification in ns of a file."""
LINKS = "series"


@dataclass(frozen=True)
class Arrival:
    """An image in the folder.

    Attributes:
        name: name of its outputs: of a DICOM series, the hash of its UID.
        files: its files, sorted.
        states: state of each file.
        since: when one of them was last seen to change, in seconds of the monotonic clock.
        is_series: whether it is a DICOM series.
    """

    name: str
    files: tuple[Path, ...]
    states: tuple[State, ...]
    since: float
    is_series: bool

    @property
    def identity(self) -> list[tuple[str, int, int]]:
        """Name, size and time of modification of each file: changes with the image."""
        return [(path.name, *state) for path, state in zip(self.files, self.states, strict=True)]


@dataclass
class _File:
    state: State
    since: float
    kind: str
    """`image`, `damaged`, "" for any other file, or the UID of a DICOM series after `series `."""


class DropFolder:
    """Finds the images in a folder and its subfolders that have arrived completely.

    Args:
        folder: folder to search; hidden files and folders are ignored.
        output_dir: output folder of the run, which is not searched; links to the files of a series are made there.
        settle: seconds without a change after which files are complete.
        patience: seconds without a change after which an incomplete series is given up and passed on all the same, so
            that it fails with the reason.
        irregular: treatment of gantry tilt and missing slices, as for reading.
        clock: returns seconds.

    Raises:
        ValueError: if the seconds are not positive, or the output folder is the folder itself.
    """

    def __init__(
        self,
        folder: Path,
        output_dir: Path,
        settle: float,
        patience: float,
        irregular: str = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not settle > 0 or not patience > 0:
            raise ValueError(f"Expected positive seconds for --settle and --patience, found {settle} and {patience}.")
        if not folder.is_dir():
            raise FileNotFoundError(f"Expected a folder to watch at {folder}, found none; check the path of --watch.")
        if folder.resolve() == output_dir.resolve():
            raise ValueError(f"Expected an output folder other than the watched {folder}; give --output-dir.")
        self.folder, self.output_dir = folder.resolve(), output_dir.resolve()
        self.settle, self.patience, self.irregular, self.clock = settle, patience, irregular, clock
        self.waiting: dict[str, str] = {}
        """Name of each series that is incomplete -> what is missing."""
        self._files: dict[Path, _File] = {}
        self._checked: dict[str, tuple[tuple[State, ...], str]] = {}

    def scan(self) -> list[Arrival]:
        """Returns the images that are complete, or given up, in the order of their names; passes over the others."""
        self._look()
        now = self.clock()
        arrivals = sorted(self._arrivals(), key=lambda arrival: arrival.name)
        self._checked = {arrival.name: self._checked[arrival.name] for arrival in arrivals
                         if arrival.name in self._checked}  # fmt: skip
        settled = [arrival for arrival in arrivals if now - arrival.since >= self.settle]
        missing = {arrival.name: self._missing(arrival) for arrival in settled if arrival.is_series}
        given_up = {arrival.name for arrival in settled if now - arrival.since >= self.patience}
        self.waiting = {name: reason for name, reason in missing.items() if reason and name not in given_up}
        return [arrival for arrival in settled if arrival.name not in self.waiting]

    def case(self, arrival: Arrival) -> Case:
        """Returns the case to segment; a series becomes a folder of links to its files and no others."""
        if not arrival.is_series:
            return {"image": str(arrival.files[0]), "name": arrival.name}
        return {"image": str(self._linked(arrival)), "name": arrival.name}

    def _look(self) -> None:
        """Updates the known files; the beginning of a new or changed one is read."""
        found, now = {}, self.clock()
        for path, state in self._walk():
            known = self._files.get(path)
            if known is None or known.state != state:
                known = _File(state, now, _kind(path))
            found[path] = known
        self._files = found

    def _walk(self) -> Iterator[tuple[Path, State]]:
        for parent, folders, names in os.walk(self.folder):
            visible = [name for name in folders if not name.startswith(".")]
            folders[:] = [name for name in visible if Path(parent, name) != self.output_dir]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                try:
                    state = path.stat()
                except OSError:  # removed or closed in the meantime
                    continue
                yield path, (state.st_size, state.st_mtime_ns)

    def _arrivals(self) -> Iterator[Arrival]:
        images = [path for path, file in self._files.items() if file.kind == "image"]
        names = defaultdict(list)
        for path in images:
            names[path.parent].append(path)
        stems = {folder: stems_of(paths) for folder, paths in names.items()}
        for path in images:
            if not is_segmentation(path, stems[path.parent]):
                parts = [part for part in data_files(path) if part in self._files]
                yield self._arrival(name_in_tree(path, self.folder, self.output_dir), [path, *parts], False)
        series, damaged = defaultdict(list), defaultdict(list)
        for path, file in self._files.items():
            if file.kind.startswith("series "):
                series[file.kind.removeprefix("series ") or f"in {path.parent}"].append(path)
            elif file.kind == "damaged":
                damaged[path.parent].append(path)
        unclaimed = set(damaged)
        for uid, files in series.items():
            # A file without a readable header may be a slice of any series beside it: none is read without it.
            folders = {path.parent for path in files}
            beside = [path for folder in folders for path in damaged.get(folder, [])]
            unclaimed -= folders
            name = series_hash(uid) if not uid.startswith("in ") else private_name(self.output_dir, uid)
            yield self._arrival(name, [*files, *beside], True)
        for folder in unclaimed:
            yield self._arrival(private_name(self.output_dir, f"damaged in {folder}"), damaged[folder], True)

    def _arrival(self, name: str, files: list[Path], is_series: bool) -> Arrival:
        ordered = tuple(sorted(files)) if is_series else tuple(files)
        states = tuple(self._files[path].state for path in ordered)
        return Arrival(name, ordered, states, max(self._files[path].since for path in ordered), is_series)

    def _missing(self, arrival: Arrival) -> str:
        """Returns what keeps a series from being read, an empty string if nothing does."""
        states, reason = self._checked.get(arrival.name, ((), ""))
        if states != arrival.states:
            try:
                read_series(self._linked(arrival), None, self.irregular)  # a truncated file shows in its pixels only
                reason = ""
            except (ValueError, OSError, ImportError) as error:
                reason = str(error)
            self._checked[arrival.name] = (arrival.states, reason)
        return reason

    def _linked(self, arrival: Arrival) -> Path:
        folder = private_file(self.output_dir, LINKS) / arrival.name
        folder.mkdir(parents=True, exist_ok=True)
        links = {folder / f"{number:06d}_{path.name}": path for number, path in enumerate(arrival.files)}
        for old in set(folder.iterdir()) - links.keys():
            old.unlink()
        for link, path in links.items():
            if not link.is_symlink() or link.readlink() != path:
                link.unlink(missing_ok=True)
                link.symlink_to(path)
        return folder


def _kind(path: Path) -> str:
    """Returns the kind of a file; see `_File`."""
    if path.name.lower().endswith(IMAGE_ENDINGS):
        return "image"
    try:
        if not is_dicom_file(path):
            return ""
        header = read_header(path, TAGS)
        if header is None or image_kind(header):
            return ""
    except (ValueError, OSError):
        return "damaged"
    return f"series {header.get('SeriesInstanceUID') or ''}"
