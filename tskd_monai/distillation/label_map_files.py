"""Label maps from anywhere as targets: which file of a folder belongs to which image."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import EnsureChannelFirstd

from tskd_monai.data.datalist import case_names
from tskd_monai.data.labels import CheckLabelMatchesImaged
from tskd_monai.data.output_names import IMAGE_ENDINGS, SEGMENTATION_POSTFIX, file_stem, shortened
from tskd_monai.data.volume_reader import load_image_transform, load_label_transform
from tskd_monai.files.checksum import file_sha256

FIRST_CHANNEL = "_0000"
"""How nnU-Net ends the file name of an image, but not that of its label map."""

SHOWN = 5


def find_label_maps(folder: str | Path, entries: Sequence[Mapping[str, Any]]) -> list[Path | None]:
    """Returns the label map of each entry, None where the folder has none.

    A file belongs to an entry if its name without suffix, and without a final `_seg`, is the entry's case or the name
    of its image, as after `tskd segment` or nnU-Net's prediction.

    Args:
        folder: folder of label map files.
        entries: `{"image", "case"}` of a section.

    Raises:
        FileNotFoundError: when there is no such folder, or it has no image file.
        ValueError: when two files belong to one entry, or one file to two entries; names them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of label maps at --label_maps {folder}, found none.")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.lower().endswith(IMAGE_ENDINGS):
            files.setdefault(file_stem(path).removesuffix(f"_{SEGMENTATION_POSTFIX}"), []).append(path)
    if not files:
        raise FileNotFoundError(f"Expected label maps at --label_maps {folder}, found no image file.")
    owners: dict[Path, str] = {}
    found: list[Path | None] = []
    for entry, name in zip(entries, case_names(entries), strict=True):
        stem = file_stem(Path(entry["image"]))
        names = dict.fromkeys((shortened(name), stem, stem.removesuffix(FIRST_CHANNEL)))
        own = [path for candidate in names for path in files.get(candidate, [])]
        if len(own) > 1:
            raise ValueError(
                f"Expected one label map of case {name} at --label_maps, found {' and '.join(p.name for p in own)}; "
                "keep one of them."
            )
        if own and owners.setdefault(own[0], name) != name:
            raise ValueError(
                f"Expected a label map for each image, found {own[0].name} for the cases {owners[own[0]]} and {name}; "
                "name the files after the cases."
            )
        found.append(own[0] if own else None)
    return found


def require_all(paths: Sequence[Path | None], entries: Sequence[Mapping[str, Any]], folder: str | Path) -> list[Path]:
    """Returns the label maps; raises ValueError when an entry has none, naming its case."""
    missing = [str(entry["case"]) for entry, path in zip(entries, paths, strict=True) if path is None]
    if missing:
        names = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise ValueError(
            f"Expected a label map of each of {len(entries)} images at --label_maps {folder}, found none for case "
            f"{names}; name a file after the case or the image, or leave the case out of the datalist."
        )
    return [path for path in paths if path is not None]


def check_grid(image: str | Path, label_map: str | Path) -> None:
    """Raises ValueError when a label map is not on the grid of its image; names both files."""
    item: dict[Hashable, Any] = {"image": str(image), "label": str(label_map)}
    for transform in (load_image_transform(["image"]), load_label_transform(["label"])):
        item = transform(item)
    CheckLabelMatchesImaged()(EnsureChannelFirstd(["image", "label"])(item))


def content_sha256(paths: Sequence[Path]) -> str:
    """Returns the sha256 of the content of some files, in any order and under any name."""
    return hashlib.sha256("\n".join(sorted(map(file_sha256, paths))).encode()).hexdigest()
