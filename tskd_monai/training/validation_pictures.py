"""Validation slices for TensorBoard: the network's predictions during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.visualize import blend_images

from tskd_monai.training.tracking import checked_switch, open_writer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LABEL_OPACITY = 0.5


class ValidationPictures:
    """Writes image, reference and prediction side by side, for a few validation slices after every validation.

    The slices stay the same: of each of the first cases, the one with the largest total area of all structures. They
    are numbered and never named after a case. MONAI's `TensorBoardImageHandler` shows only the last batch, and a volume
    as an animation of one channel. Attach it after `Resume` and before handlers that validate at the start: a resumed
    run keeps the images of its earlier epochs. With several processes, the first one writes.

    Args:
        folder: folder of the event files, another one than that of the curves.
        validator: evaluator from `dice_evaluator`.
        enabled: whether anything is written.
        number: number of slices.

    Raises:
        TypeError: when `enabled` is a string.
        ImportError: when enabled without TensorBoard installed.
    """

    def __init__(self, folder: str | Path, validator: Engine, enabled: bool = True, number: int = 4) -> None:
        self.folder, self.validator = Path(folder), validator
        self.enabled, self.number = checked_switch(enabled), number
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Writes the validations during this trainer's run."""
        if not self.enabled:
            return
        engine.add_event_handler(Events.STARTED, self._open)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED, self._draw)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self._writer = open_writer(self.folder, first_step=engine.state.epoch + 1 if engine.state.epoch else 0)

    def _draw(self, validator: Engine) -> None:
        number = validator.state.iteration
        if self._writer is None or number > self.number:
            return
        batch: Any = validator.state.batch
        output: Any = validator.state.output  # decollated, like the batch: lists of one case
        picture = compare_slice(batch[0]["image"], output[0]["label"], output[0]["pred"])
        self._writer.add_image(f"validation/slice_{number}", picture, validator.state.epoch)
        self._writer.flush()

    def _close(self, engine: Engine) -> None:
        if self._writer is not None:
            self._writer.close()


def compare_slice(image: torch.Tensor, label: torch.Tensor, prediction: torch.Tensor) -> np.ndarray:
    """Returns a slice of a volume as image, reference and prediction side by side, (3, H, 3 W) in [0, 1].

    Args:
        image: (C, H, W, D) in [0, 1], C of 1 or 3.
        label: classes of the reference, one-hot (K, H, W, D).
        prediction: classes of the prediction, one-hot (K, H, W, D).
    """
    index = fullest_slice(label)
    pixels = image[..., index].detach().cpu().float().numpy().clip(0, 1)
    shown = [pixels if len(pixels) == 3 else pixels.repeat(3, axis=0)]
    for one_hot in (label, prediction):
        # Hues of classes 1 to K - 1 out of K: none is black, and no two are equal.
        hues = one_hot[..., index].argmax(dim=0, keepdim=True).cpu().numpy() / len(one_hot)
        shown.append(np.asarray(blend_images(pixels, hues, LABEL_OPACITY, rescale_arrays=False)))
    return np.concatenate(shown, axis=2).astype(np.float32)


def fullest_slice(label: torch.Tensor) -> int:
    """Returns the index of the slice with the largest total area of all structures, of a one-hot label (K, H, W, D).

    Each area is relative to the structure's own largest slice. Without structures, it is the middle slice.
    """
    areas = label[1:].detach().cpu().float().sum(dim=(1, 2))
    if not areas.any():
        return label.shape[-1] // 2
    return int((areas / areas.amax(dim=1, keepdim=True).clamp_min(1)).sum(dim=0).argmax())
