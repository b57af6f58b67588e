"""Our SAM agrees with the authors' `segment_anything`, from a checkpoint that it saved itself.

Random weights of ordinary scale; every parameter is moved, so that no two layers can be confused. The
full-size comparison takes 4 GB and two minutes on a CPU: set TSKD_FULL_SIZE to run it.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.sam_encoder import SamArchitecture
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder, initialise_from_sam
from tskd_monai.networks.teacher_builder import build_teacher

PACKAGE = "segment_anything"
CLASSES = 3  # one per mask of SAM; with more, tokens that repeat would change the attention among them
TOLERANCE = 1e-4
SMALL = SamArchitecture(48, 3, 3, global_layers=(1,), window_size=3, embed_dim=64)
SMALL_SIZE = 128
REGISTRY_NAMES = {"sam_vit_base": "vit_b", "sam_vit_large": "vit_l", "sam_vit_huge": "vit_h"}


@pytest.fixture(scope="module")
def reference() -> Iterator[SimpleNamespace]:
    """Returns the reference's `modeling` and `build_sam`, without its root module, which imports torchvision."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("segment-anything is not installed; it is part of the extra dev")
    root = ModuleType(PACKAGE)
    root.__path__ = list(spec.submodule_search_locations)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    sys.modules[PACKAGE] = root
    parts = {part: importlib.import_module(f"{PACKAGE}.{part}") for part in ("modeling", "build_sam")}
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.modules.update(before)
    return SimpleNamespace(**parts)


@pytest.fixture
def small(monkeypatch) -> EncoderRecord:
    """Registers a small SAM as a known encoder."""
    sam = ENCODERS["sam_vit_base"]
    record = EncoderRecord("sam_small", SMALL, SMALL_SIZE, sam.mean, sam.std, "Apache-2.0", "this test")
    monkeypatch.setitem(ENCODERS, record.name, record)
    return record


def small_reference(modeling: ModuleType) -> nn.Module:
    grid, width = SMALL_SIZE // 16, SMALL.embed_dim
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            depth=SMALL.depth,
            embed_dim=SMALL.hidden_size,
            img_size=SMALL_SIZE,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=SMALL.num_heads,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=SMALL.global_layers,
            window_size=SMALL.window_size,
            out_chans=width,
        ),
        prompt_encoder=modeling.PromptEncoder(width, (grid, grid), (SMALL_SIZE, SMALL_SIZE), mask_in_chans=16),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=width,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=width, num_heads=8, mlp_dim=8 * width),
            iou_head_hidden_dim=width,
        ),
    )


@torch.no_grad()
def draw_every_parameter(sam: nn.Module) -> nn.Module:
    """Draws weights from N(0, 1 / fan_in), shifts vectors and positions by 0.1, and returns the network."""
    for parameter in sam.parameters():
        if parameter.ndim in (2, 4) and parameter.shape[0] > 1 and parameter[0].numel() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return sam.eval()


