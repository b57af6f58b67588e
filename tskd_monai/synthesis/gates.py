"""Gates of a transfer set: which sampled images a student learns from, the quality of the set, and a contact sheet.

Two gates drop images: the teacher must be as confident in an image as in real ones, and the image must not be a near
copy of a training image. The verdict on the whole set follows from these and from its quality, see `verdict`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tskd_monai.data.gates_file import SHEET_NAME, Gates, Interval, Scores, write_gates
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import MANIFEST_NAME, VARIATION, load_transfer_set, origin_of
from tskd_monai.data.verdict import Verdict
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.synthesis.compared_images import Images, all_images, images_sha256, nonblank_images
from tskd_monai.synthesis.contact_sheet import Sources, write_contact_sheet
from tskd_monai.synthesis.gate_networks import GateEncoder, teacher_confidence
from tskd_monai.synthesis.memorisation import Nearest, nearest_in_features, nearest_in_pixels
from tskd_monai.synthesis.realism import (
    feature_scale,
    kernel_distances,
    pair_similarities,
    patient_subsets,
    sharpness,
    spread,
)
from tskd_monai.synthesis.verdict import judge

logger = logging.getLogger(__name__)

KID_SUBSETS = 200
KID_SUBSET_SIZE = 50
NEAR_COPY, LOW_CONFIDENCE = "near_copy", "low_confidence"


@dataclass(frozen=True)
class NearCopies:
    """Nearest training images in one space.

    Attributes:
        synthetic: nearest training image of each sampled image.
        real: distance of each training image to the nearest one of another patient.
        threshold: a sampled image at a smaller distance is a near copy.
    """

    synthetic: Nearest
    real: np.ndarray
    threshold: float

    @property
    def flags(self) -> np.ndarray:
        """Returns which sampled images are near copies, (N,)."""
        return self.synthetic.distances < self.threshold

    @property
    def scores(self) -> Scores:
        """Returns the distances and the threshold for `gates.json`."""
        return Scores(self.threshold, tuple(self.real.tolist()), tuple(self.synthetic.distances.tolist()))


@dataclass(frozen=True)
class Confidence:
    """The teacher's confidence.

    Attributes:
        synthetic: confidence in each sampled image.
        validation: confidence in each validation image.
        threshold: a sampled image of lower confidence is dropped.
    """

    synthetic: np.ndarray
    validation: np.ndarray
    threshold: float

    @property
    def flags(self) -> np.ndarray:
        """Returns which sampled images are below the confidence threshold, (N,)."""
        return self.synthetic < self.threshold

    @property
    def scores(self) -> Scores:
        """Returns the confidences and the threshold for `gates.json`."""
        return Scores(self.threshold, tuple(self.validation.tolist()), tuple(self.synthetic.tolist()))


@dataclass(frozen=True)
class Judgement:
    """Results of both gates for every sampled image.

    Attributes:
        copies: near copies in each space.
        confidence: the teacher's confidence; None without a teacher.
        derived: whether the images are variations of real slices, whose near copies are marked and not dropped.
    """

    copies: Mapping[str, NearCopies]
    confidence: Confidence | None
    derived: bool = False

    @property
    def nearest(self) -> dict[str, Nearest]:
        """Returns the training images nearest to the sampled ones, in each space."""
        return {space: found.synthetic for space, found in self.copies.items()}

    @property
    def near(self) -> np.ndarray:
        """Returns which images are near copies in any space, (N,)."""
        return np.any([found.flags for found in self.copies.values()], axis=0)

    @property
    def dropped_copies(self) -> np.ndarray:
        """Returns which images are dropped as near copies, (N,)."""
        return np.zeros_like(self.near) if self.derived else self.near

    @property
    def unconfident(self) -> np.ndarray:
        """Returns which images are below the confidence threshold, (N,)."""
        return np.zeros_like(self.near) if self.confidence is None else self.confidence.flags

    @property
    def counts(self) -> dict[str, int]:
        """Returns numbers of images for `gates.json` and the manifest."""
        near, unconfident = self.near, self.unconfident
        return {
            "sampled": len(near),
            "accepted": int((~(self.dropped_copies | unconfident)).sum()),
            "near_copies": int(near.sum()),
            "low_confidence": int(unconfident.sum()),
        }

    def verdicts(self, real: Images) -> list[dict[str, Any]]:
        """Returns the fields that the gates add to each image's entry in the manifest.

        Args:
            real: the training images.
        """
        near, dropped, unconfident = self.near, self.dropped_copies, self.unconfident
        confidence = [None] * len(near) if self.confidence is None else _list(self.confidence.synthetic)
        return [
            {
                "teacher_confidence": confidence[index],
                "nearest_training": {
                    space: _nearest(found, index, None if self.derived else real)
                    for space, found in self.nearest.items()
                },
                **({NEAR_COPY: bool(near[index])} if self.derived else {}),
                "reasons": [NEAR_COPY] * bool(dropped[index]) + [LOW_CONFIDENCE] * bool(unconfident[index]),
            }
            for index in range(len(near))
        ]


def _nearest(found: Nearest, index: int, real: Images | None) -> dict[str, Any]:
    """Returns the nearest training image; without `real`, by its index as of `source_slice`, which names no patient."""
    at = int(found.indices[index])
    origin = {"source_slice": at} if real is None else {"case": real.cases[at], "slice": real.slices[at]}
    return {**origin, "distance": round(float(found.distances[index]), 6)}


def _list(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def check_transfer_set(
    transfer_set: str | Path,
    output_dir: str | Path,
    task: Task,
    training: SliceDataset,
    validation: SliceDataset,
    encoder: GateEncoder,
    teacher: nn.Module | None = None,
    *,
    confidence_quantile: float = 0.05,
    near_copy_quantile: float = 0.01,
    use_failed: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Gates:
    """Measures the images of a transfer set, moves those that a gate drops to `rejected`, and judges the whole set.

    Writes `gates.json` and `contact_sheet.png`, then the manifest. Run again, it starts from all sampled images. Blank
    real images, such as the ends of a volume, are excluded from every comparison. Near copies among variations of real
    slices, which resemble these by construction, are counted and marked `near_copy`, and not dropped.

    Args:
        transfer_set: folder of the transfer set.
        output_dir: folder of the two files.
        task: task of the transfer set.
        training: slices that the diffusion model was trained on, `image` (C, H, W); all are held in memory.
        validation: slices of patients that the diffusion model was not trained on.
        encoder: encoder whose features are compared.
        teacher: teacher whose confidence is measured, on `device`; None: the confidence gate drops nothing.
        confidence_quantile: quantile of the confidence in validation images below which an image is dropped.
        near_copy_quantile: quantile of the distances between training images of different patients below which an image
            is dropped.
        use_failed: whether distillation uses the set even if the verdict is that it failed.
        batch_size: images in one forward pass.
        seed: seed of the random subsets and pairs.
        device: device of the teacher.

    Returns:
        The measurements, as written to `gates.json`.

    Raises:
        FileNotFoundError: when the transfer set is missing.
        ValueError: when the transfer set is of another task, or there are too few real images to compare with.
        TypeError: when `use_failed` is a string, as the runner's command line parses `true` and `false`.
    """
    if not isinstance(use_failed, bool):
        raise TypeError(f"Expected --use_failed True or False, found the word {use_failed!r}.")
    folder, output_dir = Path(transfer_set), Path(output_dir)
    entries = load_transfer_set(folder, task.hash, rejected=True)
    synthetic, real, held_out = (
        replace(images, features=encoder.features(images.pixels, batch_size))
        for images in (
            all_images(PreparedImageDataset(entries)),
            nonblank_images(training),
            nonblank_images(validation),
        )
    )
    confidence = _confidence(teacher, synthetic, held_out, confidence_quantile, batch_size, device)
    manifest = read_json(folder / MANIFEST_NAME)
    derived = origin_of(manifest) == VARIATION
    judgement = Judgement(_near_copies(synthetic, real, near_copy_quantile), confidence, derived)
    subset_size = _subset_size(*(len(images.pixels) for images in (synthetic, real, held_out)))
    gates = Gates(
        task_hash=task.hash,
        checkpoint_sha256=manifest["checkpoint_sha256"],
        confidence=None if confidence is None else confidence.scores,
        pixels=judgement.copies["pixels"].scores,
        features=judgement.copies["features"].scores,
        **_quality(synthetic, real, held_out, subset_size, seed),
        counts=judgement.counts,
        encoder=encoder.name,
        confidence_quantile=confidence_quantile,
        near_copy_quantile=near_copy_quantile,
        kid_subset_size=subset_size,
        kid_subsets=KID_SUBSETS,
        seed=seed,
        verdict=None,
        derived=derived,
    )
    verdict = judge(gates, use_failed)
    gates = replace(gates, verdict=verdict)
    output_dir.mkdir(parents=True, exist_ok=True)
    sources = _sources(entries, manifest, real) if derived else None
    write_contact_sheet(output_dir / SHEET_NAME, synthetic.pixels, real.pixels, judgement.nearest, sources)
    write_gates(gates, output_dir)
    _update_manifest(folder / MANIFEST_NAME, judgement.verdicts(real), judgement.counts, verdict)
    logger.info("%(accepted)d of %(sampled)d images accepted; %(near_copies)d are near copies.", judgement.counts)
    logger.info("%s", verdict.sentence)
    return gates


def _sources(entries: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any], real: Images) -> Sources | None:
    """Returns the sources of variations; None when the training images are not those the set was sampled from."""
    condition = manifest["condition"]
    if condition.get("sources_sha256") != images_sha256(real.pixels):
        logger.warning(
            "The contact sheet shows no sources: the datalist is not the one the variations are sampled from."
        )
        return None
    return Sources([entry["condition"]["source_slice"] for entry in entries], condition["strength"])


def _near_copies(synthetic: Images, real: Images, quantile: float) -> dict[str, NearCopies]:
    pixels = nearest_in_pixels(real.pixels, real.pixels, image_groups=real.cases, reference_groups=real.cases)
    features = nearest_in_features(real.features, real.features, real.cases, real.cases)
    found = {
        "pixels": (nearest_in_pixels(synthetic.pixels, real.pixels), pixels.distances),
        "features": (nearest_in_features(synthetic.features, real.features), features.distances),
    }
    return {
        space: NearCopies(nearest, distances, float(np.quantile(distances, quantile)))
        for space, (nearest, distances) in found.items()
    }


def _confidence(
    teacher: nn.Module | None,
    synthetic: Images,
    held_out: Images,
    quantile: float,
    batch_size: int,
    device: str | torch.device,
) -> Confidence | None:
    if teacher is None:
        return None
    validation = teacher_confidence(teacher, held_out.pixels, batch_size, device)
    sampled = teacher_confidence(teacher, synthetic.pixels, batch_size, device)
    return Confidence(sampled, validation, float(np.quantile(validation, quantile)))


def _subset_size(*numbers: int) -> int:
    """Returns the images of a draw: at most half of each set, so that the draws differ as sets of this size do."""
    return max(2, min(KID_SUBSET_SIZE, min(numbers) // 2))


def _quality(synthetic: Images, real: Images, held_out: Images, size: int, seed: int) -> dict[str, Interval]:
    """Returns realism, sharpness and diversity of the sampled images and of cohorts of real training patients."""
    scale = feature_scale(real.features)
    patients = max(1, min(len(set(held_out.cases)), len(set(real.cases)) // 2))
    cohorts = patient_subsets(real.cases, patients, size, KID_SUBSETS, seed)
    anywhere = patient_subsets(range(len(synthetic.pixels)), 1, size, KID_SUBSETS, seed)

    def distance(images: Images, chosen: Sequence[np.ndarray]) -> Interval:
        validation = held_out.features / scale
        return spread(kernel_distances(images.features / scale, validation, KID_SUBSETS, size, seed, chosen))

    def medians(images: Images, chosen: Sequence[np.ndarray]) -> Interval:
        values = sharpness(images.pixels)
        return spread([float(np.median(values[drawn])) for drawn in chosen])

    return {
        "kid_synthetic": distance(synthetic, anywhere),
        "kid_training": distance(real, cohorts),
        "sharpness_synthetic": medians(synthetic, anywhere),
        "sharpness_training": medians(real, cohorts),
        "ms_ssim_synthetic": spread(pair_similarities(synthetic.pixels, seed=seed)),
        "ms_ssim_training": spread(pair_similarities(real.pixels, real.cases, seed=seed)),
    }


def _update_manifest(
    path: Path, verdicts: Sequence[Mapping[str, Any]], counts: Mapping[str, int], verdict: Verdict
) -> None:
    content = read_json(path)
    entries = sorted([*content["unlabeled"], *content.get("rejected", [])], key=lambda entry: entry["seed"])
    judged = [{**entry, **verdict} for entry, verdict in zip(entries, verdicts, strict=True)]
    content["unlabeled"] = [entry for entry in judged if not entry["reasons"]]
    content["rejected"] = [entry for entry in judged if entry["reasons"]]
    write_json(path, {**content, "gates": dict(counts), "verdict": verdict.content()})
