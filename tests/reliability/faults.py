"""Faults around a stage: how each is injected, how it is fixed, and the message the user must see."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import DiceCELoss

from tests.reliability.small_disk import fill, make_read_only, make_room
from tskd_monai.data.slices import SliceDataset

ROOM_LEFT = 16 * 1024
TOO_MUCH_MEMORY = 1 << 46
NO_ROOM = "Expected room and permission to write .*, found: No space left on device; free some space or choose"


@dataclass(frozen=True)
class Scene:
    """Paths of the run in which a fault is injected.

    Attributes:
        disk: disk with the output folder.
        output: output folder of the stage.
        study: folder of the datalist.
    """

    disk: Path
    output: Path
    study: Path


def _nothing(scene: Scene) -> None:
    """Leaves everything as it is."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: name in the results.
        stage: stage in which it is injected, midway.
        message: pattern of the message to the user.
        spoil: injects it.
        fix: fixes it.
        in_child: injects it into the stage's own process.
        ends_well: whether the stage recovers by itself.
    """

    name: str
    stage: str
    message: str
    spoil: Callable[[Scene], None] = _nothing
    fix: Callable[[Scene], None] = _nothing
    in_child: Callable[[], None] | None = None
    ends_well: bool = False


def _fill(scene: Scene) -> None:
    fill(scene.disk, ROOM_LEFT)


def _make_room(scene: Scene) -> None:
    make_room(scene.disk)


def _make_read_only(scene: Scene) -> None:
    make_read_only(scene.disk)


def _make_writable(scene: Scene) -> None:
    make_read_only(scene.disk, False)


def _hide(pattern: str) -> Callable[[Scene], None]:
    def hide(scene: Scene) -> None:
        path = sorted(scene.study.glob(pattern))[-1]
        path.rename(path.with_name(f"hidden_{path.name}"))

    return hide


def _show(scene: Scene) -> None:
    for path in scene.study.rglob("hidden_*"):
        path.rename(path.with_name(path.name.removeprefix("hidden_")))


def _damage_targets(scene: Scene) -> None:
    """Truncates one file of cached targets, flips a bit in the middle of another and empties a third."""
    cut, flipped, empty = sorted(scene.output.glob("*.npz"))[:3]
    cut.write_bytes(cut.read_bytes()[:-100])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    empty.write_bytes(b"")


def _in_workers(act: Callable[[], object]) -> Callable[[], None]:
    """Returns a fault that hits a data-loading process at its first slice."""

    def spoil() -> None:
        original = SliceDataset.__getitem__

        def get(self: SliceDataset, index: int) -> object:
            if torch.utils.data.get_worker_info() is not None:
                act()
            return original(self, index)

        SliceDataset.__getitem__ = get  # type: ignore[method-assign, assignment]

    return spoil


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _take_too_much() -> torch.Tensor:
    return torch.empty(TOO_MUCH_MEMORY, dtype=torch.uint8)


def _lose_the_loss() -> None:
    original = DiceCELoss.forward

    def forward(self: DiceCELoss, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return original(self, prediction, target) * float("nan")

    DiceCELoss.forward = forward  # type: ignore[method-assign]


FAULTS = (
    Fault("full disk: checkpoint", "student", NO_ROOM, _fill, _make_room),
    Fault("full disk: cache", "teacher_targets", NO_ROOM, _fill, _make_room),
    Fault("full disk: transfer set", "transfer_set", "Expected room for the transfer set in .*", _fill, _make_room),
    Fault("full disk: prediction", "predictions", NO_ROOM, _fill, _make_room),
    Fault("read-only output", "student", "permission to write .*, found: Read-only file system; free some space or",
          _make_read_only, _make_writable),
    Fault("memory used up in a worker", "student",
          r"lost or memory was exhausted in epoch \d+: .*can't allocate memory.* Epoch \d+ is saved; lower --num_w",
          in_child=_in_workers(_take_too_much)),
    Fault("dead data-loading process", "student",
          r"A data-loading process was lost or memory was exhausted in epoch \d+: .* Epoch \d+ is saved; lower --",
          in_child=_in_workers(_die)),
    Fault("vanished training image", "student",
          r"expected images/phantom_001\.nii\.gz of `training` case \w+, found no file",
          _hide("images/phantom_001*"), _show),
    Fault("vanished image to segment", "predictions",
          r"expected images/phantom_\d+\.nii\.gz of `test` case \w+, found no file",
          _hide("images/phantom_0*"), _show),
    Fault("damaged cache entries", "teacher_targets", r"npz is missing or damaged; its target is made again",
          _damage_targets, ends_well=True),
    Fault("NaN loss", "student", r"The training loss became nan at iteration \d+\. The last good epoch is in the check",
          in_child=_lose_the_loss),
)  # fmt: skip
