from __future__ import annotations

import pytest
import torch
from torch import nn

from tskd_monai.networks.teacher import SegmentationNetworkTeacher


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1, stride=2), nn.Conv2d(5, 3, 1), nn.Upsample(scale_factor=2))


def test_it_gives_the_networks_logits_and_one_layers_output(network: nn.Sequential) -> None:
    images = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    teacher = SegmentationNetworkTeacher(network, layer="0", feature_channels=5)
    logits, features = teacher.forward_with_embeddings(images)
    assert logits.shape == (2, 3, 16, 24) and features.shape == (2, 5, 8, 12)
    assert torch.equal(logits, network(images)) and torch.equal(features, network[0](images))
    assert torch.equal(teacher(images), logits)
    assert teacher.embed_dim == 5


def test_its_weights_are_the_networks(network: nn.Sequential) -> None:
    state = SegmentationNetworkTeacher(network, "0", 5).state_dict()
    assert [value.data_ptr() for value in state.values()] == [
        value.data_ptr() for value in network.state_dict().values()
    ]


def test_an_unknown_layer_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(ValueError, match=r"Expected a layer of Sequential, found middle; it has \['0', '1', '2'\]"):
        SegmentationNetworkTeacher(network, "middle", 5)
