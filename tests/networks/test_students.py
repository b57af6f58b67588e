"""Students by name: their layers and sizes, and the code that a bundle with one of them carries."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import pytest
import torch

from tskd_monai.bundle.zoo.bundle import SOURCE, config_sources, needed_code
from tskd_monai.networks.students import (
    NETWORK_OF_TASK,
    STUDENTS,
    build_student,
    network_definition,
    student_modules,
    student_size,
)

MILLIONS = {
    "compact_unet_small": 0.2,
    "compact_unet_base": 1.6,
    "coord_unet_small": 0.2,
    "unet_large": 7.3,
    "planned_unet": 20.6,
    "vit_tiny": 5.9,
}
FEATURE_STRIDES = {"unet_large": 16, "vit_tiny": 16}
SIZE = (48, 32)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_the_size_of_the_images(name: str, channels: int) -> None:
    network = build_student(name, channels, 5, SIZE).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, channels, *SIZE)).shape == (2, 5, *SIZE)


@pytest.mark.parametrize("name", STUDENTS)
def test_sizes_are_what_the_comments_say(name: str) -> None:
    count = sum(parameter.numel() for parameter in build_student(name, 1, 5, (128, 128)).parameters())
    assert round(count / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_feature_layer_is_at_an_eighth_or_a_sixteenth(name: str) -> None:
    size, network = student_size(name), build_student(name, 1, 2, SIZE)
    shapes: list[torch.Size] = []
    layer = dict(network.named_modules(remove_duplicate=False))[size.feature_layer]
    layer.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    network(torch.rand(1, 1, *SIZE))
    stride = FEATURE_STRIDES.get(name, 8)
    assert shapes == [(1, size.feature_channels, SIZE[0] // stride, SIZE[1] // stride)]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_encoder_ends_at_the_deepest_layer_with_the_students_own_weights(name: str) -> None:
    network = build_student(name, 1, 2, SIZE)
    part = student_size(name).encoder(network)
    features = part.module(torch.rand(2, 1, *SIZE))
    stride = FEATURE_STRIDES.get(name, 8)
    assert features.shape == (2, part.channels, SIZE[0] // stride, SIZE[1] // stride)
    own = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in part.module.parameters()} < own


@pytest.mark.parametrize("name", ["compact_unet_small", "unet_large", "planned_unet"])
def test_the_trunk_lacks_only_the_last_block(name: str) -> None:
    network = build_student(name, 1, 2, SIZE)
    part = student_size(name).trunk(network)
    assert part.module(torch.rand(2, 1, *SIZE)).shape == (2, part.channels, SIZE[0] // 2, SIZE[1] // 2)
    inside = {id(parameter) for parameter in part.module.parameters()}
    outside = {name for name, parameter in network.named_parameters() if id(parameter) not in inside}
    last = ("model.2.",) if name != "planned_unet" else ("upsamples.2.", "output_block.")
    assert outside and all(name.startswith(last) for name in outside)


def test_state_dicts_of_published_students_keep_their_names() -> None:
    unit = "model.0.conv.unit0"
    names = list(build_student("compact_unet_small", 1, 2, SIZE).state_dict())
    assert len(names) == 46
    assert names[:3] == [f"{unit}.conv.weight", f"{unit}.conv.bias", f"{unit}.adn.N.weight"]
    assert names[-1] == "model.2.1.conv.unit0.conv.bias"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["compact_unet_small", "planned_unet", "vit_tiny"])
def test_an_image_is_segmented_alike_singly_and_in_a_batch(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = build_student(name, 1, 3, (32, 32)).train(training)
    images = torch.rand(3, 1, 32, 32) * torch.tensor([1.0, 20.0, 0.1]).reshape(3, 1, 1, 1)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", STUDENTS)
def test_every_parameter_learns(name: str) -> None:
    network = build_student(name, 1, 3, SIZE)
    network(torch.rand(2, 1, *SIZE)).square().mean().backward()
    # A bias in front of a norm cancels out, so its gradient may be pure rounding error.
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", STUDENTS)
def test_the_seed_determines_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in build_student(name, 1, 2, SIZE).parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_an_unknown_name_lists_the_known_ones() -> None:
    expected = r"a student among \['compact_unet_base', 'compact_unet_small', .*\], found unet"
    with pytest.raises(ValueError, match=expected):
        student_size("unet")
    with pytest.raises(ValueError, match=expected):
        build_student("unet", 1, 2, SIZE)


def test_an_image_size_that_cannot_be_halved_as_often_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16 for a U-Net of 5 levels, found \(40, 32\)"):
        build_student("unet_large", 1, 2, (40, 32))


def test_every_size_has_a_name() -> None:
    assert {name: module for module in student_modules() for name in import_module(module).SIZES} == STUDENTS


def needed_networks(student: str | None) -> set[str]:
    """The files of `networks` that a segmentation bundle with this student, or the template of all, carries."""
    texts = [path.read_text(encoding="utf-8") for path in config_sources("segmentation", student)]
    texts.append(json.dumps(network_definition(student, 1, 2, SIZE) if student else NETWORK_OF_TASK))
    return {path.stem for path in needed_code(texts, student) if path.parent == SOURCE / "networks"}


@pytest.mark.parametrize("student", ["compact_unet_small", "planned_unet"])
def test_a_bundle_with_a_unet_carries_no_code_of_foundation_models(student: str) -> None:
    foreign = ("sam_", "encoder", "vit", "lora", "adapter", "teacher", "pretrained", "light_decoder")
    assert {name for name in needed_networks(student) if any(part in name for part in foreign)} == set()
    assert not {"students", "unets"} & needed_networks(student)  # MONAI has the network


def test_a_bundle_with_a_vit_carries_no_code_of_teachers() -> None:
    foreign = ("sam_", "encoder_records", "lora", "adapter", "teacher", "pretrained", "unets")
    assert {name for name in needed_networks("vit_tiny") if any(part in name for part in foreign)} == set()
    assert {"vit_student", "plain_vit", "light_decoder"} <= needed_networks("vit_tiny")


def test_a_template_carries_the_code_of_every_student() -> None:
    assert needed_networks("vit_tiny") | {"unets", "coord_unet"} == needed_networks(None)


def test_a_student_whose_code_a_bundle_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDENTS, "vit_tiny", "tskd_monai.networks.left_out")
    with pytest.raises(ValueError, match="whose code this bundle contains, found vit_tiny"):
        student_size("vit_tiny")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tskd_monai.networks.vit_student", raising=False)
    monkeypatch.setitem(sys.modules, "tskd_monai.networks.plain_vit", None)
    with pytest.raises(ModuleNotFoundError, match="plain_vit"):
        student_size("vit_tiny")
