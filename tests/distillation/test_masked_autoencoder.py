from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.distillation import masked_autoencoder as module
from tskd_monai.distillation.masked_autoencoder import VitMaskedAutoencoder, draw_mask, masked_autoencoder
from tskd_monai.losses.masked_reconstruction import MaskedReconstructionLoss
from tskd_monai.networks.students import build_student

SIZE = (64, 48)
NAMES = ("compact_unet_small", "planned_unet", "vit_tiny")


def autoencoder(name: str, channels: int = 1, mask_ratio: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    return masked_autoencoder(build_student(name, channels, 3, SIZE), name, channels, mask_ratio)


def at_pixels(mask: Tensor) -> Tensor:
    return F.interpolate(mask, scale_factor=16.0, mode="nearest")


@pytest.mark.parametrize(("ratio", "masked"), [(0.75, 9), (0.6, 7), (0.001, 1), (0.999, 11)])
def test_every_image_has_the_same_fraction_masked(ratio: float, masked: int) -> None:
    mask = draw_mask(5, 12, ratio, torch.device("cpu"))
    assert mask.sum(dim=1).tolist() == [masked] * 5
    assert len({tuple(row.tolist()) for row in mask}) > 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(name: str, channels: int) -> None:
    images = torch.rand(2, channels, *SIZE)
    outputs = autoencoder(name, channels)(images)
    assert outputs["reconstruction"].shape == images.shape and torch.equal(outputs["images"], images)
    assert outputs["mask"].shape == (2, 1, 4, 3)
    assert outputs["mask"].mean() == {"vit_tiny": 9 / 12}.get(name, pytest.approx(7 / 12))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_of_masked_patches_are_never_seen(name: str) -> None:
    network, images = autoencoder(name).eval(), torch.rand(2, 1, *SIZE)
    with torch.no_grad():
        torch.manual_seed(1)
        first = network(images)
        hidden = at_pixels(first["mask"])
        others = images * (1 - hidden) + hidden * torch.rand(images.shape)
        torch.manual_seed(1)
        second = network(others)
        torch.manual_seed(1)
        third = network(images + 0.1 * (1 - hidden))
    assert torch.equal(first["mask"], second["mask"])
    torch.testing.assert_close(first["reconstruction"], second["reconstruction"])
    assert (first["reconstruction"] - third["reconstruction"]).abs().max() > 1e-5


def test_a_vit_without_a_mask_encodes_as_the_student_does() -> None:
    network, images = autoencoder("vit_tiny").eval(), torch.rand(2, 1, *SIZE)
    assert isinstance(network, VitMaskedAutoencoder)
    with torch.no_grad():
        tokens = network.encode_visible(images, torch.zeros(2, 12, dtype=torch.bool))
        expected = network.network.encoder(images).image_embeddings.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


def test_each_reconstructed_patch_is_at_its_predicted_position(monkeypatch: pytest.MonkeyPatch) -> None:
    network = autoencoder("vit_tiny").eval()
    numbers = torch.arange(12.0).reshape(1, 12, 1).expand(1, 12, 256)
    monkeypatch.setattr(network, "decode", lambda tokens, mask: numbers)
    with torch.no_grad():
        reconstruction = network(torch.rand(1, 1, *SIZE))["reconstruction"]
    assert torch.equal(reconstruction[0, 0, ::16, ::16], torch.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize("name", NAMES)
def test_what_learns_gets_a_gradient_and_the_rest_is_frozen(name: str) -> None:
    network = autoencoder(name)
    MaskedReconstructionLoss()(network(torch.rand(2, 1, *SIZE))).backward()
    learning = {key: value for key, value in network.named_parameters() if value.requires_grad}
    assert [key for key, value in learning.items() if value.grad is None] == []
    frozen = {key.split(".")[1] for key, value in network.named_parameters() if not value.requires_grad}
    assert frozen <= {"decoder", "model", "upsamples", "output_block", "skip_layers"} and frozen


@pytest.mark.parametrize("name", ["compact_unet_small", "vit_tiny"])
def test_training_lowers_the_loss(name: str) -> None:
    network, loss = autoencoder(name), MaskedReconstructionLoss()
    rows, columns = torch.meshgrid(torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij")
    images = torch.stack([rows, columns, rows * columns, 1 - rows])[:, None]
    optimizer = torch.optim.AdamW([value for value in network.parameters() if value.requires_grad], lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(network(images))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_ratio_outside_of_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="--mask_ratio between 0 and 1, found 1.5"):
        autoencoder("vit_tiny", mask_ratio=1.5)


def test_the_papers_ratio_is_the_vits() -> None:
    assert module.VIT_MASK_RATIO == 0.75 and autoencoder("vit_tiny", mask_ratio=0.5).mask_ratio == 0.5
