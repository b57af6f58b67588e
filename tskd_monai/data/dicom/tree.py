"""Folders of a tree that hold the images of one DICOM series."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from tskd_monai.data.dicom.header import read_header
from tskd_monai.data.dicom.series import image_kind, series_title

logger = logging.getLogger(__name__)

TAGS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows", "Columns"]
"""Elements that are read of each file: its series, and whether it is an image."""


def series_folders(files: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """Returns the folders to read, each for one series, and the number of files outside of any series, by kind.

    A series is read from the folder of its files. A series that an export has spread over several folders, for example
    100 files each, is read from their parent folder, or refused as a whole if that holds another series too. Copies of
    a series are read from each of their folders. A folder of reports, segmentations or localizers holds no series.

    Args:
        files: DICOM files of the tree, in any order.
    """
    series: dict[str, dict[Path, set[str]]] = defaultdict(lambda: defaultdict(set))
    folders: set[Path] = set()
    left_out: Counter[str] = Counter()
    for path in files:
        try:
            header = read_header(path, TAGS)
            kind = "other file" if header is None else image_kind(header)
        except ValueError:  # reading the folder reports it, as for any unreadable file
            folders.add(path.parent)
            continue
        if header is None or kind:
            left_out[kind] += 1
        else:
            folders.add(path.parent)
            series[str(header.get("SeriesInstanceUID") or "")][path.parent].add(str(header.get("SOPInstanceUID") or ""))
    for uid, parts in series.items():
        if uid and len(parts) > 1 and not any(one & other for one, other in combinations(parts.values(), 2)):
            logger.warning("%s lies in %d folders of the tree; they are read as one.", series_title(uid), len(parts))
            folders.difference_update(parts)
            folders.add(Path(os.path.commonpath(parts)))
    return sorted(folders), left_out
