"""Partly labelled cases of a datalist: which structures were drawn in a case, and which voxels are ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tskd_monai.files.json_files import shown

DRAWN = "structures"
"""Key of an entry: the names of the structures that were drawn in it; without it, all were."""

IGNORE = "ignore"
"""Name of the label of voxels to ignore, as in nnU-Net."""

MOST_CLASSES = 24
"""Foreground classes of a task with partly labelled images, whose bits a label map in float32 holds."""


def declared_names(labels: Mapping[str, Any]) -> list[str]:
    """Returns the names in `labels` of a datalist, background first, without that of voxels to ignore."""
    named = [str(name) for value, name in labels.items() if str(value) != "0" and name != IGNORE]
    return ["background", *named]


def undrawn_classes(drawn: Any, names: Sequence[str], title: str) -> tuple[int, ...]:
    """Returns the foreground classes that are not among the drawn structures of a case; none without a list.

    Args:
        drawn: names of the structures that were drawn, `structures` of the case; None: all.
        names: name of each class, background first.
        title: name of the case or of its image in messages.

    Raises:
        ValueError: when the list is malformed or empty, or names another structure.
    """
    if drawn is None:
        return ()
    known = ", ".join(names[1:])
    if not isinstance(drawn, (list, tuple)) or not all(isinstance(name, str) for name in drawn):
        raise ValueError(f"{title}: expected names among {known} in `{DRAWN}`, found {shown(drawn)}.")
    unknown = [name for name in drawn if name not in names[1:]]
    if unknown:
        raise ValueError(
            f"{title}: expected names among {known} in `{DRAWN}`, the structures that were drawn, found "
            f"{shown(unknown[0])}; correct it."
        )
    if not drawn:
        raise ValueError(
            f"{title}: expected at least one name among {known} in `{DRAWN}`, found none; list an image in which "
            "nothing was drawn in `unlabeled`."
        )
    return tuple(index for index in range(1, len(names)) if names[index] not in drawn)


def undrawn_code(classes: Iterable[int]) -> int:
    """Returns the value in a label map of classes of a voxel that is background or one of these foreground classes.

    It is -m with bit k - 1 of m for class k; `tskd_monai.losses.marginal_dice_ce` reads it.

    Raises:
        ValueError: when a class is above 24.
    """
    classes = set(classes)
    if max(classes, default=0) > MOST_CLASSES:
        raise ValueError(
            f"Expected at most {MOST_CLASSES} structures in a task with partly labelled cases or voxels to ignore, "
            f"found {max(classes)}; make a task of fewer structures."
        )
    return -sum(1 << (index - 1) for index in classes)
