"""Teacher networks: encoder with decoder, their masks of thin structures, and any segmentation network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.lora import add_lora
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder
from tskd_monai.networks.teacher import SegmentationNetworkTeacher, VfmSegmenter


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


@pytest.fixture
def last_layers(encoder) -> VfmSegmenter:
    """A segmenter with LoRA in the last layer."""
    strides = {"feature_strides": encoder.feature_strides, "embed_stride": encoder.embed_stride}
    decoder = LightDecoder(encoder.feature_channels, encoder.embed_dim, 3, **strides)
    return VfmSegmenter(add_lora(encoder.requires_grad_(False), depth=1), decoder)


def test_the_state_after_the_frozen_layers_gives_the_same_logits_and_gradients(last_layers):
    images = torch.rand(2, 1, 64, 64)
    assert last_layers.frozen_layers == len(last_layers.encoder.layers) - 1
    state = last_layers.begin(images)
    assert not state.hidden.requires_grad
    results = []
    for arguments in ({}, {"state": state}):
        last_layers.zero_grad()
        logits = last_layers(images, **arguments)
        logits.square().mean().backward()
        results.append([logits, *(value.grad for value in last_layers.parameters() if value.requires_grad)])
    assert all(torch.equal(with_state, without) for without, with_state in zip(*results, strict=True))


def test_layers_that_are_all_frozen_or_all_trained(segmenter):
    assert segmenter.frozen_layers == 0
    segmenter.encoder.requires_grad_(False)
    assert segmenter.frozen_layers == 4
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(segmenter(images, segmenter.begin(images)), segmenter(images))


def test_what_is_frozen_stays_in_evaluation_mode(last_layers):
    for layer in last_layers.encoder.layers:
        layer.add_module("noise", nn.Dropout(0.5))
        layer.add_module("statistics", nn.BatchNorm2d(3).requires_grad_(False))
    last_layers.train()
    layers = last_layers.encoder.layers
    assert [layer.training for layer in layers] == [False] * (len(layers) - 1) + [True]
    assert [layer.noise.training for layer in layers] == [layer.training for layer in layers]
    assert not any(layer.statistics.training for layer in layers)  # the published statistics stay as they are
    assert last_layers.decoder.training
    last_layers.encoder.requires_grad_(True)
    last_layers.train()
    assert all(module.training for module in last_layers.encoder.modules())


def thin_lines() -> tuple[Tensor, Tensor]:
    """A noisy image with curves one and two pixels wide, and their mask, both ``(1, 1, 64, 64)``."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    wave = (32 + 20 * torch.sin(columns[0] / 7)).round()
    lines = (rows == wave) | (rows == columns) | ((columns + rows // 4) % 24 < 2)
    noise = 0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    return (0.3 + 0.4 * lines + noise).clamp(0, 1)[None, None], lines.float()[None, None]


def dice(predicted: Tensor, lines: Tensor) -> float:
    return float(2 * (predicted * lines).sum() / (predicted.sum() + lines.sum()))


def oracle_at_quarter_resolution(lines: Tensor) -> float:
    """The best Dice that the label itself, downsampled to a quarter and upsampled, reaches at any threshold."""
    blurred = F.interpolate(F.avg_pool2d(lines, 4), scale_factor=4, mode="bilinear")
    return max(dice((blurred > threshold).float(), lines) for threshold in torch.linspace(0.05, 0.95, 19))


def dice_after_fitting(segmenter: VfmSegmenter, steps: int = 40) -> float:
    image, lines = thin_lines()
    segmenter.encoder.requires_grad_(False)
    optimiser = torch.optim.Adam([value for value in segmenter.parameters() if value.requires_grad], lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(segmenter(image), lines[:, 0].long(), weight=torch.tensor([1.0, 3.0])).backward()
        optimiser.step()
    return dice(segmenter(image).argmax(dim=1, keepdim=True).float(), lines)


@pytest.mark.parametrize("decoder", ["light", "sam"])
def test_thin_structures_survive(sam_encoder, decoder):
    torch.manual_seed(0)
    if decoder == "light":
        segmenter = VfmSegmenter(sam_encoder, LightDecoder(sam_encoder.feature_channels, 64, 2))
    else:
        segmenter = VfmSegmenter(sam_encoder, SamMaskDecoder(64, 2))
    assert dice_after_fitting(segmenter) > oracle_at_quarter_resolution(thin_lines()[1]) + 0.15


def test_the_refinement_is_what_finds_them(sam_encoder):
    found = []
    for refine in (False, True):
        torch.manual_seed(0)
        found.append(dice_after_fitting(VfmSegmenter(sam_encoder, SamMaskDecoder(64, 2, refine=refine))))
    assert found[1] > found[0] + 0.1


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1, stride=2), nn.Conv2d(5, 3, 1), nn.Upsample(scale_factor=2))


def test_a_segmentation_network_gives_its_logits_and_one_layers_output(network: nn.Sequential) -> None:
    images = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    teacher = SegmentationNetworkTeacher(network, layer="0", feature_channels=5)
    logits, features = teacher.forward_with_embeddings(images)
    assert logits.shape == (2, 3, 16, 24) and features.shape == (2, 5, 8, 12)
    assert torch.equal(logits, network(images)) and torch.equal(features, network[0](images))
    assert torch.equal(teacher(images), logits)
    assert teacher.embed_dim == 5


def test_the_teachers_weights_are_the_networks(network: nn.Sequential) -> None:
    state = SegmentationNetworkTeacher(network, "0", 5).state_dict()
    assert [value.data_ptr() for value in state.values()] == [
        value.data_ptr() for value in network.state_dict().values()
    ]


def test_an_unknown_layer_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"Expected a layer of Sequential, found middle; it has \['0', '1', '2'\]"):
        SegmentationNetworkTeacher(network, "middle", 5)
