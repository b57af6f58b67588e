from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from ignite.engine import Engine, Events

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.synthesis.diffusion import build_unet
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.sample_pictures import SamplePictures

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "disc")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


def sample_pictures(
    folder: Path, noise_scheduler: DDPMScheduler, condition: str = "none", enabled: bool = True
) -> SamplePictures:
    """Return the handler of an untrained U-Net of that condition."""
    torch.manual_seed(0)
    unet = build_unet(TASK.image_size, 1, (8, 16), patch_size=2, condition=condition, num_classes=TASK.num_classes)
    label = torch.zeros(1, 16, 16, 2)
    label[:, 4:12, 4:12] = 1
    dataset = SliceDataset([{"case": "Jane Doe"}], lambda entry: {"label": label}, keys=["label"])
    ema = EmaHandler(EMAModel(unet.parameters()), unet)
    return SamplePictures(folder, ema, noise_scheduler, dataset, TASK, interval=2, enabled=enabled, number=2)


@pytest.mark.parametrize("condition", ["none", "slice_position", "label_map"])
def test_the_same_weights_give_the_same_images_and_draw_nothing_from_training(
    tmp_path: Path, noise_scheduler: DDPMScheduler, condition: str
) -> None:
    handler = sample_pictures(tmp_path, noise_scheduler, condition, enabled=False)
    state = torch.get_rng_state()
    first = handler.sheet()
    assert first.shape == (3, 16, 32) and first.min() >= 0 and first.max() <= 1
    assert not torch.equal(first[..., :16], first[..., 16:])
    assert torch.equal(handler.sheet(), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert handler.ema.network.training  # the trained network is unchanged


def test_images_are_written_every_few_epochs_and_at_the_end(tmp_path: Path, noise_scheduler: DDPMScheduler) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for done, epochs in ((0, 4), (3, 5)):  # stopped after epoch 4 had been drawn and before it was saved
        trainer = Engine(lambda engine, batch: None)
        trainer.add_event_handler(Events.STARTED, _set_epoch, done)
        sample_pictures(tmp_path, noise_scheduler).attach(trainer)
        trainer.run([0], max_epochs=epochs)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [picture.step for picture in events.Images("samples")] == [2, 4, 5]
    assert b"Doe" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def _set_epoch(engine: Engine, epoch: int) -> None:
    engine.state.epoch = engine.state.iteration = epoch


def test_nothing_is_written_unless_requested(tmp_path: Path, noise_scheduler: DDPMScheduler) -> None:
    trainer = Engine(lambda engine, batch: None)
    sample_pictures(tmp_path / "off", noise_scheduler, enabled=False).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert not (tmp_path / "off").exists()


def test_a_word_is_no_switch(tmp_path: Path, noise_scheduler: DDPMScheduler) -> None:
    with pytest.raises(TypeError, match="Expected --tensorboard True or False, found the word 'yes'"):
        sample_pictures(tmp_path, noise_scheduler, enabled="yes")  # type: ignore[arg-type]
