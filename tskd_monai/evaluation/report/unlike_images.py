"""Images of an evaluation that are unlike the training images, as recorded by the run that segmented them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.files.json_files import check_fields, read_json

SUMMARY = "summary.json"
ADVICE = "segment the section again"


def unlike_images(output_dir: str | Path) -> dict[str, str]:
    """Returns, by image name, how images differ from the training images; empty without a `summary.json`.

    Args:
        output_dir: folder of the run.

    Raises:
        ValueError: if `summary.json` is not as a run writes it; names file and field.
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
    """Returns the HTML list of these images; "" if there are none.

    Args:
        unlike: result of `unlike_images`.
        images: number of images in the evaluation.
    """
    if not unlike:
        return ""
    lines = "".join(f"<li>{escape(name)}: {escape(found)}</li>" for name, found in unlike.items())
    return (
        f'<div class="finding"><b>{len(unlike)} of {images} images are unlike the training images.</b> '
        f"Check that the model is meant for them.<ul>{lines}</ul></div>"
    )
