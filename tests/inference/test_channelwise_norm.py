"""GroupNorm decomposed for the exported graphs."""

from __future__ import annotations

import torch
from torch import nn

from tskd_monai.inference.export import ChannelwiseGroupNorm, with_channelwise_norms


def group_norm() -> nn.GroupNorm:
    torch.manual_seed(0)
    norm = nn.GroupNorm(3, 12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def test_it_computes_what_group_norm_does() -> None:
    norm = group_norm()
    maps = torch.randn(2, 12, 5, 7) * torch.arange(1.0, 13.0)[:, None, None] + 30
    torch.testing.assert_close(ChannelwiseGroupNorm(norm)(maps), norm(maps), rtol=1e-4, atol=1e-4)


def test_a_constant_image_gives_the_bias() -> None:
    norm = group_norm()
    maps = torch.full((1, 12, 4, 4), 7.0)
    torch.testing.assert_close(
        ChannelwiseGroupNorm(norm)(maps), norm.bias[None, :, None, None].expand(1, 12, 4, 4), rtol=0, atol=1e-3
    )


def test_every_group_norm_is_replaced_in_a_copy() -> None:
    network = nn.Sequential(nn.Conv2d(1, 12, 3), nn.Sequential(group_norm(), nn.GELU()))
    written_out = with_channelwise_norms(network)
    assert isinstance(network[1][0], nn.GroupNorm)
    assert not any(isinstance(module, nn.GroupNorm) for module in written_out.modules())
    images = torch.rand(2, 1, 9, 9)
    torch.testing.assert_close(written_out(images), network(images))
