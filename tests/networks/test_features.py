from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tskd_monai.networks.features import FeatureProjection, LayerFeatures
from tskd_monai.networks.students import STUDENTS, build_student, student_size

GRIDS = {"unet_large": (2, 3), "vit_tiny": (2, 3)}  # of the distilled layer; an eighth of the image by default


class TwoPaths(nn.Module):
    """Runs its second layer only on request."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes, self.run_both = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1), True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.always(images)
        return self.sometimes(hidden) if self.run_both else hidden


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", STUDENTS)
def test_shapes(images: torch.Tensor, name: str) -> None:
    size = student_size(name)
    projected = FeatureProjection(build_student(name, 1, 3, (32, 48)), size.feature_layer, size.feature_channels, 20)
    outputs = projected(images)
    assert set(outputs) == {"logits", "features"}
    assert outputs["logits"].shape == (2, 3, 32, 48) and outputs["features"].shape == (2, 20, *GRIDS.get(name, (4, 6)))


def test_a_layers_output_comes_with_the_logits_and_leaves_them_as_they_are(images: torch.Tensor) -> None:
    network = TwoPaths()
    logits, features = LayerFeatures(network, "always")(images)
    assert logits.shape == (2, 6, 32, 48) and features.shape == (2, 4, 32, 48)
    assert torch.equal(features, network.always(images)) and torch.equal(logits, network(images))


def test_features_are_the_projected_output_of_the_layer(images: torch.Tensor) -> None:
    network = TwoPaths()
    projected = FeatureProjection(network, "always", 4, 7)
    expected = projected.projection(network.always(images))
    assert torch.equal(projected(images)["features"], expected)


def test_the_student_gives_the_same_logits_without_the_projection(images: torch.Tensor) -> None:
    network = build_student("compact_unet_small", 1, 3, (32, 48)).eval()
    with torch.no_grad():
        before = network(images)
        projected = FeatureProjection(network, student_size("compact_unet_small").feature_layer, 128, 9).eval()
        assert torch.equal(projected(images)["logits"], before)
        assert torch.equal(network(images), before)
    assert set(network.state_dict()) == set(build_student("compact_unet_small", 1, 3, (32, 48)).state_dict())
    assert set(projected.state_dict()) == {f"student.network.{name}" for name in network.state_dict()} | {
        "projection.weight",
        "projection.bias",
    }


def test_the_feature_loss_trains_encoder_and_projection_but_no_later_layer(images: torch.Tensor) -> None:
    network = TwoPaths()
    projected = FeatureProjection(network, "always", 4, 7)
    projected(images)["features"].square().mean().backward()
    assert network.always.weight.grad.abs().sum() > 0 and projected.projection.weight.grad.abs().sum() > 0
    assert network.sometimes.weight.grad is None


def test_a_copy_takes_its_own_features(images: torch.Tensor) -> None:
    original = FeatureProjection(TwoPaths(), "always", 4, 7)
    duplicate = copy.deepcopy(original)
    with torch.no_grad():
        duplicate.student.network.always.weight.zero_()
        duplicate.student.network.always.bias.zero_()
        features = duplicate(images)["features"]
    assert torch.equal(features, duplicate.projection.bias.detach().reshape(1, 7, 1, 1).expand_as(features))
    assert original(images)["features"].std() > 0


def test_features_of_a_former_image_are_never_given(images: torch.Tensor) -> None:
    projected = FeatureProjection(TwoPaths(), "sometimes", 6, 7)
    projected(images)
    projected.student.network.run_both = False
    with pytest.raises(RuntimeError, match="feature layer to run in the network's forward pass; it did not"):
        projected(images)


def test_an_unknown_layer_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"a layer of TwoPaths, found deepest; it has \['always', 'sometimes'\]"):
        FeatureProjection(TwoPaths(), "deepest", 4, 7)
