"""Which folders of a tree hold the images of one DICOM series."""

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
"""What is read of each file: where it belongs, and whether it is an image."""


def series_folders(files: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """Returns the folders to read, each for one series, and how many files belong to none, by kind.

    A series is in the folder of its files. One that an export has spread over several folders, 100 files to each for
    example, is in the folder above them, to be read whole or, where another series lies there too, to be refused whole.
    Copies of a series are in the folder of each. A folder of reports, segmentations or localizers holds no series.

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
        except ValueError:  # reading the folder says so, as of any other that cannot be read
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
            folders = (folders - set(parts)) | {Path(os.path.commonpath(parts))}
    return sorted(folders), left_out
