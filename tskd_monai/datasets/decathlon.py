"""Any task of the Medical Segmentation Decathlon.

Layout of a task's archive (medicaldecathlon.com):

    Task04_Hippocampus/dataset.json, imagesTr/hippocampus_001.nii.gz, labelsTr/…, imagesTs/…

`dataset.json` has `name`, `description`, `licence`, `modality` (`{"0": "MRI"}`, one name per channel), `labels`,
`numTraining`, `training` (`[{"image": "./imagesTr/…", "label": "./labelsTr/…"}]`) and `test`
(`["./imagesTs/…"]`).

Source: MONAI's `load_decathlon_datalist`, which reads this file, and Task04 as the tests read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.nifti import read_nifti
from tskd_monai.data.output_names import file_stem
from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import require_file
from tskd_monai.datasets.writing import copied, write_volume
from tskd_monai.files.json_files import read_json

LAYOUT = "Task04_Hippocampus/dataset.json with imagesTr/*.nii.gz, labelsTr/*.nii.gz and imagesTs/*.nii.gz"


def find(source: Path, channel: int | None = None) -> PublicDataset:
    """Returns the dataset; official test images, which have no labels, become unlabelled.

    Args:
        source: folder of the task.
        channel: channel to use if there are several (Task01: FLAIR, T1w, T1gd, T2w; Task05: T2, ADC).

    Raises:
        FileNotFoundError: if the layout differs, or a file that `dataset.json` names is missing.
        ValueError: if `dataset.json` is not a task, the task has several channels and none is chosen, or there is no
            such channel.
    """
    task = _read_task(require_file(source / "dataset.json", "Decathlon", LAYOUT))
    chosen = _channel(task, channel, source)
    samples = []
    for entry in task["training"]:
        image, label = (require_file(source / entry[key], "Decathlon", LAYOUT) for key in ("image", "label"))
        case = file_stem(image)
        samples.append(Sample(case, _image(image, chosen), copied(label, f"labels/{label.name}")))
    for entry in task.get("test", []):
        name = entry["image"] if isinstance(entry, Mapping) else entry
        image = require_file(source / name, "Decathlon", LAYOUT)
        samples.append(Sample(file_stem(image), _image(image, chosen)))
    return PublicDataset(_description(task, chosen), tuple(samples))


def _read_task(path: Path) -> dict[str, Any]:
    task = read_json(path)
    missing = [key for key in ("name", "modality", "labels", "training") if key not in task]
    if missing:
        raise ValueError(f"{path}: expected a task of the Decathlon, found no `{missing[0]}`; the layout is {LAYOUT}.")
    return dict(task)


def _channel(task: Mapping[str, Any], channel: int | None, source: Path) -> int | None:
    """Returns the channel to extract; None if images have only one."""
    names = [task["modality"][key] for key in sorted(task["modality"], key=int)]
    if len(names) == 1 and channel in (None, 0):
        return None
    if channel is None or not 0 <= channel < len(names):
        listed = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        raise ValueError(
            f"{source / 'dataset.json'}: expected --channel as one of {listed}, found {channel}; one channel is used."
        )
    return channel


def _image(path: Path, channel: int | None) -> OutputFile:
    target = f"images/{path.name}"
    if channel is None:
        return copied(path, target)

    def write(output: Path) -> None:
        write_volume(output, *read_nifti(path, channel))

    return OutputFile(target, path, write)


def _description(task: Mapping[str, Any], channel: int | None) -> Description:
    modality = str(task["modality"][str(channel or 0)])
    title = f"Medical Segmentation Decathlon {task['name']}: {task.get('description', '')}".rstrip(": ")
    training = int(task.get("numTraining", len(task["training"])))
    return Description(
        name=f"decathlon_{str(task['name']).lower()}",
        title=title if channel is None else f"{title}, channel {channel} ({modality})",
        modality="MR" if modality.upper() == "MRI" else modality,
        channels=1,
        labels={int(value): str(name) for value, name in task["labels"].items()},
        licence=str(task.get("licence") or task.get("license") or "CC BY-SA 4.0"),
        reference="http://medicaldecathlon.com",
        patients="The dataset does not state which images share a patient: each image counts as a patient.",
        split="Drawn by image: the official test set has no labels (it is `unlabeled`).",
        official_images=training,
        official_patients=training,
    )
