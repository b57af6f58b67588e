from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.students import STUDENTS, build_student, student_size


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_have_the_size_of_the_images(name: str, channels: int) -> None:
    network = build_student(name, channels, 5).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, channels, 40, 24)).shape == (2, 5, 40, 24)


@pytest.mark.parametrize(("name", "millions"), [("compact_unet_small", 0.2), ("compact_unet_base", 1.6)])
def test_sizes_are_what_the_comments_say(name: str, millions: float) -> None:
    count = sum(parameter.numel() for parameter in build_student(name, 1, 5).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("name", STUDENTS)
def test_the_feature_layer_is_the_deepest(name: str) -> None:
    size, network = student_size(name), build_student(name, 1, 2)
    shapes: dict[str, torch.Size] = {}
    for layer, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, layer=layer: shapes.update({layer: output.shape}))
    network(torch.rand(1, 1, 64, 48))
    assert shapes[size.feature_layer] == (1, size.feature_channels, 8, 6)
    assert min(shape[-1] for shape in shapes.values()) == 6  # nothing is at a lower resolution
    parent = size.feature_layer.rsplit(".", 2)[0]
    assert shapes[parent][-1] == 12  # and the level above is at a higher one


@pytest.mark.parametrize("training", [False, True])
def test_an_image_is_segmented_alike_alone_and_in_a_batch(training: bool) -> None:
    torch.manual_seed(0)
    network = build_student("compact_unet_small", 1, 3).train(training)
    images = torch.rand(3, 1, 32, 32) * torch.tensor([1.0, 20.0, 0.1]).reshape(3, 1, 1, 1)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_every_parameter_learns() -> None:
    network = build_student("compact_unet_small", 1, 3)
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    # A bias in front of a norm cancels out, so a gradient of nothing but rounding is right there.
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_the_seed_decides_the_weights() -> None:
    def first_weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(build_student("compact_unet_small", 1, 2).parameters())

    assert torch.equal(first_weight(1), first_weight(1)) and not torch.equal(first_weight(1), first_weight(2))


def test_an_unknown_name_lists_the_known_ones() -> None:
    expected = r"a student among \['compact_unet_base', 'compact_unet_small'\], found unet"
    with pytest.raises(ValueError, match=expected):
        student_size("unet")
    with pytest.raises(ValueError, match=expected):
        build_student("unet", 1, 2)
