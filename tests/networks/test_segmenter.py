"""Encoder and decoder put together."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder
from tskd_monai.networks.segmenter import VfmSegmenter


@pytest.fixture(params=["light", "sam"])
def segmenter(request, sam_encoder) -> VfmSegmenter:
    if request.param == "sam":
        return VfmSegmenter(sam_encoder, SamMaskDecoder(64, 3)).eval()
    return VfmSegmenter(sam_encoder, LightDecoder(sam_encoder.feature_channels, 64, 3)).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_and_embeddings_have_their_shapes(segmenter, channels):
    logits, embeddings = segmenter.forward_with_embeddings(torch.rand(2, channels, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    assert embeddings.shape == (2, 64, 4, 4)


def test_forward_gives_the_same_logits(segmenter):
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(segmenter(images), segmenter.forward_with_embeddings(images)[0])


def test_another_image_size_is_refused(segmenter):
    with pytest.raises(ValueError, match="Expected images of 64x64 pixels, found 96x96"):
        segmenter(torch.rand(1, 1, 96, 96))
