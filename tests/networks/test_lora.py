"""LoRA in encoders and in the mask decoder: a no-op when fresh, a frozen base, merged equals unmerged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tskd_monai.networks.cost import count_parameters
from tskd_monai.networks.lora import (
    add_lora,
    base_encoder_sha256,
    base_state_dict,
    has_lora,
    lora_slot,
    merge_lora,
    qkv_groups,
)
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder

IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
EMBEDDINGS = torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))
OPTIONS = [{}, {"use_rslora": True}, {"use_dora": True}, {"use_rslora": True, "init_lora_weights": "gaussian"}]


@pytest.fixture(params=["sam_encoder", "plain_vit_encoder", "tiny_vit_encoder", "sam_mask_decoder"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    if request.param == "sam_mask_decoder":
        torch.manual_seed(0)
        return SamMaskDecoder(32, 3, num_heads=4).eval()
    return request.getfixturevalue(request.param)


def output(network: nn.Module) -> torch.Tensor:
    if isinstance(network, SamMaskDecoder):
        return network.low_res_logits(EMBEDDINGS)
    return network(IMAGES).image_embeddings


def frozen_output(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return output(network)


def take_steps(network: nn.Module, count: int = 2) -> None:
    trainable = [value for value in network.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    for _ in range(count):
        optimiser.zero_grad()
        result = output(network)
        (result**2 * torch.linspace(-1, 1, result.shape[-1])).mean().backward()
        optimiser.step()


def fused_rows(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The rows of each fused layer's B, by part, over all layers."""
    factors = [
        value.detach().unflatten(0, (qkv_groups(encoder, name.split(".lora_B")[0]), -1)).chunk(3, dim=1)
        for name, value in encoder.named_parameters()
        if "qkv.lora_B" in name
    ]
    assert len(factors) >= 4
    parts = zip(*factors, strict=True)
    return dict(zip("qkv", (torch.cat([rows.flatten() for rows in part]) for part in parts), strict=True))


@pytest.mark.parametrize("options", OPTIONS)
def test_fresh_lora_changes_no_bit(network, options):
    before = frozen_output(network)
    assert torch.equal(frozen_output(add_lora(network, peft_options=options)), before)


@pytest.mark.parametrize("options", OPTIONS)
def test_only_lora_is_trainable_and_every_factor_gets_a_gradient(network, options):
    add_lora(network, peft_options=options)
    trainable = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert trainable
    assert all(".lora_" in name for name in trainable)
    output(network).square().mean().backward()
    assert all(value.grad is not None for value in trainable.values())


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_change_the_output_but_not_the_base(network, options):
    before, plain = frozen_output(network), {name: value.clone() for name, value in network.state_dict().items()}
    add_lora(network, peft_options=options)
    take_steps(network)
    assert (frozen_output(network) - before).abs().max() > 1e-4
    base = base_state_dict(network)
    assert base.keys() == plain.keys()
    assert all(torch.equal(base[name], value) for name, value in plain.items())


def test_the_hash_of_an_encoder_is_that_of_its_base(encoder):
    plain_hash = base_encoder_sha256(encoder)
    add_lora(encoder)
    take_steps(encoder)
    assert base_encoder_sha256(encoder) == plain_hash
    assert base_encoder_sha256(merge_lora(encoder)) != plain_hash


