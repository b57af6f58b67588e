"""What a site sends in a round, and the check that nothing else is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tskd_monai.federated.weights import Arrays, check_alike

NUMBERS = ("slices", "train_loss", "val_mean_dice", "val_cases")
"""The numbers that may leave a site, all of them counts or means over its cases."""


@dataclass(frozen=True)
class SiteUpdate:
    """The message of one site in one round.

    Attributes:
        weights: tensors after the round; empty after a validation.
        numbers: values of `NUMBERS`: labelled slices, mean training loss, mean Dice of the received weights over the
            site's validation cases, and their number.
    """

    weights: Arrays
    numbers: dict[str, float]

    @property
    def slices(self) -> float:
        """Number of training slices of the site, its weight in the average."""
        return self.numbers.get("slices", 0.0)


def checked_update(update: SiteUpdate, shapes: Mapping[str, tuple[int, ...]]) -> SiteUpdate:
    """Returns an update after checking that it holds tensors of the known network and allowed numbers only.

    A site applies it to what it sends, the server to what it receives. Names of tensors are those of the network, which
    the server knows, so that no text of a site passes.

    Args:
        update: message of a site.
        shapes: shape of each tensor of the network; empty: no tensor may be sent.

    Raises:
        ValueError: if there is another tensor, number, or anything that is not a finite number.
    """
    check_alike(update.weights, shapes, "the federation")
    for name, value in update.numbers.items():
        if name not in NUMBERS:
            raise ValueError(f"Expected only the numbers {', '.join(NUMBERS)} in a message, found another.")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"Expected a finite number as {name} in a message, found {type(value).__name__}.")
    return update
