"""Momentum contrast: training of an encoder to match two views of an image.

Source: Chen et al. 2021 (MoCo v3, An Empirical Study of Training Self-Supervised Vision Transformers).
"""

from __future__ import annotations

import copy
import math

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from tskd_monai.networks.features import NetworkPart, train_only
from tskd_monai.networks.students import student_size
from tskd_monai.networks.vit_student import VitStudent

HIDDEN_CHANNELS = 512
OUT_CHANNELS = 128


class MomentumContrast(nn.Module):
    """Queries of both views from the trained encoder, and keys from the momentum encoder.

    Args:
        network: student; everything outside of its encoder is frozen. A ViT's patch projection keeps its random
            weights, as in the paper, because training is unstable otherwise.
        encoder: encoder of the student.
    """

    def __init__(self, network: nn.Module, encoder: NetworkPart) -> None:
        super().__init__()
        train_only(network, encoder.module)
        if isinstance(network, VitStudent):
            network.encoder.backbone.patch_embed.requires_grad_(False)
        self.network = network
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.encoder = nn.Sequential(encoder.module, *pooled, _mlp(encoder.channels, layers=3))
        self.predictor = _mlp(OUT_CHANNELS, layers=2)
        self.momentum_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Returns `queries` and `keys` (B, 2, D) of two views of each image, (B, 2, C, H, W)."""
        images = views.flatten(0, 1)
        queries = self.predictor(self.encoder(images))
        with torch.no_grad():
            keys = self.momentum_encoder(images)
        return {"queries": queries.unflatten(0, (-1, 2)), "keys": keys.unflatten(0, (-1, 2))}

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """Moves the momentum encoder towards the encoder: ``w' = momentum * w' + (1 - momentum) * w``."""
        followers, leaders = self.momentum_encoder.parameters(), self.encoder.parameters()
        for follower, leader in zip(followers, leaders, strict=True):
            follower.lerp_(leader, 1 - momentum)


def momentum_contrast(network: nn.Module, student: str) -> MomentumContrast:
    """Returns the momentum contrast of a student; training it trains the weights of the student's encoder.

    Args:
        network: student.
        student: name of the student.
    """
    return MomentumContrast(network, student_size(student).encoder(network))


def _mlp(in_channels: int, layers: int) -> nn.Sequential:
    """Returns linear layers with batch norm and ReLU between them; as in the paper, the last norm has no affine."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(in_channels, HIDDEN_CHANNELS, bias=False), nn.BatchNorm1d(HIDDEN_CHANNELS), nn.ReLU()]
        in_channels = HIDDEN_CHANNELS
    last = nn.Linear(in_channels, OUT_CHANNELS, bias=False)
    return nn.Sequential(*parts, last, nn.BatchNorm1d(OUT_CHANNELS, affine=False))


class MomentumUpdate:
    """Updates a momentum encoder after each step; the momentum rises to 1 along half a cosine.

    It has no state: the step is the trainer's, and the network's checkpoint contains the momentum encoder.

    Args:
        network: network with the momentum encoder.
        steps: steps of the whole training run.
        start: momentum of the first step, 0 to 1.

    Raises:
        ValueError: when the start is outside of 0 to 1.
    """

    def __init__(self, network: MomentumContrast, steps: int, start: float = 0.99) -> None:
        if not 0 <= start <= 1:
            raise ValueError(f"Expected a --momentum from 0 to 1, found {start}.")
        self.network, self.steps, self.start = network, steps, start

    def attach(self, engine: Engine) -> None:
        """Updates after each step of this trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Updates the momentum encoder."""
        self.network.update_momentum_encoder(self.momentum(engine.state.iteration))

    def momentum(self, step: int) -> float:
        """Returns the momentum after a step, counted from 1."""
        return 1 - (1 - self.start) * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))
