"""Running a stack of transformer layers, with or without keeping what happens inside them for the backward pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_layers(
    layers: Iterable[nn.Module], hidden: Tensor, depths: Collection[int], *, recompute: bool
) -> tuple[Tensor, list[Tensor]]:
    """Runs layers one after another.

    Args:
        layers: each maps a tensor to one of the same shape.
        hidden: input of the first layer.
        depths: indices of the layers whose outputs are returned as well.
        recompute: whether the backward pass runs each layer once more instead of remembering what happened in it
            (gradient checkpointing): less memory, the same gradients, about a third more time.

    Returns:
        The last layer's output, and the outputs of the layers in ``depths``, first to last.
    """
    kept = []
    for index, layer in enumerate(layers):
        hidden = checkpoint(layer, hidden, use_reentrant=False) if recompute else layer(hidden)
        if index in depths:
            kept.append(hidden)
    return hidden, kept
