"""SAM's encoder: agreement with transformers, interpolation of positions."""

from __future__ import annotations

import torch
from torch.nn import functional as F


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
