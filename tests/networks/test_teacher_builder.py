"""Teachers built from config values: what is trainable, what stays frozen, which options are rejected."""

from __future__ import annotations

import pytest
import torch

from tests.networks.small_teachers import IMAGES, build, every_variant, logits, take_a_step
from tskd_monai.networks.cost import count_parameters
from tskd_monai.networks.lora import base_encoder_sha256


@pytest.mark.parametrize("encoder", ["sam_demo", "vit_tiny_patch16"])
@every_variant
def test_every_trainable_parameter_gets_a_gradient(encoder, options):
    teacher = build(encoder=encoder, **options)
    teacher(IMAGES).square().mean().backward()
    assert [name for name, value in teacher.named_parameters() if value.requires_grad and value.grad is None] == []


def test_tuning_decides_how_many_parameters_are_trained():
    def trained(**options: object) -> tuple[int, int]:
        teacher = build(**options)
        parts = (teacher.encoder, teacher.decoder)
        encoder, decoder = (count_parameters(part, trainable_only=True) for part in parts)
        return encoder, decoder

    backbone = count_parameters(build(tuning="decoder").encoder)
    layers, width, rank = 6, 128, 2
    lora = layers * rank * ((width + 3 * width) + (width + width) + 2 * (width + 4 * width))
    assert [trained(tuning=tuning)[0] for tuning in ("lora", "full", "decoder")] == [lora, backbone, 0]
    adapted = build(decoder="sam", decoder_lora=True).decoder
    factors = [value.requires_grad for name, value in adapted.named_parameters() if ".lora_" in name]
    assert factors and all(factors)
    assert trained(decoder="sam", decoder_lora=True)[1] < 0.25 * trained(decoder="sam")[1]


def test_with_lora_in_the_decoder_its_transformer_stays_as_it_is():
    teacher = build(decoder="sam", decoder_lora=True)
    before = {name: value.clone() for name, value in teacher.decoder.state_dict().items()}
    take_a_step(teacher)
    changed = {name for name, value in teacher.decoder.state_dict().items() if not torch.equal(value, before[name])}
    assert all(".lora_" in name for name in changed if "transformer" in name)
    assert {"decoder.mask_tokens.weight", "decoder.upscale_conv1.weight", "no_mask_embed"} <= changed


def test_fresh_lora_everywhere_leaves_the_logits_as_they_are():
    plain, adapted = build("sam", tuning="decoder"), build("sam", decoder_lora=True)
    assert torch.equal(logits(adapted.eval()), logits(plain.eval()))


@pytest.mark.parametrize("encoder", ["sam_demo", "vit_tiny_patch16"])
def test_gradient_checkpointing_leaves_the_gradients_as_they_are(encoder):
    gradients = []
    for checkpointing in (False, True):
        teacher = build(encoder=encoder, gradient_checkpointing=checkpointing)
        assert teacher.encoder.recompute_layers == checkpointing
        teacher(IMAGES).square().mean().backward()
        gradients.append([value.grad for value in teacher.parameters() if value.requires_grad])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_training_never_changes_the_base_encoder():
    teacher = build()
    before = base_encoder_sha256(teacher.encoder)
    assert base_encoder_sha256(take_a_step(teacher).encoder) == before


def test_the_same_seed_builds_the_same_teacher():
    first, again, other = (logits(build(seed=seed).eval()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_checkpoint_of_the_whole_segmenter_loads_strictly():
    trained, fresh = take_a_step(build(seed=1)), build(seed=2).eval()
    fresh.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(logits(fresh), logits(trained))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "unet"}, "decoder to be one of light, sam, found 'unet'"),
        ({"tuning": "half"}, "tuning to be one of lora, full, decoder, found 'half'"),
        ({"decoder_lora": True}, "decoder_lora needs decoder 'sam': the light decoder has no attention"),
        ({"refine": False}, "refine: false needs decoder 'sam'"),
        ({"tuning": "full", "qkv_parts": "qv"}, "qkv_parts and lora_depth need tuning 'lora', found tuning 'full'"),
        ({"tuning": "decoder", "lora_depth": 2}, "lora_depth need tuning 'lora', found tuning 'decoder'"),
        ({"tuning": "decoder", "peft_options": {"use_dora": True}}, "peft_options need tuning 'lora' or decoder_lora"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("option", ["decoder_lora", "refine", "gradient_checkpointing"])
def test_a_word_is_no_switch(option):
    with pytest.raises(ValueError, match=f"Expected {option} to be True or False, found 'false'"):
        build(decoder="sam", **{option: "false"})
