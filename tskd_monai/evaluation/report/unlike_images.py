"""Images of an evaluation that are unlike the training images, as the run that segmented them has recorded."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.files.json_files import check_fields, read_json

SUMMARY = "summary.json"
ADVICE = "segment the section again"


def unlike_images(output_dir: str | Path) -> dict[str, str]:
    """Returns how images differ from the training images, by name, where they do; empty without a `summary.json`.

    Args:
        output_dir: of the run.

    Raises:
        ValueError: if `summary.json` is not what a run writes; names file and field.
    """
    path = Path(output_dir) / SUMMARY
    if not path.is_file():
        return {}
    summary = read_json(path)
    check_fields(summary, {"studies": (list,)}, str(path), ADVICE)
    unlike = {}
    for record in summary["studies"]:
        check_fields(record, {"name": (str,)}, f"{path}, studies", ADVICE)
        if UNLIKE_TRAINING in record:
            check_fields(record, {UNLIKE_TRAINING: (str,)}, f"{path}, studies", ADVICE)
            unlike[record["name"]] = record[UNLIKE_TRAINING]
    return unlike


def unlike_note(unlike: Mapping[str, str], images: int) -> str:
    """Returns the HTML of a list of these images; "" where there are none.

    Args:
        unlike: from `unlike_images`.
        images: number of images of the evaluation.
    """
    if not unlike:
        return ""
    lines = "".join(f"<li>{escape(name)}: {escape(found)}</li>" for name, found in unlike.items())
    return (
        f'<div class="finding"><b>{len(unlike)} of {images} images are unlike the training images.</b> '
        f"Check that the model is meant for them.<ul>{lines}</ul></div>"
    )
