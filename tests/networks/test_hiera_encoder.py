"""SAM 2's encoder: agreement with transformers, any image size, names of the original implementation.

The authors' own code (facebookresearch/sam2 at 2b90b9f) gives the same maps for random weights loaded under its names:
`tests/interop/compare_encoders.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig, Sam2VisionModel

from tests.networks.small_teachers import SMALL_RECORDS
from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.hiera_encoder import HieraEncoder, encoder_entries
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.weights_file import load_strictly

RECORD = SMALL_RECORDS["small_hiera"]
TOLERANCE = 1e-5


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, RECORD.name, RECORD)


def transformers_model() -> nn.Module:
    sizes = RECORD.architecture
    backbone = Sam2HieraDetConfig(
        hidden_size=sizes.hidden_size,
        blocks_per_stage=list(sizes.depths),
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=list(sizes.global_layers),
    )
    config = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32)
    torch.manual_seed(0)
    model = Sam2VisionModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def build(state: dict[str, Tensor], size: tuple[int, int]) -> HieraEncoder:
    encoder = RECORD.architecture.build(RECORD.image_size, RECORD.mean, RECORD.std)
    encoder.backbone.load_state_dict(state)
    encoder.resize_to(size)
    return encoder.eval()


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (32, 224)])
def test_maps_are_those_of_transformers(size):
    model = transformers_model()
    encoder = build(model.state_dict(), size)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = model(encoder.normalise(images)).fpn_hidden_states
        found = encoder(images)
    assert all(entry.std() > 0.1 for entry in expected)
    torch.testing.assert_close((*found.features, found.image_embeddings), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_other_multiples_of_16_are_padded_with_the_mean_colour_and_cropped():
    state = transformers_model().state_dict()
    images = torch.rand(1, 3, 48, 80)
    padded = torch.tensor(RECORD.mean).view(1, 3, 1, 1).repeat(1, 1, 64, 96)
    padded[..., :48, :80] = images
    with torch.no_grad():
        found = build(state, (48, 80))(images)
        expected = build(state, (64, 96))(padded)
    torch.testing.assert_close(found.image_embeddings, expected.image_embeddings[..., :3, :5], rtol=0, atol=0)
    torch.testing.assert_close(found.features[0], expected.features[0][..., :12, :20], rtol=0, atol=0)


def test_a_state_dict_in_a_checkpoint_of_the_authors_loads_strictly(known, tmp_path):
    state = transformers_model().state_dict()
    torch.save({"model": {authors_name(name): value for name, value in state.items()}}, tmp_path / "sam2.pt")
    loaded = build_encoder(RECORD.name, tmp_path / "sam2.pt", 64).backbone.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def authors_name(name: str) -> str:
    """Returns the original name of a parameter of transformers' vision model."""
    renamings = {
        "neck.convs.": "neck.convs.",
        "backbone.": "trunk.",
        "patch_embed.projection": "patch_embed.proj",
        ".layer_norm": ".norm",
        "mlp.proj_in": "mlp.layers.0",
        "mlp.proj_out": "mlp.layers.1",
    }
    for new, old in renamings.items():
        name = name.replace(new, old)
    if name.startswith("neck."):
        name = name.replace(".weight", ".conv.weight").replace(".bias", ".conv.bias")
    return f"image_encoder.{name}"


AUTHORS_BLOCK = [
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.layers.0", "mlp.layers.1")
    for kind in ("weight", "bias")
]
AUTHORS_OTHER = (
    "maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial",
    "memory_attention.layers.0.self_attn.q_proj.weight", "memory_encoder.out_proj.weight", "obj_ptr_proj.layers.0.bias",
    "obj_ptr_tpos_proj.weight", "mask_downsample.weight", "sam_prompt_encoder.no_mask_embed.weight",
    "sam_mask_decoder.conv_s0.weight", "sam_mask_decoder.obj_score_token.weight",
)  # fmt: skip
"""One entry of every part of the published file that is not the image encoder."""


@pytest.mark.parametrize("name", [name for name in ENCODERS if "hiera" in name])
def test_names_of_the_authors_are_those_of_the_published_size(name):
    architecture = ENCODERS[name].architecture
    trunk = ["pos_embed", "pos_embed_window", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    trunk += [f"blocks.{block}.{entry}" for block in range(sum(architecture.depths)) for entry in AUTHORS_BLOCK]
    starts = [sum(architecture.depths[:stage]) for stage in (1, 2, 3)]
    trunk += [f"blocks.{block}.proj.{kind}" for block in starts for kind in ("weight", "bias")]
    names = [f"image_encoder.trunk.{entry}" for entry in trunk]
    names += [f"image_encoder.neck.convs.{level}.conv.{kind}" for level in range(4) for kind in ("weight", "bias")]
    entries = encoder_entries({entry: torch.empty(0) for entry in (*names, *AUTHORS_OTHER)}, "the published file")
    with torch.device("meta"):
        own = architecture.build(1024, (0.0,) * 3, (1.0,) * 3).backbone.state_dict()
    assert entries.keys() == own.keys()


def test_names_and_shapes_of_a_video_model_of_transformers():
    record = ENCODERS["sam2.1_hiera_tiny"]
    with torch.device("meta"):
        state = Sam2VideoModel(Sam2VideoConfig()).state_dict()
        own = record.architecture.build(record.image_size, record.mean, record.std).backbone.state_dict()
    entries = encoder_entries(state, "transformers")
    assert {key: value.shape for key, value in entries.items()} == {key: value.shape for key, value in own.items()}


def test_an_unknown_entry_is_reported():
    model = transformers_model()
    state = {authors_name(name): value for name, value in model.state_dict().items()}
    entries = encoder_entries(state | {"image_encoder.trunk.blocks.0.adapter": torch.zeros(1)}, "sam2.pt")
    with pytest.raises(ValueError, match=r"unexpected backbone\.blocks\.0\.adapter"):
        load_strictly(model, entries, "sam2.pt")


def test_a_file_without_an_encoder_of_sam_2_is_refused():
    state = {"image_encoder.pos_embed": torch.ones(1)}
    with pytest.raises(ValueError, match=r"Expected a SAM 2 image encoder .* in sam\.pth, found .*image_encoder\.pos"):
        encoder_entries(state, "sam.pth")
