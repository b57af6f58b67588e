"""The labels of a folder: their values, and the names that a user gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tskd_monai.data.image_file import LOSSY_SUFFIXES
from tskd_monai.data.labels import BLACK_AND_WHITE, listed_values, whole_labels
from tskd_monai.data.volume_reader import VolumeReader

LARGEST_NUMBER_OF_LABELS = 64
LARGEST_VALUE = 65535


def named_labels(
    names: str | None, described: Mapping[str, str] | None, paths: Sequence[Path], lenient: bool
) -> dict[str, str]:
    """Returns the name of each label value, background first.

    Args:
        names: `liver,spleen` in the order of the values, or `liver=1,spleen=4`; None: `described`, or `label_1` and so
            on.
        described: names that come with the dataset.
        paths: paths of the label maps.
        lenient: see `label_values`.

    Raises:
        ValueError: if the names are malformed, or there is not one for each value in the labels.
    """
    if names is None and described:
        return dict(described)
    pairs = _parsed(names) if names is not None else []
    if pairs and all(value for _, value in pairs):
        return {"0": "background", **{value: name for name, value in pairs if int(value)}}
    values = label_values(paths, lenient)
    if pairs and len(pairs) != len(values):
        raise ValueError(
            f"Expected --labels with a name for each of the label values found, {listed_values(values)}, found "
            f"{len(pairs)}: {', '.join(name for name, _ in pairs)}. Give a name for each, or names with values, as in "
            "liver=1,spleen=4."
        )
    listed = [name for name, _ in pairs] or [f"label_{value}" for value in values]
    return {"0": "background", **{str(value): name for value, name in zip(values, listed, strict=True)}}


def _parsed(names: str) -> list[tuple[str, str]]:
    """Returns the names of --labels, each with its value or an empty text; all have one or none has.

    Raises:
        ValueError: if they are malformed; names the part.
    """
    parts = names.split(",")
    split = [part.partition("=") for part in parts]
    pairs = [(name.strip(), value.strip()) for name, _, value in split]
    wrong = [
        part
        for part, (name, sign, value) in zip(parts, split, strict=True)
        if not name.strip() or (sign and not (value.strip().isdecimal() and int(value) <= LARGEST_VALUE))
    ]
    if wrong:
        raise ValueError(
            f"Expected --labels as names, such as liver,spleen, or names with whole numbers, such as liver=1,spleen=4, "
            f"found {wrong[0]!r}."
        )
    valued = [name for name, value in pairs if value]
    if valued and len(valued) < len(pairs):
        bare = next(name for name, value in pairs if not value)
        raise ValueError(f"Expected --labels with a value for each name or for none, found {bare!r} without one.")
    for kind, given in (("name", [name for name, _ in pairs]), ("value", [str(int(v)) for _, v in pairs if v])):
        repeated = [one for one, number in Counter(given).items() if number > 1]
        if repeated:
            raise ValueError(f"Expected each {kind} once in --labels, found {repeated[0]} again in {names}.")
    return [(name, value and str(int(value))) for name, value in pairs]


def label_values(paths: Sequence[Path], lenient: bool = False) -> list[int]:
    """Returns the values above 0 that label maps contain, sorted.

    Args:
        paths: paths of the label maps.
        lenient: whether to leave out files that cannot be read, that are no label maps, or whose foreground has another
            value than that of most; the survey of a dataset lists these.

    Raises:
        ValueError: if they contain none, or too many for label maps, or binary masks use different values; names the
            file.
    """
    found: dict[Path, set[int]] = {}
    first: Exception | None = None
    for path in paths:
        try:
            found[path] = _values_of(path)
        except (ValueError, FileNotFoundError) as error:
            if not lenient:
                raise
            first = first or error
    values = set().union(*found.values())
    if not values:
        raise first or ValueError("Expected label values above 0 in labels/, found background only.")
    if values == {1, BLACK_AND_WHITE} and not any(len(one) > 1 for one in found.values()):
        return [_usual_value(found, lenient)]
    return sorted(values)


def _usual_value(found: Mapping[Path, set[int]], lenient: bool) -> int:
    """Returns the foreground value of most binary masks, some of which use 1 and others 255."""
    examples = {value: path.name for path, values in reversed([*found.items()]) for value in values}
    if not lenient:
        raise ValueError(
            f"Expected one foreground value in all masks, found 1 in {examples[1]} and {BLACK_AND_WHITE} in "
            f"{examples[BLACK_AND_WHITE]}. Write the same value into all, or name both, as in lesion=1,other=255."
        )
    return Counter(value for values in found.values() for value in values).most_common(1)[0][0]


def _values_of(path: Path) -> set[int]:
    label, _ = VolumeReader(labels=True).read(path)
    values = distinct_values(whole_labels(np.asarray(label), path.name))
    whole = np.array_equal(values, np.rint(values)) and values.min() >= 0
    lossy = path.name.lower().endswith(LOSSY_SUFFIXES) and len(values) > 2
    if len(values) > LARGEST_NUMBER_OF_LABELS or not whole or lossy:
        reason = (
            "JPEG compression changes values at edges; export the label as PNG"
            if lossy
            else "is it an image, or a mask with smooth edges? A label map has one whole number per structure"
        )
        raise ValueError(
            f"{path}: expected a label map (whole numbers from 0), found {listed_values(values)}; {reason}."
        )
    return {int(value) for value in values if value > 0}


def distinct_values(label: np.ndarray) -> np.ndarray:
    """Returns the distinct values of a label map, sorted; whole numbers up to 65535 without sorting the voxels."""
    lowest, highest = label.min(), label.max()
    if lowest >= 0 and highest <= LARGEST_VALUE:
        whole = label.astype(np.uint16)
        if np.array_equal(whole, label):
            present = np.zeros(LARGEST_VALUE + 1, bool)
            present[whole.ravel(order="K")] = True
            return np.flatnonzero(present)
    return np.unique(label)