@torch.no_grad()
def reference_outputs(sam: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns image embeddings and the three low-resolution masks without a prompt, of images in [0, 1]."""
    embeddings = sam.image_encoder(sam.preprocess(255 * images))
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    masks = [
        sam.mask_decoder(one[None], sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=True)[0]
        for one in embeddings
    ]
    return embeddings, torch.cat(masks)


def largest_differences(name: str, path: Path, images: Tensor, expected: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Returns the differences of our teacher's embeddings and logits, built from a file, from the reference's."""
    teacher = build_teacher(
        encoder=name,
        encoder_weights=path,
        image_size=images.shape[-1],
        num_classes=CLASSES,
        decoder="sam",
    ).eval()
    assert isinstance(teacher.decoder, SamMaskDecoder)
    with torch.no_grad():
        embeddings = teacher.encoder(images).image_embeddings
        logits = teacher.decoder.low_res_logits(embeddings)
    assert embeddings.shape == expected[0].shape
    assert logits.shape == expected[1].shape
    return (embeddings - expected[0]).abs().max().item(), (logits - expected[1]).abs().max().item()


def test_a_checkpoint_of_the_reference_gives_its_outputs(reference, small, tmp_path):
    torch.manual_seed(0)
    sam = draw_every_parameter(small_reference(reference.modeling))
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    images = torch.rand(2, 3, SMALL_SIZE, SMALL_SIZE)
    expected = reference_outputs(sam, images)
    assert all(output.std() > 0.05 for output in expected)
    assert max(largest_differences(small.name, tmp_path / "sam.pth", images, expected)) < TOLERANCE


def test_every_entry_of_the_encoder_matters(reference, small, tmp_path):
    torch.manual_seed(0)
    state = draw_every_parameter(small_reference(reference.modeling)).state_dict()
    images = torch.rand(1, 3, SMALL_SIZE, SMALL_SIZE)
    torch.save(state, tmp_path / "sam.pth")
    with torch.no_grad():
        before = build_encoder(small.name, tmp_path / "sam.pth", SMALL_SIZE).eval()(images).image_embeddings
        for name in ("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.1.attn.rel_pos_w", "blocks.2.norm2.bias"):
            moved = dict(state)
            moved[f"image_encoder.{name}"] = 1.5 * state[f"image_encoder.{name}"] + 0.05 * torch.randn(1)
            torch.save(moved, tmp_path / "moved.pth")
            after = build_encoder(small.name, tmp_path / "moved.pth", SMALL_SIZE).eval()(images).image_embeddings
            assert (after - before).abs().max() > 2 * TOLERANCE, name


def test_a_folder_of_transformers_gives_the_outputs_of_its_model(small, tmp_path):
    torch.manual_seed(0)
    width = SMALL.embed_dim
    config = SamConfig(
        vision_config={
            "hidden_size": SMALL.hidden_size,
            "output_channels": width,
            "num_hidden_layers": SMALL.depth,
            "num_attention_heads": SMALL.num_heads,
            "image_size": SMALL_SIZE,
            "window_size": SMALL.window_size,
            "global_attn_indexes": list(SMALL.global_layers),
            "num_pos_feats": width // 2,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": SMALL_SIZE, "image_embedding_size": 8},
        mask_decoder_config={"hidden_size": width, "mlp_dim": 8 * width, "iou_head_hidden_dim": width},
    )
    model = draw_every_parameter(SamModel(config))
    model.save_pretrained(tmp_path)
    encoder = build_encoder(small.name, tmp_path, SMALL_SIZE).eval()
    images = torch.rand(1, 3, SMALL_SIZE, SMALL_SIZE)
    with torch.no_grad():
        expected = model.get_image_embeddings(encoder.normalise(images))
        assert expected.std() > 0.05
        assert (encoder(images).image_embeddings - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", REGISTRY_NAMES)
def test_keys_and_shapes_are_those_of_the_published_sizes(reference, name):
    with torch.device("meta"):
        state = reference.build_sam.sam_model_registry[REGISTRY_NAMES[name]]().state_dict()
        record = ENCODERS[name]
        own = record.architecture.build(record.image_size, record.mean, record.std).backbone.state_dict()
        decoder = SamMaskDecoder(embed_dim=256, num_classes=CLASSES)
        initialise_from_sam(decoder, state, "the reference")
    entries = record.architecture.backbone_entries(state, "the reference")
    assert {key: value.shape for key, value in entries.items()} == {key: value.shape for key, value in own.items()}


def test_a_decoder_of_another_width_is_refused(reference):
    with torch.device("meta"):
        state = reference.build_sam.sam_model_registry["vit_l"]().state_dict()
        decoder = SamMaskDecoder(embed_dim=64, num_classes=CLASSES)
    with pytest.raises(ValueError, match="wrong shape"):
        initialise_from_sam(decoder, state, "the reference")


@pytest.mark.skipif("TSKD_FULL_SIZE" not in os.environ, reason="TSKD_FULL_SIZE is unset: takes 4 GB and two minutes")
def test_vit_base_at_1024_pixels_gives_the_outputs_of_the_reference(reference, tmp_path):
    torch.manual_seed(0)
    sam = draw_every_parameter(reference.build_sam.sam_model_registry["vit_b"]())
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    images = torch.rand(1, 3, 1024, 1024)
    expected = reference_outputs(sam, images)
    assert all(output.std() > 0.05 for output in expected)
    del sam
    gc.collect()
    embeddings, logits = largest_differences("sam_vit_base", tmp_path / "sam.pth", images, expected)
    sys.stdout.write(f"ViT-B, 1024 px: embeddings within {embeddings:.1e}, logits within {logits:.1e}\n")
    assert max(embeddings, logits) < TOLERANCE
