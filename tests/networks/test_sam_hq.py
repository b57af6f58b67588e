"""SAM-HQ: its image encoder is SAM's; what it adds to the mask decoder is recognised and not used."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import SamHQConfig, SamHQModel

from tests.networks.small_teachers import small
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.promptable import build_promptable
from tskd_monai.networks.sam_encoder import SamArchitecture
from tskd_monai.networks.sam_mask_decoder import has_decoder_entries, without_hq_entries
from tskd_monai.networks.teacher_builder import build_teacher

AUTHORS_ENTRIES = [
    "hf_token.weight",
    *(f"hf_mlp.layers.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")),
    *(f"compress_vit_feat.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")),
    *(f"embedding_encoder.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")),
    *(f"embedding_maskfeature.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")),
]
"""Names in the authors' files of what SAM-HQ adds, without `mask_decoder.`."""
SAM_ENTRIES = ["mask_tokens.weight", "transformer.layers.0.norm1.weight", "upscale_conv1.weight"]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> EncoderRecord:
    found = small("small_sam_hq", SamArchitecture(32, 2, 2, global_layers=(1,), window_size=3, embed_dim=64))
    monkeypatch.setitem(ENCODERS, found.name, found)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A folder of transformers with a small SAM-HQ."""
    torch.manual_seed(0)
    config = SamHQConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "num_pos_feats": 32, "global_attn_indexes": [1], "window_size": 3,
        },
        prompt_encoder_config={"hidden_size": 64, "image_size": 64},
        mask_decoder_config={"hidden_size": 64, "mlp_dim": 512, "iou_head_hidden_dim": 64, "vit_dim": 32},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam_hq")
    SamHQModel(config).save_pretrained(folder)
    return folder


def test_the_decoder_starts_from_its_part_of_sam_and_the_log_says_so(record, folder, caplog):
    with caplog.at_level(logging.WARNING):
        teacher = build_teacher(
            encoder=record.name, encoder_weights=folder, image_size=64, num_classes=3, decoder="sam", rank=2
        )
    assert "Not using the 25 entries that SAM-HQ adds to SAM's mask decoder in model.safetensors" in caplog.text
    reference = SamHQModel.from_pretrained(folder)
    own, theirs = teacher.decoder.decoder, reference.mask_decoder
    assert torch.equal(own.upscale_conv1.weight, theirs.upscale_conv1.weight)
    assert torch.equal(own.mask_tokens.weight, theirs.mask_tokens.weight[:4])


def test_it_is_promptable_as_sam(record, folder):
    model = build_promptable(record.name, folder, 64)
    embedding = model.embed(torch.rand(1, 1, 64, 64))[0]
    assert model.masks(embedding, torch.tensor([[8.0, 8.0, 40.0, 48.0]])).shape == (1, 64, 64)


def test_names_of_the_authors_are_recognised_and_those_of_sam_kept(caplog):
    entries = {name: torch.empty(0) for name in (*AUTHORS_ENTRIES, *SAM_ENTRIES)}
    assert list(without_hq_entries(entries, "sam_hq_vit_b.pth")) == SAM_ENTRIES
    assert f"the {len(AUTHORS_ENTRIES)} entries" in caplog.text
    caplog.clear()
    assert list(without_hq_entries({name: torch.empty(0) for name in SAM_ENTRIES}, "sam.pth")) == SAM_ENTRIES
    assert caplog.text == ""


def test_the_mask_decoder_of_sam_2_is_not_taken_for_sams():
    state = {"mask_decoder.mask_tokens.weight": torch.empty(0)}
    assert has_decoder_entries(state)
    assert not has_decoder_entries(state | {"mask_decoder.obj_score_token.weight": torch.empty(0)})
