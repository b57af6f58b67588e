from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tskd_monai.networks.pretrained import load_encoder_weights
from tskd_monai.networks.students import build_student
from tskd_monai.networks.vit_student import vit_of


def test_the_encoder_has_the_published_weights_and_interpolated_positions(vit_tiny_weights: Path) -> None:
    network = vit_of(build_student("vit_tiny", 1, 3, (48, 32)))
    decoder = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    load_encoder_weights(network, vit_tiny_weights)
    published, own = load_file(vit_tiny_weights), network.encoder.backbone.state_dict()
    assert set(published) - set(own) == {"head.weight", "head.bias"}
    assert own["pos_embed"].shape == (1, 1 + 3 * 2, 192)
    for name in set(own) - {"pos_embed"}:
        assert torch.equal(own[name], published[name]), name
    torch.testing.assert_close(own["pos_embed"][:, 0], published["pos_embed"][:, 0])
    assert all(torch.equal(value, decoder[name]) for name, value in network.decoder.state_dict().items())


def test_grey_is_the_same_grey_in_three_channels() -> None:
    network = build_student("vit_tiny", 3, 2, (32, 32)).eval()
    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_a_trained_vit_can_be_traced() -> None:
    network, images = build_student("vit_tiny", 1, 2, (32, 32)).eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(network, images[:1])
        torch.testing.assert_close(traced(images), network(images), rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected images of 32x32 pixels, found 48x32"):
        build_student("vit_tiny", 1, 2, (32, 32))(torch.rand(1, 1, 48, 32))


def test_published_weights_for_a_unet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the student vit_tiny for --encoder_weights, found a UNet, .*leave"):
        load_encoder_weights(build_student("compact_unet_small", 1, 2, (32, 32)), tmp_path / "vit.safetensors")


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    network = vit_of(build_student("vit_tiny", 1, 2, (224, 224)))
    state = network.encoder.backbone.state_dict()
    state.pop("norm.bias")
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match="do not fit PlainVit: missing norm.bias"):
        load_encoder_weights(network, tmp_path / "vit.safetensors")


@pytest.mark.parametrize(
    ("channels", "image_size", "message"),
    [(2, (32, 32), "1 or 3 channels for a ViT, found in_channels=2"), (1, (40, 32), "multiples of 16 up to 1024")],
)
def test_what_a_vit_cannot_take_is_refused(channels: int, image_size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student("vit_tiny", channels, 2, image_size)
