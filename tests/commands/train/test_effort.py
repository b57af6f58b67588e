"""The student from scratch gets the multiply-adds of distillation and fine-tuning, counted rather than timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tskd_monai.commands.train.effort import scratch_epochs
from tskd_monai.networks.students import build_student

PRESET: dict[str, dict[str, Any]] = {
    "teacher": {},
    "distillation": {"epoch_length": 10, "max_epochs": 6, "batch_size": 4},
    "fine_tuning": {"epoch_length": 5, "max_epochs": 4, "batch_size": 4},
    "scratch": {"epoch_length": 5, "batch_size": 4},
}


def epochs(
    make_task: Any, images: int = 0, student: str = "compact_unet_small", neighbours: int = 0, **changes: Any
) -> int:
    preset = {name: {**settings, **changes.get(name, {})} for name, settings in PRESET.items()}
    task = make_task(image_size=(32, 32), neighbours=neighbours)
    return scratch_epochs(preset, task, "sam_demo", student, images)


def test_it_is_a_little_more_than_the_steps_of_both_stages(make_task: Any) -> None:
    # 60 + 20 steps; the projection of the features adds about 1 %, hence one more epoch of five steps.
    assert epochs(make_task) == 17
    assert epochs(make_task, fine_tuning={"max_epochs": 8}) == 21
    assert epochs(make_task, scratch={"epoch_length": 10}) == 9
    assert epochs(make_task, scratch={"batch_size": 8}) == 9


def test_each_prediction_of_the_teacher_counts_once_forward(make_task: Any) -> None:
    student = build_student("compact_unet_small", 1, 3, (32, 32))
    counter = FlopCounterMode(display=False)
    with counter:
        student(torch.zeros(1, 1, 32, 32)).mean().backward()
    step = counter.get_total_flops()
    few, many = epochs(make_task, images=0), epochs(make_task, images=10_000)
    teacher = (many - few) * PRESET["scratch"]["epoch_length"] * PRESET["scratch"]["batch_size"] * step / 10_000
    assert 0.5 * step < teacher < 5 * step


@pytest.mark.parametrize("student", ["compact_unet_base", "vit_tiny"])
def test_the_student_hardly_matters(make_task: Any, student: str) -> None:
    assert epochs(make_task, student=student) in (17, 18)


def test_a_student_of_neighbours_has_a_teacher_of_single_slices(make_task: Any) -> None:
    assert epochs(make_task, images=10_000) > epochs(make_task, images=10_000, neighbours=2) > epochs(make_task)
