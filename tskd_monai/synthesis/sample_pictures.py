"""Samples for TensorBoard: images from the same noise during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ignite.distributed as idist
import torch
from diffusers import UNet2DModel
from ignite.engine import Engine, Events

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.synthesis.conditions import ConditionSource, LabelMaps, SlicePositions, Unconditional
from tskd_monai.synthesis.diffusion import NoiseScheduler, condition_of
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.sampling import ImageSampler
from tskd_monai.training.tracking import checked_switch, open_writer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class SamplePictures:
    """Writes a few images of the averaged network every `interval` epochs and after the last one.

    The seeds are always 0, 1, 2, …, for the conditions too. With `ReseedEachEpoch`, sampling does not change the draws
    of training. Attach it after `Resume`: a resumed run keeps the samples of its earlier epochs.

    Args:
        folder: folder of the event files, another one than that of the curves.
        ema: moving average of the trained network.
        noise_scheduler: noise schedule of the training run.
        dataset: training slices, whose label maps condition the samples of a label map model.
        task: task of the training run.
        interval: epochs between two samplings.
        enabled: whether anything is written.
        number: number of images.

    Raises:
        TypeError: when `enabled` is a string.
        ImportError: when enabled without TensorBoard installed.
    """

    def __init__(
        self,
        folder: str | Path,
        ema: EmaHandler,
        noise_scheduler: NoiseScheduler,
        dataset: SliceDataset,
        task: Task,
        interval: int = 4,
        enabled: bool = True,
        number: int = 4,
    ) -> None:
        self.folder, self.ema, self.noise_scheduler = Path(folder), ema, noise_scheduler
        self.dataset, self.task = dataset, task
        self.interval, self.enabled, self.number = interval, checked_switch(enabled), number
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Samples at the epochs of this trainer."""
        if not self.enabled:
            return
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self._writer = open_writer(self.folder, first_step=engine.state.epoch + 1 if engine.state.epoch else 0)

    def _draw(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if self._writer is None or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        self._writer.add_image("samples", self.sheet(), epoch)
        self._writer.flush()

    def sheet(self) -> torch.Tensor:
        """Returns the images side by side, (3, H, number · W) in [0, 1]."""
        network = self.ema.averaged_network()
        if not isinstance(network, UNet2DModel):
            raise TypeError(f"Expected a diffusers U-Net to sample from, found {type(network).__name__}.")
        sampler = ImageSampler(
            network,
            self.noise_scheduler,
            (self.task.channels, *self.task.image_size),
            batch_size=self.number,
            device=next(network.parameters()).device,
            conditions=self._conditions(network),
        )
        images = [sampled.image for sampled in sampler.sample(range(self.number))]
        return torch.cat([image.expand(3, -1, -1) for image in images], dim=2)

    def _conditions(self, network: UNet2DModel) -> ConditionSource:
        condition = condition_of(network)
        if condition == "label_map":
            return LabelMaps(self.dataset, self.task.num_classes)
        return SlicePositions() if condition == "slice_position" else Unconditional()

    def _close(self, engine: Engine) -> None:
        if self._writer is not None:
            self._writer.close()
