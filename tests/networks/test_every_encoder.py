"""What LoRA, decoders, training and caches require of an encoder, held against a small one of every architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from tests.networks.small_teachers import SMALL_RECORDS
from tskd_monai.networks.adapter_folder import save_adapter
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.encoders import EncoderOutput, ImageEncoder
from tskd_monai.networks.lora import add_lora, merge_lora
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher

TASK = "0" * 64
SIZE = (48, 80)  # no side is a multiple of 32, the stride of Hiera's last stage
IMAGES = torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=SMALL_RECORDS)
def record(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EncoderRecord:
    """Makes a small record known and returns it."""
    found = SMALL_RECORDS[request.param]
    monkeypatch.setitem(ENCODERS, found.name, found)
    return found


@pytest.fixture
def encoder(record: EncoderRecord) -> ImageEncoder:
    return build_encoder(record.name, "random", SIZE).eval()


def teacher(record: EncoderRecord, **options: object) -> VfmSegmenter:
    return build_teacher(
        encoder=record.name, encoder_weights="random", image_size=SIZE, num_classes=3, rank=2, **options
    )


def outputs(encoder: ImageEncoder, images: Tensor = IMAGES) -> EncoderOutput:
    with torch.no_grad():
        return encoder(images)


def move_factors(encoder: ImageEncoder) -> None:
    """Moves the factors B of fresh LoRA from zero."""
    for name, value in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)


def test_every_architecture_of_the_records_has_a_small_version():
    small = {type(record.architecture) for record in SMALL_RECORDS.values()}
    assert {type(record.architecture) for record in ENCODERS.values()} <= small


@pytest.mark.parametrize("size", [SIZE, (16, 16), (32, 128), (112, 16)])
def test_maps_have_the_strides_and_channels_that_it_states(encoder, size):
    encoder.resize_to(size)
    found = outputs(encoder, torch.rand(2, 3, *size))
    assert encoder.image_size == size
    maps = (*found.features, found.image_embeddings)
    for entry, stride, channels in zip(
        maps,
        (*encoder.feature_strides, encoder.embed_stride),
        (*encoder.feature_channels, encoder.embed_dim),
        strict=True,
    ):
        assert entry.shape == (2, channels, size[0] // stride, size[1] // stride)
        assert torch.isfinite(entry).all()


def test_it_sees_where_the_image_changes(encoder):
    changed = IMAGES.clone()
    changed[..., 32:] = 1 - changed[..., 32:]
    difference = (outputs(encoder, changed).image_embeddings - outputs(encoder).image_embeddings).abs().mean((0, 1))
    columns = difference.mean(0)
    assert columns[-1] > 2 * columns[0]


def test_the_output_does_not_depend_on_the_mode(encoder):
    expected = outputs(encoder)
    torch.testing.assert_close(outputs(encoder.train()), expected, rtol=0, atol=0)


def test_it_can_stop_before_every_layer(encoder):
    expected = outputs(encoder)
    with torch.no_grad():
        for count in range(len(encoder.layers) + 1):
            state = encoder.begin(IMAGES, count)
            torch.testing.assert_close(encoder.finish(state, count), expected, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_layers_give_the_same_gradients(encoder, lora):
    if lora:
        move_factors(add_lora(encoder, rank=2))
    found = []
    for enabled in (False, True):
        encoder.checkpoint_gradients(enabled)
        encoder.zero_grad()
        encoder.train()(IMAGES).image_embeddings.square().mean().backward()
        found.append({name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None})
    assert found[0]
    torch.testing.assert_close(found[1], found[0])


def test_fresh_lora_changes_no_bit_and_merged_lora_gives_the_outputs_of_lora(encoder):
    before = outputs(encoder)
    add_lora(encoder, rank=2)
    torch.testing.assert_close(outputs(encoder), before, rtol=0, atol=0)
    move_factors(encoder)
    adapted = outputs(encoder)
    assert (adapted.image_embeddings - before.image_embeddings).abs().max() > 1e-3
    torch.testing.assert_close(outputs(merge_lora(encoder)), adapted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_step_of_training_reaches_every_parameter(record, tuning):
    segmenter = teacher(record, decoder="light", tuning=tuning).train()
    frozen = {name: value.clone() for name, value in segmenter.named_parameters() if not value.requires_grad}
    trained = {name: value for name, value in segmenter.named_parameters() if value.requires_grad}
    before = {name: value.detach().clone() for name, value in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2)
    segmenter(IMAGES).square().mean().backward()
    assert [name for name, value in trained.items() if value.grad is None] == []
    optimiser.step()
    assert any(name.startswith("encoder") for name in trained)
    # The factor A of fresh LoRA has a gradient of zero, because B is zero.
    unmoved = [name for name, value in trained.items() if "lora_A" not in name and torch.equal(value, before[name])]
    assert unmoved == []
    assert all(torch.equal(dict(segmenter.named_parameters())[name], value) for name, value in frozen.items())


def test_lora_in_the_last_layers_trains_alike_from_the_state_after_the_frozen_ones(record):
    segmenter = teacher(record, decoder="light", lora_depth=2).train()
    move_factors(segmenter.encoder)
    assert segmenter.frozen_layers == len(segmenter.encoder.layers) - 2
    gradients = []
    for state in (None, segmenter.begin(IMAGES)):
        segmenter.zero_grad()
        segmenter(IMAGES, state).square().mean().backward()
        gradients.append(
            {name: value.grad.clone() for name, value in segmenter.named_parameters() if value.requires_grad}
        )
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_saved_adapter_loads_in_plain_peft(encoder, tmp_path):
    plain = copy.deepcopy(encoder)
    move_factors(add_lora(encoder, rank=2))
    save_adapter(encoder, tmp_path)
    plain.backbone = PeftModel.from_pretrained(plain.backbone, str(tmp_path)).eval()
    torch.testing.assert_close(outputs(plain), outputs(encoder), rtol=0, atol=0)


@pytest.mark.parametrize("decoder", ["light", "sam"])
def test_a_saved_teacher_predicts_the_same(record, decoder, tmp_path):
    segmenter = teacher(record, decoder=decoder).eval()
    move_factors(segmenter.encoder)
    save_teacher(segmenter, tmp_path, task_hash=TASK)
    with torch.no_grad():
        expected = segmenter(IMAGES)
        assert expected.shape == (2, 3, *SIZE)
        torch.testing.assert_close(load_teacher(tmp_path).eval()(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_float32(encoder):
    expected = outputs(encoder).image_embeddings
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(encoder).image_embeddings.float()
    assert (found - expected).norm() < 0.05 * expected.norm()


LAYERS_WITH_LORA = {
    "sam": "attn.qkv attn.proj mlp.lin1 mlp.lin2",
    "medsam": "attn.qkv attn.proj mlp.lin1 mlp.lin2",
    "medico_sam": "attn.qkv attn.proj mlp.lin1 mlp.lin2",
    "lite_medsam": "attn.qkv attn.proj mlp.fc1 mlp.fc2",
    "vit": "attn.qkv attn.proj mlp.fc1 mlp.fc2",
    "mri_core": "attn.qkv attn.proj mlp.fc1 mlp.fc2",
    "sam2.1": "attn.qkv attn.proj mlp.proj_in mlp.proj_out proj",
    "medsam2": "attn.qkv attn.proj mlp.proj_in mlp.proj_out proj",
    "dinov2": "attention.q_proj attention.k_proj attention.v_proj attention.o_proj mlp.fc1 mlp.fc2",
    "dinov3": "attention.k_proj attention.v_proj attention.q_proj attention.o_proj mlp.up_proj mlp.down_proj",
    "dinov3_vit_small_plus": (
        "attention.k_proj attention.v_proj attention.q_proj attention.o_proj "
        "mlp.gate_proj mlp.up_proj mlp.down_proj"
    ),
}  # fmt: skip


PARAMETERS = {
    "mri_core_vit_base": 85_798_656,
    "sam2.1_hiera_tiny": 27_219_136,
    "sam2.1_hiera_small": 34_316_992,
    "sam2.1_hiera_base_plus": 69_106_816,
    "sam2.1_hiera_large": 212_703_280,
    "medsam2_hiera_tiny": 27_219_136,
    "dinov2_vit_small": 22_056_192,
    "dinov2_vit_base": 86_579_712,
    "dinov2_vit_large": 304_367_616,
    "dinov2_registers_vit_small": 22_057_728,
    "dinov2_registers_vit_base": 86_582_784,
    "dinov2_registers_vit_large": 304_371_712,
    "dinov3_vit_small": 21_596_160,
    "dinov3_vit_small_plus": 28_692_480,
    "dinov3_vit_base": 85_659_648,
    "dinov3_vit_large": 303_128_576,
}
"""Parameters of the authors' networks without mask token and key bias, by tests/interop/compare_encoders.py."""


@pytest.mark.parametrize("name", ENCODERS)
def test_a_published_encoder_has_its_size_and_these_layers_with_lora(name):
    record = ENCODERS[name]
    with torch.device("meta"):
        encoder = record.architecture.build(record.image_size, record.mean, record.std)
    beginnings = [beginning for beginning in LAYERS_WITH_LORA if name == beginning or name.startswith(f"{beginning}_")]
    assert encoder.default_lora_targets == tuple(LAYERS_WITH_LORA[max(beginnings, key=len)].split())
    if name in PARAMETERS:
        assert sum(value.numel() for value in encoder.parameters()) == PARAMETERS[name]


def test_lora_is_in_every_linear_layer_inside_the_layers_and_in_no_other(encoder):
    inside = [module for layer in encoder.layers for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    add_lora(encoder, rank=1)
    assert sum(".lora_A." in name for name, _ in encoder.named_parameters()) == len(inside)


def test_the_native_size_changes_no_parameter(record):
    native = record.architecture.build(record.image_size, record.mean, record.std).image_size
    encoder = build_encoder(record.name, "random", native)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.resize_to(native)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
