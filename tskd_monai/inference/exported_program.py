"""A student bundle's network as a program of `torch.export`, which runs without the code that defines it.

TorchScript, which the model zoo and MONAI Deploy still read, is deprecated since PyTorch 2.9; this is its successor.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.inference.export import load_student, random_case
from tskd_monai.inference.exported_files import WEIGHTS

PROGRAM_FILE = "model.pt2"
WEIGHTS_HASH = "weights_sha256"
"""Name, in the file, of the hash of the weights that it was made from."""

LARGEST_DIFFERENCE = 1e-3
"""Of logits, between the program and the network."""


@torch.no_grad()
def export_program(bundle: str | Path) -> float:
    """Writes `models/model.pt2`, from images (B, C, H, W) to logits (B, K, H, W) for any B, and compares it.

    Args:
        bundle: folder of the student bundle.

    Returns:
        The largest difference of a logit from the network's, on noise.

    Raises:
        FileNotFoundError: if the bundle lacks its config, its task or its weights.
        ValueError: if the program computes something else than the network; then no file is left.
    """
    models = Path(bundle) / "models"
    network, task = load_student(bundle)
    windows = random_case(task).windows
    # A batch of 1 would be exported as a constant.
    program = torch.export.export(network, (windows[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with atomic_path(models / PROGRAM_FILE) as temporary:
        torch.export.save(program, temporary, extra_files={WEIGHTS_HASH: file_sha256(models / WEIGHTS)})
        found = torch.export.load(temporary).module()(windows)
        difference = float((found - network(windows)).abs().max())
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"Expected a program with the network's logits, found a difference of {difference:.3g}; use --to onnx."
            )
    return difference
