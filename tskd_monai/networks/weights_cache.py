"""The user's cache of weights that come in a Python package.

It is torch's folder of checkpoints: `checkpoints` in `torch.hub.get_dir()`, which the environment variable `TORCH_HOME`
moves. `weights_download` writes it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tskd_monai.networks.encoder_records import EncoderRecord, PackagedFile


def cache_folder() -> Path:
    """Returns the folder of cached weights, which may not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cached_weights(record: EncoderRecord) -> Path:
    """Returns the cached weights file of an encoder.

    Raises:
        ValueError: if the encoder's weights do not come in a Python package.
        FileNotFoundError: if they have not been fetched; states the command, and what to do without a network.
    """
    path = cache_folder() / packaged_file(record).name
    if not path.is_file():
        raise FileNotFoundError(
            f"Weights of {record.name} are not on this machine: run `tskd teachers get {record.name}`, or, without a "
            f"network, copy {path.name} to {path.parent} or pass its path."
        )
    return path


def packaged_file(record: EncoderRecord) -> PackagedFile:
    """Returns the file of an encoder's weights in a Python package.

    Raises:
        ValueError: if the weights do not come in one; states where they are.
    """
    if record.packaged is None:
        published = record.url or record.source
        raise ValueError(
            f"Weights of {record.name} do not come in a Python package; they are published at {published}: pass the "
            "hub id, or download the file and pass its path."
        )
    return record.packaged
