"""TinyViT: windows, fixed statistics, names of the published file, teachers on it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from tests.networks.conftest import HALF, TINY_VIT
from tests.networks.small_teachers import IMAGES, build, logits, take_a_step
from tskd_monai.networks.adapter_folder import save_adapter
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.lora import add_lora
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher
from tskd_monai.networks.tiny_vit import TinyVitArchitecture
from tskd_monai.networks.tiny_vit_layers import Attention, Block, ConvNorm, offset_indices

TASK = "a" * 64
PARAMETERS = 5_726_740
"""Of LiteMedSAM's image encoder."""


@pytest.fixture
def small_record(monkeypatch) -> EncoderRecord:
    """Registers a small TinyViT as a known encoder."""
    record = EncoderRecord("tiny_vit_small", TINY_VIT, 64, HALF, HALF, "Apache-2.0", "this test")
    monkeypatch.setitem(ENCODERS, record.name, record)
    return record


def randomise(module: nn.Module) -> nn.Module:
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point():
            value.data.uniform_(0.5, 1.5) if "running_var" in name else value.data.normal_(std=0.3)
    return module.eval()


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 4), (3, 2, 4)])
def test_the_folded_normalisation_is_batch_norm_in_evaluation(kernel, stride, groups):
    layer = randomise(ConvNorm(4, 8, kernel, stride, groups))
    norm = nn.BatchNorm2d(8).eval()
    norm.load_state_dict({**layer.bn.state_dict(), "num_batches_tracked": torch.tensor(0)})
    maps = torch.randn(2, 4, 6, 10)
    torch.testing.assert_close(layer(maps), norm(layer.c(maps)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_training_never_moves_the_statistics(tiny_vit_encoder, tuning):
    before = {name: value.clone() for name, value in tiny_vit_encoder.state_dict().items()}
    if tuning == "lora":
        add_lora(tiny_vit_encoder)
    tiny_vit_encoder.train()
    images = torch.rand(2, 1, 64, 64)
    trainable = [value for value in tiny_vit_encoder.parameters() if value.requires_grad]
    optimiser = torch.optim.Adam(trainable, lr=0.1, eps=1e-20)
    expected = tiny_vit_encoder(images).image_embeddings
    torch.testing.assert_close(copy.deepcopy(tiny_vit_encoder).eval()(images).image_embeddings, expected)
    (expected**2 * torch.linspace(-1, 1, expected.shape[-1])).mean().backward()
    optimiser.step()
    after = tiny_vit_encoder.state_dict()
    statistics = [name for name in after if "running_" in name]
    assert len(statistics) == sum(name.endswith("running_mean") for name in before) * 2 > 0
    assert all(torch.equal(after[name], before[name.replace("base_model.model.", "")]) for name in statistics)
    scales = [name for name in after if name.endswith("bn.weight")]
    moved = [not torch.equal(after[name], before[name.replace("base_model.model.", "")]) for name in scales]
    assert all(moved) if tuning == "full" else not any(moved)


def test_an_untrained_encoder_tells_images_apart():
    torch.manual_seed(0)
    encoder = TINY_VIT.build(64, HALF, HALF)
    encoder.initialise_randomly()
    first, second = encoder(torch.rand(2, 1, 64, 64)).image_embeddings
    assert (first - second).abs().mean() > 0.1


def test_offsets_are_numbered_by_their_distance_in_rows_and_columns():
    index = offset_indices(3)
    assert index.shape == (9, 9)
    assert torch.equal(index, index.t())
    assert index[0].tolist() == list(range(9))
    assert index[4].tolist() == [4, 3, 4, 1, 0, 1, 4, 3, 4]


def test_attention_is_the_formula_with_query_key_and_value_of_each_head_together():
    attention = randomise(Attention(8, num_heads=2, window=2))
    tokens = torch.randn(3, 4, 8)
    qkv = attention.qkv(attention.norm(tokens)).view(3, 4, 2, 12)
    heads = []
    for head in range(2):
        query, key, value = qkv[:, :, head].split(4, dim=-1)
        weights = query @ key.transpose(1, 2) / 2 + attention.attention_biases[head][offset_indices(2)]
        heads.append(weights.softmax(dim=-1) @ value)
    torch.testing.assert_close(attention(tokens), attention.proj(torch.cat(heads, dim=-1)))


def test_a_window_does_not_see_the_next_one():
    block = randomise(Block(8, num_heads=2, window=4))
    tokens = torch.randn(1, 8, 12, 8)
    changed = tokens.clone()
    changed[:, :4, 4:8] = torch.randn(1, 4, 4, 8)
    difference = (block._attend(tokens) - block._attend(changed)).abs().amax(-1)[0]
    assert (difference[:4, 4:8] > 0).all()
    difference[:4, 4:8] = 0
    assert difference.max() == 0


def test_windows_at_the_border_are_filled_up_with_zeros():
    block = randomise(Block(8, num_heads=2, window=4))
    tokens = torch.randn(1, 5, 6, 8)
    filled = F.pad(tokens, (0, 0, 0, 2, 0, 3))
    torch.testing.assert_close(block._attend(tokens), block._attend(filled)[:, :5, :6])


def test_a_single_query_and_value_adaptation_keeps_every_key(tiny_vit_encoder):
    add_lora(tiny_vit_encoder, qkv_parts="qv")
    for name, value in tiny_vit_encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    attention = tiny_vit_encoder.layers[-1].attn
    tokens = torch.randn(2, 9, 32)
    change = (attention.qkv(tokens) - attention.qkv.base_layer(tokens)).unflatten(-1, (4, 3, 8)).abs().amax((0, 1))
    assert change[:, 1].max() == 0
    assert (change[:, [0, 2]] > 0).all()


def test_lora_adapts_every_linear_layer(tiny_vit_encoder):
    named = tiny_vit_encoder.backbone.named_modules()
    linear = {name for name, module in named if isinstance(module, nn.Linear)}
    assert linear
    assert all(name.endswith(tiny_vit_encoder.default_lora_targets) for name in linear)


def test_plain_peft_reads_a_saved_adapter(tiny_vit_encoder, tmp_path):
    plain = copy.deepcopy(tiny_vit_encoder)
    add_lora(tiny_vit_encoder, qkv_parts="qv")
    tiny_vit_encoder.train()(torch.rand(2, 1, 64, 64)).image_embeddings.square().mean().backward()
    torch.optim.SGD(tiny_vit_encoder.parameters(), lr=1.0).step()
    save_adapter(tiny_vit_encoder, tmp_path)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        before = plain(images).image_embeddings
        plain.backbone = PeftModel.from_pretrained(plain.backbone, str(tmp_path))
        found, expected = (encoder.eval()(images).image_embeddings for encoder in (plain, tiny_vit_encoder))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert (found - before).abs().max() > 1e-4


@pytest.mark.parametrize(
    "options", [{}, {"tuning": "full"}, {"decoder": "sam", "decoder_lora": True}, {"qkv_parts": "qv"}]
)
def test_a_teacher_trains_and_survives_its_folder(small_record, tmp_path, options):
    if "qkv_parts" in options:
        options = {**options, "target_modules": ["attn.qkv"]}
    teacher = build(encoder=small_record.name, **options)
    teacher.train()(IMAGES).square().mean().backward()
    unused = [name for name, value in teacher.named_parameters() if value.requires_grad and value.grad is None]
    assert unused == []
    save_teacher(take_a_step(teacher), tmp_path, task_hash=TASK)
    loaded = load_teacher(tmp_path, task_hash=TASK)
    torch.testing.assert_close(logits(loaded), logits(teacher), atol=1e-5, rtol=1e-5)


def test_the_default_dimensions_are_those_of_the_published_encoder():
    with torch.device("meta"):
        backbone = TinyVitArchitecture().build(256, HALF, HALF).backbone
    assert sum(value.numel() for value in backbone.parameters()) == PARAMETERS


def test_a_file_without_an_image_encoder_is_refused():
    with pytest.raises(ValueError, match=r"LiteMedSAM's image encoder .* in other\.pth, found entries such as head"):
        TINY_VIT.backbone_entries({"head": torch.ones(1)}, "other.pth")


def test_entries_of_other_parts_and_counters_are_dropped_and_unknown_ones_kept():
    names = ["image_encoder.a", "image_encoder.bn.num_batches_tracked", "mask_decoder.b", "prompt_encoder.c", "other"]
    state = {name: torch.ones(1) for name in names}
    assert TINY_VIT.backbone_entries(state, "file").keys() == {"a", "other"}
