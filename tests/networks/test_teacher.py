"""Teachers: built from a config, trained, saved, loaded; anything that does not belong together is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tskd_monai.networks.lora import base_encoder_sha256, merge_lora
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.segmenter import VfmSegmenter
from tskd_monai.networks.teacher import build_teacher, load_teacher, read_teacher_record, save_teacher

TASK = "a" * 64
IMAGES = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))


def build(decoder: str = "light", seed: int = 3, weights: object = "random", tuning: str = "lora") -> VfmSegmenter:
    return build_teacher(
        encoder="sam_demo",
        encoder_weights=weights,
        image_size=(32, 48),
        num_classes=3,
        decoder=decoder,
        tuning=tuning,
        rank=2,
        seed=seed,
    )


def take_a_step(segmenter: VfmSegmenter) -> VfmSegmenter:
    optimiser = torch.optim.AdamW([value for value in segmenter.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        segmenter(IMAGES).square().mean().backward()
        optimiser.step()
    return segmenter.eval()


def logits(segmenter: VfmSegmenter) -> torch.Tensor:
    with torch.no_grad():
        return segmenter(IMAGES)


@pytest.mark.parametrize("tuning", ["lora", "full", "decoder"])
@pytest.mark.parametrize("decoder", ["light", "sam"])
def test_a_trained_teacher_survives_its_folder(tmp_path, decoder, tuning):
    teacher = take_a_step(build(decoder, tuning=tuning))
    save_teacher(teacher, tmp_path, task_hash=TASK, record={"val_mean_dice": 0.5})
    loaded = load_teacher(tmp_path, task_hash=TASK)
    assert torch.equal(logits(loaded), logits(teacher))
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())
    assert read_teacher_record(tmp_path)["record"] == {"val_mean_dice": 0.5}
    assert (tmp_path / "adapter").exists() == (tuning == "lora")


def test_training_leaves_the_base_encoder_alone():
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


def test_every_trainable_parameter_gets_a_gradient():
    for decoder in ("light", "sam"):
        teacher = build(decoder)
        teacher(IMAGES).square().mean().backward()
        assert [name for name, value in teacher.named_parameters() if value.requires_grad and value.grad is None] == []


def test_a_loaded_teacher_can_be_trained_and_saved_again(tmp_path):
    save_teacher(take_a_step(build()), tmp_path, task_hash=TASK)
    again = take_a_step(load_teacher(tmp_path, trainable=True))
    save_teacher(again, tmp_path, task_hash=TASK)
    assert torch.equal(logits(load_teacher(tmp_path)), logits(again))


def test_weights_that_moved_are_found_by_hash_and_others_refused(tmp_path):
    backbone = build_encoder("sam_demo", "random", 128, seed=9).backbone
    state = {f"vision_encoder.{name}": value for name, value in backbone.state_dict().items()}
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    save_file(state, here)
    teacher = take_a_step(build(weights=here))
    save_teacher(teacher, tmp_path / "teacher", task_hash=TASK)
    here.rename(there)
    with pytest.raises(
        FileNotFoundError, match=r"needs the sam_demo weights .*here\.safetensors.* pass encoder_weights"
    ):
        load_teacher(tmp_path / "teacher")
    assert torch.equal(logits(load_teacher(tmp_path / "teacher", there)), logits(teacher))
    state["vision_encoder.pos_embed"] = state["vision_encoder.pos_embed"] + 1
    save_file(state, there)
    with pytest.raises(ValueError, match=r"trained on sam_demo weights with sha256 .*, found .*pass encoder_weights"):
        load_teacher(tmp_path / "teacher", there)


def test_a_teacher_of_another_task_is_refused(tmp_path):
    save_teacher(build(), tmp_path, task_hash=TASK)
    with pytest.raises(ValueError, match="was trained for task aaaaaaaaaaaa, this is task bbbbbbbbbbbb"):
        load_teacher(tmp_path, task_hash="b" * 64)


def test_files_of_two_savings_are_refused(tmp_path):
    save_teacher(build(seed=1), tmp_path / "one", task_hash=TASK)
    save_teacher(build(seed=2), tmp_path / "two", task_hash=TASK)
    (tmp_path / "one" / "decoder.safetensors").replace(tmp_path / "two" / "decoder.safetensors")
    with pytest.raises(ValueError, match="the files are not of one saving"):
        load_teacher(tmp_path / "two")


def test_a_random_encoder_that_comes_out_differently_is_refused(tmp_path):
    save_teacher(build(seed=1), tmp_path, task_hash=TASK)
    content = json.loads((tmp_path / "teacher.json").read_text())
    content["spec"]["seed"] = 2
    (tmp_path / "teacher.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="differs from the one trained on"):
        load_teacher(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected teacher\.json in the teacher folder"):
        load_teacher(tmp_path)


def test_a_merged_teacher_cannot_be_saved(tmp_path):
    teacher = build()
    merge_lora(teacher.encoder)
    with pytest.raises(ValueError, match="found it merged; save before merging"):
        save_teacher(teacher, tmp_path, task_hash=TASK)


def test_an_unknown_decoder_is_refused():
    with pytest.raises(ValueError, match="decoder to be one of light, sam, found 'unet'"):
        build(decoder="unet")
