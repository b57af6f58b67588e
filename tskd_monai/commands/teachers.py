"""Lists the foundation models that a teacher can be built from: size, input, licence, and whether weights are cached.

tskd teachers
tskd train mydata/ --teacher sam_vit_base=sam_vit_b_01ec64.pth

A teacher is named by its encoder, with a file (`NAME=FILE`) or a hub id; weights in the hub's cache are found by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tskd_monai.commands.command_parser import CommandParser

if TYPE_CHECKING:
    from tskd_monai.networks.encoder_records import EncoderRecord


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the table."""
    CommandParser("teachers", __doc__).parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # listing must not download gigabytes
    import torch
    from torch import nn

    from tskd_monai.networks.cost import count_parameters
    from tskd_monai.networks.encoder_records import ENCODERS

    print(f"{'name':<20}{'parameters':>11}  {'input':>5}  {'licence':<11}{'weights':<14}source")
    for record in ENCODERS.values():
        with torch.device("meta"):
            encoder = cast(nn.Module, record.architecture.build(record.image_size, record.mean, record.std))
        millions = count_parameters(encoder) / 1e6
        state = "here" if _is_here(record) else "not here"
        size = f"{millions:>9.1f} M  {record.image_size:>5}"
        print(f"{record.name:<20}{size}  {record.licence:<11}{state:<14}{record.source}")
    return 0


def _is_here(record: EncoderRecord) -> bool:
    """Returns whether the weights are shipped or in the hub's cache, without downloading anything."""
    from tskd_monai.networks.pretrained import weights_path

    try:
        weights_path(record.name, None if record.shipped else record.source)
    except (FileNotFoundError, ValueError):
        return False
    return True
