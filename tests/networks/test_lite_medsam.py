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
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher

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


@pytest.mark.parametrize("size", [pytest.param(SIZES[0], marks=pytest.mark.slow), *SIZES[1:]])
def test_embeddings_and_logits_are_those_of_the_published_code(lite_medsam_weights, size):
    expected = json.loads(FILE.read_text(encoding="utf-8"))["x".join(map(str, size))]
    found = {name: digest(values) for name, values in outputs(lite_medsam_weights, size).items()}
    assert found.keys() == expected.keys()
    for name, entry in found.items():
        assert entry["shape"] == expected[name]["shape"]
        assert expected[name]["std"] > 0.1
        assert largest_difference(entry, expected[name]) < TOLERANCE, name


@pytest.mark.parametrize("decoder", ["light", "sam"])
def test_a_teacher_on_the_published_weights_trains_and_survives_its_folder(lite_medsam_weights, tmp_path, decoder):
    teacher = build_teacher(
        encoder="lite_medsam",
        encoder_weights=lite_medsam_weights,
        image_size=(32, 48),
        num_classes=3,
        decoder=decoder,
    )
    images = torch.rand(2, 1, 32, 48)
    statistics = {name: value.clone() for name, value in teacher.encoder.named_buffers() if "running_" in name}
    optimiser = torch.optim.AdamW([value for value in teacher.parameters() if value.requires_grad], lr=1e-3)
    torch.nn.functional.cross_entropy(teacher.train()(images), torch.randint(3, (2, 32, 48))).backward()
    assert [name for name, value in teacher.named_parameters() if value.requires_grad and value.grad is None] == []
    optimiser.step()
    buffers = dict(teacher.encoder.named_buffers())
    assert statistics
    assert all(torch.equal(buffers[name], value) for name, value in statistics.items())
    save_teacher(teacher, tmp_path, task_hash="a" * 64)
    loaded = load_teacher(tmp_path, lite_medsam_weights)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), teacher.eval()(images), atol=1e-4, rtol=1e-4)


def test_its_mask_decoder_is_where_the_teachers_starts(lite_medsam_weights):
    options = {"encoder": "lite_medsam", "encoder_weights": lite_medsam_weights, "image_size": 32, "num_classes": 3}
    decoder = build_teacher(**options, decoder="sam", tuning="decoder").decoder
    published = build_promptable("lite_medsam", lite_medsam_weights, 32).mask_decoder.state_dict()
    assert isinstance(decoder, SamMaskDecoder)
    own = decoder.decoder.state_dict()
    same = [name for name in own if name.startswith(("transformer.", "upscale_"))]
    assert len(same) > 50
    assert all(torch.equal(own[name], published[name]) for name in same)
