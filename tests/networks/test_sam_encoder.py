"""SAM's encoder: agreement with transformers, interpolation of positions, names of the original implementation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from tskd_monai.networks.sam_encoder import encoder_entries, to_transformers_names


def test_embeddings_are_those_of_transformers(sam_encoder):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = sam_encoder.backbone(sam_encoder.normalise(images)).last_hidden_state
        torch.testing.assert_close(sam_encoder(images).image_embeddings, expected)


def test_an_untrained_encoder_is_not_almost_zero(sam_encoder):
    assert sam_encoder.backbone.layers[0].attn.qkv.weight.std() > 0.01
    first, second = sam_encoder(torch.rand(2, 1, 64, 64)).image_embeddings
    assert (first - second).abs().max() > 1e-2


def test_relative_positions_change_in_global_layers_only(sam_encoder):
    before = [layer.attn.rel_pos_h.clone() for layer in sam_encoder.backbone.layers]
    sam_encoder.resize_to((96, 32))
    for index, layer in enumerate(sam_encoder.backbone.layers):
        if index in (1, 3):
            assert layer.attn.rel_pos_h.shape[0] == 2 * 6 - 1
            assert layer.attn.rel_pos_w.shape[0] == 2 * 2 - 1
            expected = F.interpolate(before[index].t()[None], size=11, mode="linear")[0].t()
            torch.testing.assert_close(layer.attn.rel_pos_h, expected)
        else:
            assert torch.equal(layer.attn.rel_pos_h, before[index])


def test_absolute_positions_are_interpolated_bicubically(sam_encoder):
    before = sam_encoder.backbone.pos_embed.clone()
    sam_encoder.resize_to((96, 32))
    expected = F.interpolate(before.permute(0, 3, 1, 2), size=(6, 2), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(sam_encoder.backbone.pos_embed, expected)


def test_the_last_feature_enters_the_neck(sam_encoder):
    output = sam_encoder(torch.rand(1, 1, 64, 64))
    torch.testing.assert_close(
        sam_encoder.backbone.neck(output.features[-1].permute(0, 2, 3, 1)), output.image_embeddings
    )


ORIGINAL_NAMES = [
    *(f"image_encoder.neck.{name}" for name in ("0.weight", "1.weight", "1.bias", "2.weight", "3.weight", "3.bias")),
    *(f"image_encoder.patch_embed.proj.{name}" for name in ("weight", "bias")),
    "image_encoder.pos_embed",
    *(f"image_encoder.blocks.0.attn.{name}" for name in ("rel_pos_h", "rel_pos_w")),
    *(
        f"image_encoder.blocks.0.{layer}.{name}"
        for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")
        for name in ("weight", "bias")
    ),
    *(f"mask_decoder.{name}.weight" for name in ("iou_token", "mask_tokens")),
    *(
        f"mask_decoder.{block}.{name}"
        for block in (
            "transformer.norm_final_attn",
            "transformer.layers.0.norm4",
            "transformer.layers.0.self_attn.q_proj",
            "transformer.layers.1.cross_attn_token_to_image.out_proj",
            "transformer.layers.1.mlp.lin2",
            "transformer.final_attn_token_to_image.k_proj",
            "output_upscaling.0",
            "output_upscaling.1",
            "output_upscaling.3",
            *(f"output_hypernetworks_mlps.3.layers.{layer}" for layer in range(3)),
            *(f"iou_prediction_head.layers.{layer}" for layer in range(3)),
        )
        for name in ("weight", "bias")
    ),
    *(f"prompt_encoder.{name}.weight" for name in ("no_mask_embed", "not_a_point_embed")),
    *(f"prompt_encoder.point_embeddings.{number}.weight" for number in range(4)),
    *(f"prompt_encoder.mask_downscaling.{layer}.{name}" for layer in (0, 1, 3, 4, 6) for name in ("weight", "bias")),
]


@pytest.fixture(scope="module")
def transformers_names() -> set[str]:
    with torch.device("meta"):
        config = SamConfig(vision_config={"num_hidden_layers": 1, "hidden_size": 12, "global_attn_indexes": [0]})
        return set(SamModel(config).state_dict())


def test_every_renamed_entry_exists_in_transformers(transformers_names):
    renamed = to_transformers_names({name: torch.empty(0) for name in ORIGINAL_NAMES})
    assert len(renamed) == len(ORIGINAL_NAMES)
    assert renamed.keys() - transformers_names == set()
    assert {name for name in transformers_names if name.startswith("vision_encoder.")} <= renamed.keys()


def test_the_positional_matrix_is_found():
    state = {"image_encoder.pos_embed": torch.empty(0)}
    state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = torch.ones(2, 4)
    assert to_transformers_names(state)["shared_image_embedding.positional_embedding"].sum() == 8


def test_transformers_names_stay():
    state = {"vision_encoder.pos_embed": torch.ones(1), "mask_decoder.iou_token.weight": torch.ones(1)}
    assert to_transformers_names(state).keys() == state.keys()
    assert encoder_entries(state, "file").keys() == {"pos_embed"}


def test_a_file_without_a_sam_encoder_is_refused():
    with pytest.raises(ValueError, match=r"Expected a SAM image encoder .* in other\.pth, found entries such as head"):
        encoder_entries({"head": torch.ones(1)}, "other.pth")
