"""Assesses every case of an inference run with the quality file of the student."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from torch import Tensor

from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.data.task import Task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.trust.quality_file import QUALITY_FILE, Quality, load_quality
from tskd_monai.trust.signals import SignalCollector
from tskd_monai.trust.verdict import as_record, case_quality

logger = logging.getLogger(__name__)


class CaseAssessor:
    """Assesses cases while `LabelMapInferer` segments them: `start`, `add` for each batch of slices, `finish`.

    Args:
        quality: content of the student's quality file.
        task: task of the student.
        fingerprint: SHA-256 of the quality file.
    """

    def __init__(self, quality: Quality, task: Task, fingerprint: str) -> None:
        self.quality, self.task, self.fingerprint = quality, task, fingerprint
        self.start()

    def start(self) -> None:
        """Begins a case."""
        self._collector = SignalCollector(self.task, self.quality.layer)

    def add(self, logits: Tensor) -> None:
        """Adds the logits (B, K, H, W) of the next slices."""
        self._collector.add(logits)

    def finish(self, image: Tensor, network: object) -> dict[str, Any] | None:
        """Returns the quality of a case as its record has it, after the second view of some slices.

        Args:
            image: the case (C, H, W, D), MetaTensor.
            network: the student; None is returned for a network without layers, such as TorchScript.
        """
        if not isinstance(network, torch.nn.Module) or isinstance(network, torch.jit.ScriptModule):
            return None
        assert isinstance(image, MetaTensor)  # `LabelMapInferer` has checked it
        signals = self._collector.finish(image.as_tensor(), grid_spacing(image), network)
        unit = "pixels" if self.task.axcodes is None else "mm"
        unlike = str(image.meta.get(UNLIKE_TRAINING) or "")
        return as_record(case_quality(signals, self.quality, self.task.quality, unit, unlike))


def grid_spacing(image: MetaTensor) -> tuple[float, float, float]:
    """Returns mm along rows, columns and slices of a preprocessed image."""
    rows, columns, slices = affine_to_spacing(np.asarray(image.affine, dtype=np.float64)).tolist()
    return rows, columns, slices


def case_assessor(models: str | Path, checkpoint: str | Path, task: Task) -> CaseAssessor | None:
    """Returns what assesses the cases of a run; None without a quality file, or if it is not for these weights.

    A warning says so in the latter case: a student that was trained further still segments.

    Args:
        models: folder of the weights and the quality file.
        checkpoint: file of the student's weights.
        task: task of the student.
    """
    path = Path(models) / QUALITY_FILE
    if not path.is_file():
        return None
    try:
        return CaseAssessor(load_quality(path, checkpoint, task), task, file_sha256(path))
    except ValueError as error:
        logger.warning("No case is assessed: %s", error)
        return None
