"""The light decoder: shapes, detail below a patch, gradients."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.encoders import EncoderOutput
from tskd_monai.networks.light_decoder import LightDecoder


@pytest.fixture
def decoder() -> LightDecoder:
    torch.manual_seed(0)
    return LightDecoder((32, 32), 16, num_classes=3, widths=(16, 16, 8, 8, 8))


def encoded(height: int, width: int, batch: int = 2) -> EncoderOutput:
    grid = (height // 16, width // 16)
    return EncoderOutput(torch.rand(batch, 16, *grid), tuple(torch.rand(batch, 32, *grid) for _ in range(2)))


def test_logits_have_image_size(decoder):
    assert decoder(encoded(48, 80), torch.rand(2, 3, 48, 80)).shape == (2, 3, 48, 80)


def test_a_single_pixel_reaches_the_logits(decoder):
    output, images = encoded(48, 48, batch=1), torch.zeros(1, 3, 48, 48)
    brighter = images.clone()
    brighter[..., 20, 20] = 5
    change = (decoder(output, brighter) - decoder(output, images)).abs().amax(dim=(0, 1))
    assert change[20, 20] > 3 * change[:8, :8].max()


def test_every_parameter_gets_a_gradient_from_frozen_channels_last_features(decoder):
    output = EncoderOutput(
        *(
            part.contiguous(memory_format=torch.channels_last)
            if isinstance(part, torch.Tensor)
            else tuple(entry.contiguous(memory_format=torch.channels_last) for entry in part)
            for part in encoded(32, 32)
        )
    )
    decoder(output, torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in decoder.parameters())


def test_the_default_is_light():
    decoder = LightDecoder((192,) * 4, 192, num_classes=5)
    assert sum(value.numel() for value in decoder.parameters()) < 1_000_000


@pytest.mark.parametrize("strides", [(16, 16, 16), (4, 8, 16), (4, 8, 8), (8, 16, 8), (4, 4, 4), (16, 4, 16)])
def test_features_join_at_their_own_stride(strides):
    *features, embedding = [torch.rand(2, 24, 48 // stride, 96 // stride) for stride in strides]
    decoder = LightDecoder(
        (24, 24), 24, num_classes=3, widths=(16, 16, 8, 8, 8), feature_strides=strides[:2], embed_stride=strides[2]
    )
    logits = decoder(EncoderOutput(embedding, tuple(features)), torch.rand(2, 3, 48, 96))
    assert logits.shape == (2, 3, 48, 96)
    logits.square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in decoder.parameters())


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match=r"strides out of \(16, 8, 4\), found \(14, 16\)"):
        LightDecoder((8,), 8, num_classes=2, feature_strides=(14,))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes, background included, found num_classes=1"):
        LightDecoder((8,), 8, num_classes=1)


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="multiples of 8, found"):
        LightDecoder((8,), 8, num_classes=2, widths=(16, 16, 8, 8, 6))
