from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.training.case_survey import noise_batch, noise_slices, trial_step
from tskd_monai.transforms.pipelines import augmentation

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(32, 48),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


def test_noise_has_the_form_of_training_slices(tmp_path: Path) -> None:
    volume = {"image": torch.zeros(1, 32, 48, 2), "label": torch.zeros(1, 32, 48, 2)}
    real = SliceDataset([{"case": "a"}], lambda entry: volume)[0]
    item = noise_slices(TASK, 1)[0]
    assert set(item) == set(real)
    assert all(item[key].shape == real[key].shape for key in ("image", "label"))
    assert item["image"].min() >= 0 and item["image"].max() <= 1 and item["label"].unique().tolist() == [0, 1, 2]


def test_a_batch_is_augmented_like_the_trainings() -> None:
    batch = noise_batch(TASK, 3, augmentation(["image", "coordinates"]))
    assert batch["image"].shape == (3, 1, 32, 48) and batch["coordinates"].shape == (3, 3, 32, 48)
    assert torch.equal(noise_batch(TASK, 3)["image"], noise_batch(TASK, 3)["image"])


def test_a_trial_trains_and_says_what_it_took() -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    network.bias.requires_grad_(False)
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD([network.weight], lr=0.1)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    trial = trial_step(noise_batch(TASK, 2), network, optimizer, loss, SimpleInferer(), "cpu")
    assert not torch.equal(network.weight, before)
    assert trial.trained_bytes == 27 * 4 and trial.gpu_bytes is None
    assert trial.seconds > 0 and trial.process_bytes > 50e6


def test_a_larger_batch_needs_more_memory() -> None:
    """The network keeps its 64 maps of 512 x 512 for the gradient: 67 MB an image."""
    task = Task("wide", TASK.labels, 1, (512, 512), (1.0, 1.0), "PLS", TASK.intensity)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 64, 1), torch.nn.Tanh(), torch.nn.Conv2d(64, 3, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = torch.nn.CrossEntropyLoss()
    needed = []
    for batch_size in (1, 4):
        batch = noise_batch(task, batch_size)
        batch["label"] = batch["label"][:, 0].long()
        needed.append(trial_step(batch, network, optimizer, loss, SimpleInferer(), "cpu").process_bytes)
    assert needed[1] - needed[0] > 3 * 60e6


def test_what_does_not_fit_together_ends_the_trial() -> None:
    network = torch.nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="expected input"):
        trial_step(noise_batch(TASK, 1), network, optimizer, torch.nn.MSELoss(), SimpleInferer(), "cpu")
