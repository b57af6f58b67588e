"""The DICOM series in a folder: image files, their groups, and the choice of one series."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import FileDataset
from pydicom.uid import UID

from tskd_monai.data.dicom.frames import frame_headers
from tskd_monai.data.dicom.header import damaged, is_no_image, is_text, keep_values_out_of_logs, read_header
from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.itk_file import ITK_SUFFIXES
from tskd_monai.data.nifti import NIFTI_SUFFIXES

logger = logging.getLogger(__name__)

DERIVED_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.1": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "secondary capture",
}
"""SOP classes with pixels that are derived from images: PS3.4 table B.5-1."""

LOCALIZER = "localizer"
"""Value of ImageType, in capitals, of an image for planning a scan (PS3.3 C.8.2.1.1.1)."""


@dataclass(frozen=True)
class SeriesFiles:
    """One image series: its identity and the header of each slice, in no particular order.

    Attributes:
        uid: SeriesInstanceUID; empty if it is blank in the files.
        modality: modality, such as CT or MR.
        headers: headers without pixels; `.filename` is the file.
    """

    uid: str
    modality: str
    headers: tuple[FileDataset, ...]


def series_hash(uid: str) -> str:
    """Returns eight hex digits that identify a series in logs and file names."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def series_title(uid: str) -> str:
    """Returns the name of a series in messages: not its folder's, which may be named after the patient."""
    return f"series {series_hash(uid)}" if uid else "a series without UID"


def find_series(folder: str | Path, series_uid: str | None = None) -> SeriesFiles:
    """Returns the one image series in a folder and its subfolders.

    Subfolders are searched because exports put a series in a subfolder (`DICOM/S0001/IM0`). Reports, segmentations,
    dose grids, screenshots, localizers and files of other formats are ignored with a warning. A localizer is read only
    if `series_uid` names it.

    Args:
        folder: folder to search.
        series_uid: SeriesInstanceUID to read from a folder that holds several series.

    Raises:
        FileNotFoundError: when the folder is missing or holds no DICOM image.
        ValueError: when there are several image series and none is named, the named one is missing, there are only
            localizers and none is named, or a DICOM file cannot be read.
    """
    folder = Path(folder).absolute()  # so that `.` has a name
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder with a DICOM series at {folder}, found none; check the path.")
    keep_values_out_of_logs()
    series, localizers, ignored = _scan(folder)
    if not series and not localizers:
        found = counted(ignored) if ignored else "no DICOM file"
        raise FileNotFoundError(f"Expected a DICOM image series in {folder}, found {found}; check the path.")
    named = None if any(item.uid == series_uid for item in series) else _named(localizers, series_uid)
    if not series and named is None:
        raise ValueError(
            f"Expected a DICOM image series in {folder}, found only localizers, which scans are planned on; "
            f"give --series_uid if one of them is meant.{_listing(localizers)}"
        )
    chosen = named or _choose(series, folder, series_uid)
    if named:
        logger.warning("%s is a localizer.", series_title(named.uid))
    elif localizers:
        ignored[LOCALIZER] = sum(len(item.headers) for item in localizers)
    if ignored:
        logger.warning("%s: ignored %s.", series_title(chosen.uid), counted(ignored))
    subfolders = {Path(str(header.filename)).parent for header in chosen.headers} - {folder}
    if subfolders:
        level = logging.WARNING if len(subfolders) > 1 else logging.DEBUG
        logger.log(level, "%s lies in %d subfolder(s).", series_title(chosen.uid), len(subfolders))
    return chosen


def _scan(folder: Path) -> tuple[list[SeriesFiles], list[SeriesFiles], Counter[str]]:
    """Returns the image series, largest first, the localizers of any series, and the number of other files by kind."""
    images: dict[str, list[FileDataset]] = {}
    localizers: dict[str, list[FileDataset]] = {}
    ignored: Counter[str] = Counter()
    for path in _files(folder):
        header = read_header(path)
        kind = file_kind(path) if header is None else image_kind(header)
        if header is None or kind not in ("", LOCALIZER):
            ignored[kind] += not is_no_image(path)
        else:
            groups = localizers if kind else images
            groups.setdefault(str(header.get("SeriesInstanceUID") or ""), []).extend(frame_headers(header))
    return _largest_first(images), _largest_first(localizers), +ignored