@pytest.mark.parametrize("options", OPTIONS)
def test_merged_equals_unmerged(network, options):
    add_lora(network, peft_options=options)
    take_steps(network)
    unmerged = frozen_output(network)
    merge_lora(network)
    assert not has_lora(network)
    torch.testing.assert_close(frozen_output(network), unmerged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_the_number_of_parameters_follows_from_the_shapes(network, options):
    layers = [
        layer
        for name, layer in network.get_submodule(lora_slot(network)).named_modules()
        if name.endswith(network.default_lora_targets) and isinstance(layer, nn.Linear)
    ]
    magnitudes = bool(options)
    expected = sum(3 * (at.in_features + at.out_features) + magnitudes * at.out_features for at in layers)
    add_lora(network, rank=3, peft_options=options)
    assert count_parameters(network, trainable_only=True) == expected


def test_the_formula_holds_for_a_known_network(plain_vit_encoder):
    add_lora(plain_vit_encoder, rank=2, target_modules=["attn.proj"])
    assert count_parameters(plain_vit_encoder, trainable_only=True) == 4 * 2 * (48 + 48)


@pytest.mark.parametrize(("options", "scale"), [({}, 1.5), ({"use_rslora": True}, 3.0)])
def test_the_scale_is_alpha_over_rank_or_its_root(plain_vit_encoder, options, scale):
    add_lora(plain_vit_encoder, rank=4, alpha=6.0, peft_options=options)
    assert plain_vit_encoder.backbone.blocks[0].attn.qkv.scaling["default"] == scale


def test_the_gaussian_start_has_its_own_scale(plain_vit_encoder):
    add_lora(plain_vit_encoder, rank=8, peft_options={"init_lora_weights": "gaussian"})
    factor = plain_vit_encoder.backbone.blocks[0].attn.qkv.lora_A["default"].weight
    assert factor.detach().std() == pytest.approx(1 / 8, rel=0.15)


def test_dropout_works_in_training_only(plain_vit_encoder):
    add_lora(plain_vit_encoder, dropout=0.5)
    take_steps(plain_vit_encoder)
    assert torch.equal(frozen_output(plain_vit_encoder), frozen_output(plain_vit_encoder))
    plain_vit_encoder.train()
    assert not torch.equal(frozen_output(plain_vit_encoder), frozen_output(plain_vit_encoder))


def test_only_query_and_value_of_a_fused_layer_can_be_adapted(encoder):
    add_lora(encoder, target_modules=["attn.qkv"], qkv_parts="qv")
    take_steps(encoder, count=3)
    rows = fused_rows(encoder)
    assert not rows["k"].any()
    assert rows["q"].any()
    assert rows["v"].any()


def test_all_parts_are_adapted_by_default(encoder):
    add_lora(encoder)
    take_steps(encoder)
    assert all(rows.any() for rows in fused_rows(encoder).values())


def test_rows_stay_zero_in_a_copy_and_after_going_on_from_a_checkpoint(encoder):
    add_lora(encoder, qkv_parts="qv")
    take_steps(encoder)
    again = copy.deepcopy(encoder)
    again.load_state_dict(encoder.state_dict())
    take_steps(again)
    assert not fused_rows(again)["k"].any()
    assert not torch.equal(fused_rows(again)["q"], fused_rows(encoder)["q"])


def test_rows_stay_zero_under_ddp(plain_vit_encoder, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        add_lora(plain_vit_encoder, qkv_parts="qv")
        wrapped = nn.parallel.DistributedDataParallel(plain_vit_encoder)
        optimiser = torch.optim.AdamW([value for value in wrapped.parameters() if value.requires_grad], lr=1e-2)
        for _ in range(2):
            wrapped(IMAGES).image_embeddings[:, :7].square().mean().backward()
            optimiser.step()
    finally:
        torch.distributed.destroy_process_group()
    rows = fused_rows(plain_vit_encoder)
    assert rows["v"].any()
    assert not rows["k"].any()


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_only_the_last_layers_are_adapted(encoder, depth):
    plain = frozen_output(encoder)
    has_targets = [
        any(name.endswith(encoder.default_lora_targets) for name, _ in layer.named_modules())
        for layer in encoder.layers[-depth:]
    ]
    add_lora(encoder, depth=depth)
    adapted = [any(value.requires_grad for value in layer.parameters()) for layer in encoder.layers]
    assert adapted == [False] * (len(adapted) - depth) + has_targets
    assert torch.equal(frozen_output(encoder), plain)
    everywhere = [name for name, value in encoder.named_parameters() if value.requires_grad]
    assert len(everywhere) == sum(has_targets) * 2 * len(encoder.default_lora_targets)


def test_other_targets_are_adapted_in_the_last_layers_too(plain_vit_encoder):
    add_lora(plain_vit_encoder, target_modules=["attn.qkv"], qkv_parts="qv", depth=2)
    names = [name for name, value in plain_vit_encoder.named_parameters() if value.requires_grad]
    assert len(names) == 2 * 2
    assert all(".2.attn.qkv.lora_" in name or ".3.attn.qkv.lora_" in name for name in names)


@pytest.mark.parametrize("depth", [0, -1, 100, 0.5, True, "2"])
def test_a_depth_that_the_encoder_does_not_have_is_refused(encoder, depth):
    with pytest.raises(
        ValueError, match=rf"Expected --lora_depth from 1 to \d+, the encoder's layers, found {depth!r}"
    ):
        add_lora(encoder, depth=depth)


def test_last_layers_without_a_target_are_refused(plain_vit_encoder):
    with pytest.raises(ValueError, match=r"None of the LoRA targets blocks\.0\.attn\.qkv is in the last 2 of 4 layers"):
        add_lora(plain_vit_encoder, target_modules=["blocks.0.attn.qkv"], depth=2)


def test_one_unmatched_target_is_named_although_others_match(encoder):
    with pytest.raises(ValueError, match=r"LoRA target 'attn\.query' matches no layer; choose from attn\.proj, attn"):
        add_lora(encoder, target_modules=["attn.qkv", "attn.query"])


def test_a_target_that_is_also_a_convolution_is_refused(plain_vit_encoder):
    with pytest.raises(ValueError, match=r"'proj' also matches patch_embed\.proj \(Conv2d"):
        add_lora(plain_vit_encoder, target_modules=["proj"])


def test_lora_twice_is_refused(network):
    with pytest.raises(ValueError, match="found an adapter in it"):
        add_lora(add_lora(network))


def test_rank_zero_is_refused(network):
    with pytest.raises(ValueError, match="rank of at least 1, found 0"):
        add_lora(network, rank=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qkv_parts": "qx"}, "letters of 'qkv', such as 'qv', found 'qx'"),
        ({"qkv_parts": "qq"}, "letters of 'qkv', such as 'qv', found 'qq'"),
        ({"qkv_parts": ""}, "letters of 'qkv', such as 'qv', found ''"),
        ({"qkv_parts": "qv", "target_modules": ["attn.proj"]}, r"expected the LoRA target 'attn\.qkv', found attn\."),
        ({"qkv_parts": "qv", "peft_options": {"use_dora": True}}, "'qv' does not go with use_dora"),
        ({"peft_options": {"lora_bias": True}}, "out of use_rslora, use_dora, init_lora_weights, found 'lora_bias'"),
        ({"peft_options": {"use_rslora": 1}}, "use_rslora to be one of False, True, found 1"),
        ({"peft_options": {"init_lora_weights": "pissa"}}, "one of True, 'gaussian', found 'pissa'; others change the"),
        ({"peft_options": {"init_lora_weights": False}}, "found False; others change the base weights or start from"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(plain_vit_encoder, arguments, message):
    with pytest.raises(ValueError, match=message):
        add_lora(plain_vit_encoder, **arguments)
    assert not has_lora(plain_vit_encoder)
    assert all(value.requires_grad for value in plain_vit_encoder.parameters())


def test_merging_needs_lora(network):
    with pytest.raises(ValueError, match="Expected a network with LoRA, found a plain one"):
        merge_lora(network)
