"""Promptable models: agreement with transformers, prompts in pixels at any size, files without a prompt encoder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamConfig, SamModel

from tests.networks.conftest import HALF, TINY_VIT
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.promptable import PromptableSegmenter, build_promptable, published_state
from tskd_monai.networks.sam_encoder import SamArchitecture

SIZE, WIDTH = 64, 64
SAM = SamArchitecture(32, 2, 2, global_layers=(1,), window_size=3, embed_dim=WIDTH)
BOXES = torch.tensor([[4.0, 8.5, 40.0, 50.0], [20.0, 3.0, 60.0, 30.0], [0.0, 0.0, 63.0, 63.0]])
POINTS = torch.tensor([[[10.0, 20.0], [50.0, 50.5]], [[30.0, 5.0], [0.0, 63.0]], [[32.0, 32.0], [1.0, 1.0]]])
POINT_LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]])
PROMPTS = {
    "boxes": {"boxes": BOXES},
    "points": {"points": POINTS, "point_labels": POINT_LABELS},
    "both": {"boxes": BOXES, "points": POINTS, "point_labels": POINT_LABELS},
}


@pytest.fixture
def sam(monkeypatch) -> EncoderRecord:
    """Registers a small SAM as a known encoder."""
    record = EncoderRecord("sam_small", SAM, SIZE, HALF, HALF, "Apache-2.0", "this test")
    monkeypatch.setitem(ENCODERS, record.name, record)
    return record


@pytest.fixture
def tiny(monkeypatch) -> PromptableSegmenter:
    """A promptable model on a small TinyViT with random weights, at a rectangular size."""
    record = EncoderRecord("tiny_vit_small", TINY_VIT, SIZE, HALF, HALF, "Apache-2.0", "this test")
    monkeypatch.setitem(ENCODERS, record.name, record)
    return build_promptable(record.name, "random", (32, 48), seed=1)


@pytest.fixture
def published(sam, tmp_path) -> SamModel:
    """The same small SAM in transformers, saved in a folder."""
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": SAM.hidden_size,
            "output_channels": WIDTH,
            "num_hidden_layers": SAM.depth,
            "num_attention_heads": SAM.num_heads,
            "image_size": SIZE,
            "window_size": SAM.window_size,
            "global_attn_indexes": list(SAM.global_layers),
            "num_pos_feats": WIDTH // 2,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIZE},
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 8 * WIDTH, "iou_head_hidden_dim": WIDTH, "layer_norm_eps": 1e-5
        },
    )  # fmt: skip
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "sam")
    return model


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_masks_are_those_of_transformers(published, sam, tmp_path, prompts):
    model = build_promptable(sam.name, tmp_path / "sam", SIZE)
    image = torch.rand(1, 3, SIZE, SIZE)
    renamed = {"boxes": "input_boxes", "points": "input_points", "point_labels": "input_labels"}
    with torch.no_grad():
        expected = published(
            pixel_values=model.encoder.normalise(image),
            multimask_output=False,
            **{renamed[name]: value[None] for name, value in prompts.items()},
        ).pred_masks[0, :, 0]
        found = model.low_res_logits(model.embed(image)[0], **prompts)
    assert found.shape == (3, SIZE // 4, SIZE // 4)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def masks(model: PromptableSegmenter, image: Tensor, boxes: Tensor) -> Tensor:
    with torch.no_grad():
        return model.masks(model.embed(image)[0], boxes)


def test_masks_have_image_size_and_do_not_depend_on_one_another(tiny):
    image, boxes = torch.rand(1, 1, 32, 48), BOXES / 2
    together = masks(tiny, image, boxes)
    assert together.shape == (3, 32, 48)
    one_by_one = torch.cat([masks(tiny, image, box[None]) for box in boxes])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_no_boxes_give_no_masks(tiny):
    assert masks(tiny, torch.rand(1, 1, 32, 48), torch.zeros(0, 4)).shape == (0, 32, 48)


def test_the_same_part_of_an_image_is_the_same_prompt_at_every_size(tiny):
    box = torch.tensor([[4.0, 5.0, 20.0, 25.0]])
    before = tiny._sparse_embeddings(box, None, None)
    tiny.encoder.resize_to((64, 144))
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(tiny._sparse_embeddings((box + 0.5) * scale - 0.5, None, None), before)
    assert (tiny._sparse_embeddings(box, None, None) - before).abs().max() > 0.1


def test_it_is_frozen_and_random_weights_follow_the_seed(tiny):
    assert not tiny.training
    assert not any(value.requires_grad for value in tiny.parameters())
    again, other = (build_promptable("tiny_vit_small", "random", (32, 48), seed=seed).state_dict() for seed in (1, 2))
    state = tiny.state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    name = "mask_decoder.mask_tokens.weight"
    assert not torch.equal(state[name], other[name])


def test_the_published_names_are_those_of_transformers_and_are_loaded_again(published, sam, tmp_path):
    model = build_promptable(sam.name, tmp_path / "sam", SIZE)
    state, expected = published_state(model), published.state_dict()
    assert state.keys() == expected.keys() - {"prompt_encoder.shared_embedding.positional_embedding"}
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "small.safetensors")
    again = build_promptable(sam.name, tmp_path / "small.safetensors", SIZE)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_several_images_and_masks_for_each_prompt(published, sam, tmp_path):
    model = build_promptable(sam.name, tmp_path / "sam", SIZE)
    images, boxes = torch.rand(2, 3, SIZE, SIZE), torch.stack([BOXES, BOXES.flip(0)])
    with torch.no_grad():
        found = model.decode(model.embed(images), model.prompt_encoder(None, None, boxes, None)[0], multimask=True)
        expected = published(pixel_values=model.encoder.normalise(images), input_boxes=boxes, multimask_output=True)
    assert found[0].shape == (2, 3, 3, SIZE // 4, SIZE // 4)
    torch.testing.assert_close(found[0], expected.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], expected.iou_scores, atol=1e-4, rtol=1e-4)


def test_random_positions_have_the_frequencies_of_sam(tiny):
    assert 0.7 < tiny.prompt_encoder.shared_embedding.positional_embedding.std() < 1.4


def test_a_file_of_an_encoder_only_is_refused(sam, tmp_path):
    path = tmp_path / "encoder.safetensors"
    backbone = build_encoder(sam.name, "random", SIZE).backbone
    save_file({f"vision_encoder.{name}": value.clone() for name, value in backbone.state_dict().items()}, path)
    with pytest.raises(ValueError, match=r"Expected a whole SAM .* in .*encoder\.safetensors, found only the image"):
        build_promptable(sam.name, path, SIZE)


@pytest.mark.parametrize("name", ["dinov2_vit_small", "sam2.1_hiera_tiny", "vit_tiny_patch16"])
def test_a_model_without_the_prompts_of_sam_is_refused(name):
    with pytest.raises(ValueError, match=rf"takes SAM's prompts \(sam_vit_base, .*sam_demo\), found {name}\.$"):
        build_promptable(name, "random", SIZE)


def test_an_incomplete_prompt_encoder_is_refused(published, sam, tmp_path):
    state = {name: value.clone() for name, value in published.state_dict().items()}
    del state["prompt_encoder.point_embed.2.weight"]
    save_file(state, tmp_path / "sam.safetensors")
    with pytest.raises(ValueError, match=r"sam\.safetensors do not fit SamPromptEncoder: missing point_embed\.2\.weig"):
        build_promptable(sam.name, tmp_path / "sam.safetensors", SIZE)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "Expected boxes or points as prompts, found neither"),
        ({"boxes": torch.zeros(4)}, r"boxes of shape \(N, 4\) as x1 y1 x2 y2, found \(4,\)"),
        ({"points": POINTS}, "points and point_labels together"),
        ({"points": POINTS, "point_labels": torch.ones(3)}, r"found \(3, 2, 2\) and \(3,\)"),
        ({**PROMPTS["points"], "boxes": BOXES[:2]}, "as many boxes as sets of points, found 2 and 3"),
    ],
)
def test_prompts_of_another_shape_are_refused(tiny, prompts, message):
    with pytest.raises(ValueError, match=message):
        tiny.low_res_logits(torch.zeros(64, 8, 12), **prompts)


def test_the_published_file_of_lite_medsam_is_loaded_whole(lite_medsam_weights):
    model = build_promptable("lite_medsam", lite_medsam_weights, 64)
    used = sum(value.numel() for value in model.parameters())
    state = torch.load(lite_medsam_weights, weights_only=True)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected = sum(value.numel() for name, value in state.items() if not name.endswith(statistics))
    assert used == expected


def test_the_shipped_model_outlines_a_disc_in_its_box():
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    disc = ((x - 50) / 30) ** 2 + ((y - 70) / 22) ** 2 < 1
    noise = 0.05 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[20.0, 48.0, 80.0, 92.0]])
    iou = {}
    for weights in ("shipped", "random"):
        model = build_promptable("sam_demo", weights, 128)
        found = masks(model, (torch.where(disc, 0.7, 0.3) + noise)[None, None], box)[0] > 0
        iou[weights] = (found & disc).sum() / (found | disc).sum()
    assert iou["shipped"] > 0.65
    assert iou["random"] < 0.4
