"""A largest-component filter is kept if it raises the Dice of validation cases, and removed if it lowers it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.data.task import Task
from tskd_monai.training.component_filters import harmful_filters
from tskd_monai.training.validation import dice_evaluator, slice_inferer

SPLEEN, LIVER = 4, 1


class ShowsItsInput(torch.nn.Module):
    """Predicts the class encoded in an image's value: 0, 1 or 2."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0].long(), 3).movedim(-1, 1).float()


def case(prediction: torch.Tensor, label: torch.Tensor) -> dict[str, MetaTensor]:
    return {"image": MetaTensor(prediction[None].float()), "label": MetaTensor(label[None].float())}


def volume(*boxes: tuple[int, tuple[slice, slice, slice]]) -> torch.Tensor:
    filled = torch.zeros(32, 48, 4)
    for value, box in boxes:
        filled[box] = value
    return filled


ORGAN = (slice(4, 12), slice(4, 12), slice(0, 4))
SPECK = (slice(20, 22), slice(20, 22), slice(0, 1))
STOMACH = (slice(16, 30), slice(20, 40), slice(0, 4))


@pytest.fixture
def decide(make_task: Callable[..., Task]) -> Callable[..., tuple[int, ...]]:
    task = make_task(keep_largest_component=(LIVER, SPLEEN))

    def harmful(*cases: dict[str, Any], **changes: Any) -> tuple[int, ...]:
        of = make_task(**{"keep_largest_component": (LIVER, SPLEEN), **changes})
        network = ShowsItsInput()
        validator = dice_evaluator(network, list(cases), slice_inferer(task), task, "cpu")  # type: ignore[arg-type]
        return harmful_filters(network, validator, of)

    return harmful


def test_a_filter_that_drops_specks_stays_and_one_that_drops_the_organ_goes(
    decide: Callable[..., tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    liver = case(volume((1, ORGAN), (1, SPECK)), volume((1, ORGAN)))
    spleen = case(volume((2, ORGAN), (2, STOMACH)), volume((2, ORGAN)))
    with caplog.at_level(logging.INFO):
        assert decide(liver, spleen) == (SPLEEN,)
    assert "The largest component of spleen is not kept: it lowers validation Dice by" in caplog.text
    assert "liver" not in caplog.text


def test_the_mean_over_the_cases_that_have_the_class_decides(decide: Callable[..., tuple[int, ...]]) -> None:
    harmed = case(volume((2, ORGAN), (2, STOMACH)), volume((2, ORGAN)))
    helped = case(volume((2, STOMACH), (2, ORGAN)), volume((2, STOMACH)))
    without = case(volume((2, ORGAN), (2, STOMACH)), volume((1, SPECK)))
    assert decide(harmed, helped, helped, helped, helped) == ()
    assert decide(harmed, without) == (SPLEEN,)
    assert decide(without) == ()


def test_only_filters_of_the_task_are_evaluated(decide: Callable[..., tuple[int, ...]]) -> None:
    spleen = case(volume((2, ORGAN), (2, STOMACH)), volume((2, ORGAN)))
    assert decide(spleen, keep_largest_component=(LIVER,)) == ()
    assert decide(spleen, keep_largest_component=()) == ()