def _largest_first(groups: Mapping[str, Sequence[FileDataset]]) -> list[SeriesFiles]:
    series = [SeriesFiles(uid, str(g[0].get("Modality") or "unknown modality"), tuple(g)) for uid, g in groups.items()]
    return sorted(series, key=lambda item: (-len(item.headers), item.uid))


def file_kind(path: Path) -> str:
    """Returns the kind of a file that is not DICOM, for counts: its name may be the patient's."""
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return "NIfTI file"
    if name.endswith(ITK_SUFFIXES):
        return "NRRD or MetaImage file"
    if name.endswith(IMAGE_SUFFIXES):
        return "image file"
    return "text file" if is_text(path) else "other file"


def _files(folder: Path) -> list[Path]:
    """Returns the files below a folder in order; refuses an unreadable subfolder instead of skipping it."""

    def refuse(error: OSError) -> None:
        raise ValueError(
            f"Expected a readable folder, found {error.filename} closed ({error.strerror}); "
            "give read permission, or move the series."
        ) from error

    found = [Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names]
    return sorted(path for path in found if path.is_file())


def image_kind(header: FileDataset) -> str:
    """Returns the kind of a DICOM object that is not an image of a scan, and an empty string for an image of a scan.

    Raises:
        ValueError: when the header is truncated.
    """
    sop_class = UID(str(header.get("SOPClassUID") or _media_class(header)))
    if sop_class in DERIVED_CLASSES:
        return DERIVED_CLASSES[sop_class]
    if header.get("Rows") and header.get("Columns"):
        return LOCALIZER if LOCALIZER.upper() in (header.get("ImageType") or ()) else ""
    if not sop_class or sop_class.name.endswith("Image Storage"):
        raise ValueError(damaged(Path(str(header.filename)), "no Rows and Columns"))
    return str(header.get("Modality") or sop_class.name)


def _media_class(header: FileDataset) -> str:
    try:
        return str(header.file_meta.get("MediaStorageSOPClassUID") or "")
    except Exception as error:  # a damaged element, decoded only here
        raise ValueError(damaged(Path(str(header.filename)), str(error))) from error


def _choose(series: list[SeriesFiles], folder: Path, series_uid: str | None) -> SeriesFiles:
    listing = _listing(series)
    if series_uid is not None:
        if named := _named(series, series_uid):
            return named
        raise ValueError(f"Expected the DICOM series {series_uid} in {folder}, found others; choose one of:{listing}")
    if len(series) > 1:
        titles = ", ".join(_title(item, number == 0) for number, item in enumerate(series))
        raise ValueError(
            f"Expected one DICOM series in {folder}, found {len(series)} ({titles}); "
            f"leave one in the folder, or choose one with --series_uid.{listing}"
        )
    return series[0]


def _named(series: Sequence[SeriesFiles], series_uid: str | None) -> SeriesFiles | None:
    return next((item for item in series if item.uid == series_uid), None)


def _listing(series: Sequence[SeriesFiles]) -> str:
    return "".join(f"\n  {item.uid or '(blank)'}  {_title(item)}{_number(item)}" for item in series)


def _title(item: SeriesFiles, with_unit: bool = True) -> str:
    """Returns for example `CT 120 slices`; nothing else is shown, as headers and descriptions may name the patient."""
    unit = " slices" if len(item.headers) != 1 else " slice"
    return f"{item.modality} {len(item.headers)}{unit if with_unit else ''}"


def _number(item: SeriesFiles) -> str:
    number = item.headers[0].get("SeriesNumber")
    return "" if number is None else f", series number {number}"


def counted(kinds: Counter[str]) -> str:
    """Returns for example `2 SEG, 1 text file`."""
    plural = {kind: kind if kind.isupper() else f"{kind}s" for kind in kinds}
    return ", ".join(f"{count} {plural[kind] if count > 1 else kind}" for kind, count in kinds.items())
