"""What a bundle's config asks of the place it runs in."""

from __future__ import annotations

from pathlib import Path

import torch


def check_bundle_root(bundle_root: str | Path) -> None:
    """Raises FileNotFoundError naming `--bundle_root` when this is not a bundle's folder."""
    if not (Path(bundle_root) / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"Expected a bundle at {Path(bundle_root).resolve().name}/, found no configs/metadata.json there. "
            "Give --bundle_root with the folder that holds configs/."
        )


def default_device() -> torch.device:
    """Returns the first GPU, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def dataset_dir(datalist: str | Path | None) -> str:
    """Returns the folder that a datalist's paths are relative to."""
    return str(Path(datalist or ".").resolve().parent)
