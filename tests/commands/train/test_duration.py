"""Every stage has an expected duration, which grows with what it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tskd_monai.commands.train.duration import DIFFUSION_BLOCK, SYNTHESIS, expected_seconds, synthesis_sentence
from tskd_monai.commands.train.options import load_preset
from tskd_monai.commands.train.stages import PipelineOptions, PlannedDataset, pipeline_stages
from tskd_monai.networks.cost import multiply_adds
from tskd_monai.synthesis.diffusion import build_unet


@pytest.fixture
def dataset(make_task: Any) -> PlannedDataset:
    digests = {
        f"{section} {kind}": [f"{section}{number}" for number in range(count)]
        for section, count in (("training", 3), ("validation", 1), ("test", 2), ("unlabeled", 1))
        for kind in ("images", "labels")
    }
    return PlannedDataset(Path("datalist.json"), Path("task.json"), make_task(image_size=(32, 32)), digests, slices=80)


def options(preset: str = "demo", **changes: Any) -> PipelineOptions:
    return PipelineOptions(
        load_preset(preset), "sam_demo", "shipped", None, "compact_unet_small", 0, None, 40, **changes
    )


def test_every_stage_of_a_pipeline_has_a_duration(dataset: PlannedDataset, tmp_path: Path) -> None:
    seconds = expected_seconds(dataset, options())
    names = [stage.name for stage in pipeline_stages(tmp_path, dataset, options())]
    assert set(names) == set(seconds) and min(seconds.values()) > 0


def test_it_grows_with_the_stage(dataset: PlannedDataset) -> None:
    demo, small = (expected_seconds(dataset, options(preset)) for preset in ("demo", "small"))
    assert small["diffusion"] > 4 * demo["diffusion"] and small["distilled"] > demo["distilled"]
    more = expected_seconds(replace(dataset, slices=8000), options())
    assert more["predictions_teacher"] > demo["predictions_teacher"] and more["gates"] > demo["gates"]
    without = expected_seconds(dataset, options(synthesis=False))
    assert without["gates"] < demo["gates"] and without["transfer_set"] < demo["transfer_set"]


def test_neighbours_cost_the_student_alone(dataset: PlannedDataset) -> None:
    stacked = replace(dataset, task=replace(dataset.task, neighbours=2))
    flat, more = (expected_seconds(each, options()) for each in (dataset, stacked))
    assert more["teacher"] == flat["teacher"]
    assert flat["distilled"] < more["distilled"] < 1.5 * flat["distilled"]


def test_synthesis_is_foretold_in_minutes_on_a_cpu_and_as_a_fraction_on_a_gpu() -> None:
    expected = {"teacher": 600.0, "diffusion": 300.0, "transfer_set": 60.0, "gates": 60.0, "distilled": 180.0}
    assert "about 7 min of about 20 min on two cores" in synthesis_sentence(expected, list(expected), on_cpu=True)
    assert "Synthesis: 35 % of the run;" in synthesis_sentence(expected, list(expected), on_cpu=False)
    assert "about 60 s of about 4 min" in synthesis_sentence(expected, ["gates", "distilled"], on_cpu=True)
    assert synthesis_sentence(expected, ["teacher", "distilled"], on_cpu=True) == ""


def test_the_synthesis_stages_are_those_that_a_run_without_it_lacks(dataset: PlannedDataset, tmp_path: Path) -> None:
    with_it, without = (
        {stage.name for stage in pipeline_stages(tmp_path, dataset, options(synthesis=wanted))}
        for wanted in (True, False)
    )
    assert with_it - without == set(SYNTHESIS)


@pytest.mark.parametrize(("size", "patch"), [(96, 4), (64, 2)])
def test_the_cost_of_the_diffusion_model(size: int, patch: int) -> None:
    network = build_unet((size, size), 1, None, layers_per_block=1, patch_size=patch, condition="none")

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images, torch.zeros(1, dtype=torch.long)).sample

    blocks = (size // patch) ** 2
    shape = (1, patch**2, size // patch, size // patch)
    assert multiply_adds(Denoiser(), shape) / blocks == pytest.approx(DIFFUSION_BLOCK, rel=0.05)
