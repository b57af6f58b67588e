"""MRI-CORE: its published file, of DINOv2's training program, read into a plain ViT."""

from __future__ import annotations

import pytest
import torch

from tests.networks.small_teachers import SMALL_RECORDS
from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.weights_file import load_strictly

RECORD = SMALL_RECORDS["small_mri_core"]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, RECORD.name, RECORD)


def published(state: dict[str, torch.Tensor], layers_per_chunk: int = 2) -> dict[str, torch.Tensor]:
    """Returns a checkpoint's teacher with the entries of a plain ViT, as DINOv2's training program saves it."""
    teacher = {"backbone.mask_token": torch.zeros(1, 48), "dino_head.mlp.0.weight": torch.zeros(2, 2)}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts.insert(1, str(int(parts[1]) // layers_per_chunk))
        teacher["backbone." + ".".join(parts)] = value
    return teacher


def test_the_teacher_of_a_training_checkpoint_loads_strictly(tmp_path):
    state = build_encoder(RECORD.name, "random", 64, seed=1).backbone.state_dict()
    torch.save({"teacher": published(state)}, tmp_path / "w.pth")
    loaded = build_encoder(RECORD.name, tmp_path / "w.pth", 64).backbone.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_an_unknown_entry_is_reported():
    backbone = build_encoder(RECORD.name, "random", 64).backbone
    teacher = published(backbone.state_dict()) | {"backbone.blocks.0.1.ls1.gamma": torch.zeros(48)}
    with pytest.raises(ValueError, match=r"unexpected blocks\.1\.ls1\.gamma"):
        load_strictly(backbone, RECORD.architecture.backbone_entries(teacher, "w.pth"), "w.pth")


def test_a_file_of_sam_is_refused():
    with pytest.raises(ValueError, match=r"Expected the backbone of MRI-CORE \(backbone\.\*\) in w\.pth, found"):
        RECORD.architecture.backbone_entries({"image_encoder.pos_embed": torch.zeros(1)}, "w.pth")
