from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.training.case_survey import noise_batch, noise_slices, survey_cases, trial_step
from tskd_monai.transforms.pipelines import augmentation

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


def read(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a volume of four slices; class 1 on the slices that the entry names."""
    if entry["case"] == "broken":
        try:
            raise ValueError("Expected a whole file, found half of one.")
        except ValueError as error:
            raise RuntimeError("applying transform LoadImaged") from error
    label = np.zeros((1, 16, 16, 4), dtype=np.uint8)
    for index in entry.get("liver", []):
        label[0, :2, :4, index] = 1
    item = {"image": np.zeros((1, 16, 16, 4), dtype=np.float32), "label": label, "case": entry["case"]}
    return {key: value for key, value in item.items() if key != entry.get("without")}


def test_voxels_slices_and_cases_of_each_class_are_counted() -> None:
    survey = survey_cases([{"case": "a", "liver": [0, 1]}, {"case": "b", "liver": [3]}, {"case": "c"}], read, TASK)
    assert (survey.cases, survey.slices, survey.unreadable) == (3, 12, ())
    assert survey.class_voxels is not None
    assert survey.class_voxels.tolist() == [3 * 1024 - 24, 24, 0]
    assert survey.class_slices.tolist() == [12, 3, 0]
    assert survey.class_cases.tolist() == [3, 2, 0]
    assert survey.held_bytes == 3 * 1024 * (4 + 1)


def test_only_labelled_slices_count() -> None:
    survey = survey_cases([{"case": "a", "liver": [0, 1], "slices": [1, 2]}], read, TASK)
    assert survey.slices == 2 and survey.class_slices.tolist() == [2, 1, 0]


def test_images_without_labels_have_no_classes() -> None:
    survey = survey_cases([{"case": "a", "without": "label"}], read, TASK)
    assert survey.slices == 4 and survey.class_voxels is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"case": "broken"}, "case broken: Expected a whole file, found half of one."),
        ({"case": "a", "slices": [9]}, "case a: Expected slices of 0 to 3, found [9]."),
    ],
)
def test_an_unreadable_case_is_named_and_the_others_continue(entry: dict[str, Any], reason: str) -> None:
    survey = survey_cases([entry, {"case": "b"}], read, TASK)
    assert (survey.cases, survey.slices) == (2, 4)
    assert survey.unreadable == (reason,)


WIDE = replace(TASK, image_size=(32, 48))


def test_noise_has_the_form_of_training_slices(tmp_path: Path) -> None:
    volume = {"image": torch.zeros(1, 32, 48, 2), "label": torch.zeros(1, 32, 48, 2)}
    real = SliceDataset([{"case": "a"}], lambda entry: volume)[0]
    item = noise_slices(WIDE, 1)[0]
    assert set(item) == set(real)
    assert all(item[key].shape == real[key].shape for key in ("image", "label"))
    assert item["image"].min() >= 0 and item["image"].max() <= 1 and item["label"].unique().tolist() == [0, 1, 2]


def test_a_batch_is_augmented_like_the_trainings() -> None:
    batch = noise_batch(WIDE, 3, augmentation(["image", "coordinates"]))
    assert batch["image"].shape == (3, 1, 32, 48) and batch["coordinates"].shape == (3, 3, 32, 48)
    assert torch.equal(noise_batch(WIDE, 3)["image"], noise_batch(WIDE, 3)["image"])


def test_a_trial_step_trains_and_reports_its_cost() -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    network.bias.requires_grad_(False)
    before = network.weight.detach().clone()
    optimizer = torch.optim.SGD([network.weight], lr=0.1)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    trial = trial_step(noise_batch(WIDE, 2), network, optimizer, loss, SimpleInferer(), "cpu")
    assert not torch.equal(network.weight, before)
    assert trial.trained_bytes == 27 * 4 and trial.gpu_bytes is None
    assert trial.seconds > 0 and trial.process_bytes > 50e6


@pytest.mark.slow
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
        trial_step(noise_batch(WIDE, 1), network, optimizer, torch.nn.MSELoss(), SimpleInferer(), "cpu")
