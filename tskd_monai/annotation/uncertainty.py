"""How uncertain a student is of each image, and the image to label next.

Run by the annotation server after each training round:

    python -m tskd_monai.annotation.uncertainty STUDENT IMAGES.json SCORES.json
"""

from __future__ import annotations

import logging
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from tskd_monai.data.task import load_task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.networks.weights_file import read_weights
from tskd_monai.training.validation import slice_inferer
from tskd_monai.transforms.pipelines import preprocessing

logger = logging.getLogger(__name__)

POSSIBLE = 0.1
"""Pixels count from this probability of any foreground class: the background would drown all others."""


def choose_next(unlabelled: Sequence[str], scores: Mapping[str, float], seed: int | None = None) -> str | None:
    """Returns the image to label next: the one with the largest score, one at random without scores; None: none left.

    Args:
        unlabelled: names of images.
        scores: uncertainty of images by name, larger where the student is less certain; others have none.
        seed: seed of the choice without scores; None: another one in each call.
    """
    scored = sorted(name for name in unlabelled if name in scores)
    if scored:
        return max(scored, key=lambda name: scores[name])
    return random.Random(seed).choice(sorted(unlabelled)) if unlabelled else None


def mean_entropy(probabilities: Tensor) -> float:
    r"""Returns the mean entropy of the pixels that may be foreground, from 0 to 1.

    .. math:: -\frac{1}{|P| \log K} \sum_{i \in P} \sum_k p_{ik} \log p_{ik}, \qquad P = \{i: 1 - p_{i0} \ge 0.1\}

    Without such a pixel it is 1: an image in which nothing is found is the one to look at.

    Args:
        probabilities: of K classes, background first (B, K, H, W) or (B, K, H, W, D).
    """
    chosen = probabilities.movedim(1, -1)[1 - probabilities[:, 0] >= POSSIBLE]
    if not len(chosen):
        return 1.0
    return float(torch.special.entr(chosen).sum(dim=1).mean()) / math.log(probabilities.shape[1])


@torch.inference_mode()
def student_uncertainty(bundle: Path, images: Mapping[str, str]) -> dict[str, float]:
    """Returns the mean entropy of a student's predictions by image; an image that cannot be read has none.

    Args:
        bundle: a student bundle.
        images: file of each image by name.
    """
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(read_weights(bundle / "models" / "model.pt"))
    network.eval()
    task = load_task(bundle / "configs" / "task.json")
    read, inferer = preprocessing(task), slice_inferer(task, neighbours=task.neighbours)
    scores = {}
    for name, path in images.items():
        try:
            image = torch.as_tensor(read({"image": path})["image"])[None]
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("%s has no score: %s", Path(path).name, " ".join(str(error).split()))
            continue
        logits: Any = inferer(image, network)
        scores[name] = round(mean_entropy(logits.softmax(dim=1)), 6)
    return scores


def main() -> None:
    """Scores the images listed in a JSON object from name to path, and writes one from name to score."""
    if len(sys.argv) != 4:
        raise SystemExit("Expected STUDENT IMAGES.json SCORES.json.")
    student, images, scores = map(Path, sys.argv[1:])
    write_json(scores, student_uncertainty(student, read_json(images)))


if __name__ == "__main__":
    main()
