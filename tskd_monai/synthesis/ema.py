"""The exponential moving average of the weights, from which images are sampled."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from ignite.engine import Engine, Events
from torch.nn.parallel import DistributedDataParallel


class EmaHandler:
    """Updates diffusers' `EMAModel` after every iteration and saves it in checkpoints.

    In short training runs the average must forget the initial weights: with `use_ema_warmup` its decay after n steps is
    min(decay, 1 - (1 + n)^-power), a window that grows during training.

    Args:
        ema: created from the network's parameters.
        network: the network in training; a DDP wrapper is unwrapped.
    """

    def __init__(self, ema: EMAModel, network: torch.nn.Module) -> None:
        self.ema = ema
        self.network = network.module if isinstance(network, DistributedDataParallel) else network

    def attach(self, engine: Engine) -> None:
        """Updates the average after each iteration of this trainer."""
        engine.add_event_handler(Events.STARTED, self._to_device)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _to_device(self, engine: Engine | None = None) -> None:
        self.ema.to(next(self.network.parameters()).device)

    def _step(self, engine: Engine) -> None:
        self.ema.step(self.network.parameters())

    def averaged_network(self) -> torch.nn.Module:
        """Returns a copy of the network with the averaged weights, in evaluation mode."""
        network = copy.deepcopy(self.network)
        self.ema.copy_to(network.parameters())
        return network.eval()

    def state_dict(self) -> dict[str, Any]:
        """Returns the average and its step count."""
        return self.ema.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: when the average belongs to another network.
        """
        found = [tuple(parameter.shape) for parameter in state_dict["shadow_params"]]
        expected = [tuple(parameter.shape) for parameter in self.network.parameters()]
        if found != expected:
            raise ValueError(
                f"Expected the moving average of a network with {len(expected)} parameters, found one with "
                f"{len(found)} or other shapes; resume with the network that the checkpoint was made with."
            )
        self.ema.load_state_dict(dict(state_dict))
        self._to_device()
