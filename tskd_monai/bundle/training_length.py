"""The length of a training run from a budget of multiply-adds, which are the same on every machine.

A step counts the network that is trained: forward and backward, as autograd runs them. That is three times the forward
pass where all weights are trained, without the gradient of the image; a frozen weight (of a LoRA teacher) has no
gradient of its own, but passes on that of its input. Frozen layers count in every step, also if their output is cached.
A teacher that predicts the transfer images counts once an image, or once a step without a cache. Validation, which is
the same for all methods, is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

from tskd_monai.networks.cost import multiply_adds

LARGEST_ERROR = 0.02


def training_length(files: Sequence[Path], options: Mapping[str, Any], budget: float, images: int) -> dict[str, int]:
    """Returns the number of steps in an epoch that spends the budget, and what was counted.

    Args:
        files: config files of the run.
        options: overrides, with `max_epochs`.
        budget: multiply-adds of the run.
        images: number of transfer images.

    Returns:
        `epoch_length`, `steps`, and the multiply-adds `of_a_step`, `of_targets` (of all images) and in `total`.

    Raises:
        ValueError: if whole steps and epochs miss the budget by more than 2 %.
    """
    parser = ConfigParser()
    parser.read_config([str(path) for path in files])
    parser.update({name: str(value) if isinstance(value, Path) else value for name, value in options.items()})
    ids = cast(dict[str, Any], parser.get())
    task = parser.get_parsed_content("task_def")
    shape: tuple[int, ...] = (1, task.student_channels, *task.image_size)
    views = (1, 2, *shape[1:]) if any(path.name == "moco_v3.yaml" for path in files) else shape
    batch, epochs = (int(parser.get_parsed_content(name)) for name in ("batch_size", "max_epochs"))
    batch *= int(ids.get("accumulation_steps", 1))
    step = batch * multiply_adds(parser.get_parsed_content("network"), views, backward=True)  # type: ignore[arg-type]
    teacher = parser.get_parsed_content("loaded_teacher") if ids.get("teacher") is not None else None
    seen = shape if getattr(teacher, "neighbours", 0) else (1, task.channels, *task.image_size)
    image = _prediction(teacher, seen) if hasattr(teacher, "forward_with_embeddings") else 0  # else: stored targets
    cached = parser.get_parsed_content("cache_dir") is not None if image else True
    targets = images * image if cached else 0
    step += 0 if cached else batch * image
    epoch_length = max(1, round((budget - targets) / (step * epochs)))
    steps = epoch_length * epochs
    total = steps * step + targets
    if abs(total / budget - 1) > LARGEST_ERROR:
        raise ValueError(
            f"Expected a budget that whole steps can spend, found {total:.4g} multiply-adds in {steps} steps of "
            f"{step:.4g} and {targets:.4g} for targets, where {budget:.4g} are given; change budget or max_epochs."
        )
    return {"epoch_length": epoch_length, "steps": steps, "of_a_step": step, "of_targets": targets, "total": total}


def _prediction(teacher: Any, shape: tuple[int, ...]) -> int:
    """Returns the multiply-adds with which a teacher predicts one image, which also yields its features."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        teacher.eval().forward_with_embeddings(torch.zeros(shape, device=next(teacher.parameters()).device))
    return int(counter.get_total_flops()) // 2
