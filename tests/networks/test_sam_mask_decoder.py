"""SAM's mask decoder with one token per class."""

from __future__ import annotations

import pytest
import torch
from transformers import SamConfig, SamModel

from tskd_monai.networks.encoders import EncoderOutput
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder, grid_positions, initialise_from_sam


@pytest.fixture(scope="module")
def sam() -> SamModel:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "num_pos_feats": 16,
            "global_attn_indexes": [0],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
            "layer_norm_eps": 1e-5,
        },
    )
    model = SamModel(config).eval()
    torch.nn.init.normal_(model.prompt_encoder.no_mask_embed.weight)
    return model


def test_logits_have_image_size_and_one_channel_per_class():
    decoder = SamMaskDecoder(embed_dim=32, num_classes=5, num_heads=4)
    output = EncoderOutput(torch.rand(2, 32, 3, 5), ())
    assert decoder(output, torch.rand(2, 3, 48, 80)).shape == (2, 5, 48, 80)
    assert decoder.low_res_logits(output.image_embeddings).shape == (2, 5, 12, 20)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_an_untrained_refinement_changes_no_bit(stride):
    decoder = SamMaskDecoder(embed_dim=32, num_classes=3, num_heads=4).eval()
    encoded = EncoderOutput(torch.rand(2, 32, 48 // stride, 64 // stride), ())
    images = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        refined, low_res = decoder(encoded, images), decoder.low_res_logits(encoded.image_embeddings)
        expected = torch.nn.functional.interpolate(low_res, size=(48, 64), mode="bilinear")
        assert torch.equal(refined, expected)
        torch.nn.init.normal_(decoder.refinement.classify.weight)
        assert not torch.equal(decoder(encoded, images), expected)
        assert torch.equal(decoder.low_res_logits(encoded.image_embeddings), low_res)


def test_the_refinement_is_small_beside_sams_decoder():
    decoder = SamMaskDecoder(embed_dim=256, num_classes=5)
    assert sum(v.numel() for v in decoder.refinement.parameters()) < 0.01 * sum(v.numel() for v in decoder.parameters())


def test_from_sam_weights_three_classes_are_sams_three_masks(sam):
    decoder = SamMaskDecoder(embed_dim=32, num_classes=3, num_heads=4).eval()
    initialise_from_sam(decoder, sam.state_dict(), "sam")
    embeddings = torch.rand(2, 32, 4, 4)
    with torch.no_grad():
        expected, _ = sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1),
            sparse_prompt_embeddings=None,
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.view(1, 32, 1, 1).expand(2, -1, 4, 4),
            multimask_output=True,
        )
        torch.testing.assert_close(decoder.low_res_logits(embeddings), expected[:, 0])


def test_more_classes_than_sam_masks_reuse_its_tokens(sam):
    decoder = SamMaskDecoder(embed_dim=32, num_classes=5, num_heads=4)
    initialise_from_sam(decoder, sam.state_dict(), "sam")
    theirs = sam.mask_decoder.mask_tokens.weight
    assert torch.equal(decoder.decoder.mask_tokens.weight, theirs[[0, 1, 2, 3, 1, 2]])


def test_positions_are_those_of_transformers(sam):
    expected = sam.get_image_wide_positional_embeddings()
    matrix = sam.shared_image_embedding.positional_embedding
    torch.testing.assert_close(grid_positions(matrix, 4, 4), expected, atol=1e-4, rtol=1e-4)


def test_every_trainable_parameter_gets_a_gradient():
    decoder = SamMaskDecoder(embed_dim=32, num_classes=3, num_heads=4)
    decoder(EncoderOutput(torch.rand(1, 32, 4, 4), ()), torch.rand(1, 3, 64, 64)).square().mean().backward()
    assert [n for n, value in decoder.named_parameters() if value.requires_grad and value.grad is None] == []


def test_layer_norms_of_the_transformer_have_the_reference_epsilon():
    transformer = SamMaskDecoder(embed_dim=32, num_classes=2, num_heads=4).decoder.transformer
    assert {m.eps for m in transformer.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_weights_of_another_width_are_refused(sam):
    with pytest.raises(ValueError, match=r"Weights in sam\.pth do not fit SamMaskDecoder: .*wrong shape"):
        initialise_from_sam(SamMaskDecoder(embed_dim=64, num_classes=3), sam.state_dict(), "sam.pth")


def test_weights_without_a_decoder_are_refused():
    with pytest.raises(ValueError, match=r"Expected shared_image_embedding\.positional_embedding in the SAM weights"):
        initialise_from_sam(SamMaskDecoder(embed_dim=64, num_classes=3), {}, "sam.pth")


def test_an_embedding_not_divisible_by_the_heads_is_refused():
    with pytest.raises(ValueError, match=r"divisible by 8 and by 2 \* num_heads = 16, found 40"):
        SamMaskDecoder(embed_dim=40, num_classes=2)
