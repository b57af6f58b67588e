"""LiteMedSAM's published weights give the outputs of its published code, see ``lite_medsam_reference.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.networks.lite_medsam_reference import (
    BOXES,
    FILE,
    POINT_LABELS,
    POINTS,
    SIZES,
    digest,
    in_pixels,
    reference_image,
)
from tskd_monai.networks.promptable import build_promptable

TOLERANCE = 1e-4


@torch.no_grad()
def outputs(weights: Path, size: tuple[int, int]) -> dict[str, Tensor]:
    model = build_promptable("lite_medsam", weights, size)
    embeddings = model.embed(reference_image(size))
    labels = torch.tensor(POINT_LABELS)
    return {
        "image_embeddings": embeddings,
        "logits_of_boxes": model.low_res_logits(embeddings[0], in_pixels(BOXES, size)),
        "logits_of_points": model.low_res_logits(embeddings[0], points=in_pixels(POINTS, size), point_labels=labels),
    }


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    values = [[entry["mean"], entry["std"], *entry["samples"]] for entry in (found, expected)]
    return (torch.tensor(values[0]) - torch.tensor(values[1])).abs().max().item()


@pytest.mark.parametrize("size", SIZES)
def test_embeddings_and_logits_are_those_of_the_published_code(lite_medsam_weights, size):
    expected = json.loads(FILE.read_text(encoding="utf-8"))["x".join(map(str, size))]
    found = {name: digest(values) for name, values in outputs(lite_medsam_weights, size).items()}
    assert found.keys() == expected.keys()
    for name, entry in found.items():
        assert entry["shape"] == expected[name]["shape"]
        assert expected[name]["std"] > 0.1
        assert largest_difference(entry, expected[name]) < TOLERANCE, name
