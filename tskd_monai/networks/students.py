"""Students: small networks at named sizes.

The module of a size is imported only when a student is built, so that a bundle with a U-Net contains no transformer
code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from torch import nn

from tskd_monai.networks.features import NetworkPart

STUDENTS: Mapping[str, str] = {
    "compact_unet_small": "tskd_monai.networks.unets",
    "compact_unet_base": "tskd_monai.networks.unets",
    "coord_unet_small": "tskd_monai.networks.coord_unet",
    "unet_large": "tskd_monai.networks.unets",
    "planned_unet": "tskd_monai.networks.unets",
    "vit_tiny": "tskd_monai.networks.vit_student",
}
"""The module of each student; its `SIZES` holds the student's size."""


class StudentSize(Protocol):
    """Size of a student.

    Attributes:
        feature_layer: name of the layer whose output is distilled.
        feature_channels: channels of that layer's output.
    """

    @property
    def feature_layer(self) -> str: ...  # noqa: D102

    @property
    def feature_channels(self) -> int: ...  # noqa: D102

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> nn.Module:
        """Returns the network with random weights, images (B, C, H, W) to logits (B, K, H, W)."""
        ...

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the encoder of a network of this size, images to (B, F, h, w)."""
        ...


@runtime_checkable
class MonaiSize(Protocol):
    """Size of a student that is a network of MONAI.

    Attributes:
        monai_name: name of the network's class in MONAI.
    """

    monai_name: ClassVar[str]

    def arguments(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of the class, as JSON holds them."""
        ...


def student_size(name: str) -> StudentSize:
    """Returns the size of a named student, which states the layer that is distilled.

    Raises:
        ValueError: when the name is unknown, or this bundle lacks the student's code.
    """
    _check_name(name)
    try:
        sizes = import_module(STUDENTS[name]).SIZES
    except ModuleNotFoundError as error:
        if error.name != STUDENTS[name]:
            raise
        raise ValueError(
            f"Expected a student whose code this bundle contains, found {name}; keep the bundle's own student, or "
            "install the project."
        ) from error
    return cast(StudentSize, sizes[name])


def student_modules(name: str | None = None) -> list[str]:
    """Returns the modules that a bundle with this student needs; without a name, those of all students.

    Raises:
        ValueError: when the name is unknown.
    """
    if name is None:
        return sorted(set(STUDENTS.values()))
    _check_name(name)
    return [STUDENTS[name]]


def build_student(name: str, in_channels: int, out_channels: int, image_size: Sequence[int]) -> nn.Module:
    """Returns a student with random weights, images (B, C, H, W) to logits (B, K, H, W).

    Args:
        name: name of a student, for example `compact_unet_small`.
        in_channels: number of input channels C.
        out_channels: number of classes K, background included.
        image_size: (H, W) of the task, in pixels.

    Raises:
        ValueError: when the name is unknown, or the network does not support the image size.
    """
    height, width = image_size
    return student_size(name).build(in_channels, out_channels, (height, width))


NETWORK_OF_TASK: Mapping[str, str] = {
    "_target_": "tskd_monai.networks.students.build_student",
    "name": "@student",
    "in_channels": "$@task_def.student_channels",
    "out_channels": "$@task_def.num_classes",
    "image_size": "$@task_def.image_size",
}
"""`network_def` of any student in a config that holds `student` and `task_def`."""


def network_definition(name: str, in_channels: int, out_channels: int, image_size: Sequence[int]) -> dict[str, Any]:
    """Returns `network_def` for a config: a network of MONAI with its arguments, else `NETWORK_OF_TASK`.

    A network of MONAI is built without this project's code and without the task, as `monai.bundle.load` requires.

    Args:
        name: name of a student.
        in_channels: number of input channels C.
        out_channels: number of classes K, background included.
        image_size: (H, W) of the task, in pixels.

    Raises:
        ValueError: when the name is unknown, or the network does not support the image size.
    """
    size = student_size(name)
    if not isinstance(size, MonaiSize):
        return dict(NETWORK_OF_TASK)
    height, width = image_size
    return {"_target_": size.monai_name, **size.arguments(in_channels, out_channels, (height, width))}


def _check_name(name: str) -> None:
    if name not in STUDENTS:
        raise ValueError(f"Expected a student among {sorted(STUDENTS)}, found {name}.")
