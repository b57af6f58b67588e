"""A task that grows: new classes beside those of a student, whose values, names, order and geometry stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tskd_monai.data.task import Label, Task

KEPT = ("channels", "image_size", "pixdim", "axcodes", "intensity", "neighbours")
"""Fields that determine what a student sees of an image."""


def extended_task(known: Task, labels: Sequence[Label], name: str, ignore: int | None = None) -> Task:
    """Returns the task of a student with the new classes of a dataset behind its own.

    Geometry, intensities and filters are the student's; the frequencies of the classes are unknown.

    Args:
        known: task of the student.
        labels: labels that the dataset declares, background first.
        name: name of the new task.
        ignore: value of voxels to ignore; None: there are none.

    Raises:
        ValueError: when the dataset lacks a structure of the student, gives it another value, or has no new one.
    """
    declared = {label.value: label.name for label in labels}
    for label in known.labels[1:]:
        if declared.get(label.value) != label.name:
            found = next((f"value {value}" for value, other in declared.items() if other == label.name), None)
            found = found or (f"{declared[label.value]}" if label.value in declared else "none")
            raise ValueError(
                f"Expected the student's {label.name} with its value {label.value} in the datalist's `labels`, found "
                f"{found}; declare the structures that the student knows as it has them, and the new ones besides."
            )
    names = {label.name for label in known.labels}
    new = tuple(label for label in labels[1:] if label.value not in known.label_values)
    repeated = [label.name for label in new if label.name in names]
    if repeated or not new:
        raise ValueError(
            f"Expected a structure besides {', '.join(known.foreground.values())} in the datalist's `labels`, found "
            f"{f'{repeated[0]} again' if repeated else 'none'}; add the new one with a value of its own."
        )
    return replace(known, name=name, labels=(*known.labels, *new), class_frequencies=(), ignore=ignore)


def is_extension(task: Task, known: Task) -> bool:
    """Returns whether a task has the classes of another one first, in order, and more behind.

    Raises:
        ValueError: when it does, but sees images otherwise; names the field.
    """
    count = known.num_classes
    first = [(label.value, label.name) for label in task.labels[:count]]
    if task.num_classes <= count or first != [(label.value, label.name) for label in known.labels]:
        return False
    for name in KEPT:
        if getattr(task, name) != getattr(known, name):
            raise ValueError(
                f"Expected the student's {name} {getattr(known, name)} in the task with new classes, found "
                f"{getattr(task, name)}; write the task with tskd extend, or train a new student."
            )
    return True
