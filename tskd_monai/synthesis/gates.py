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
from PIL import Image, ImageDraw
from torch import nn

from tskd_monai.data.gates_file import SHEET_NAME, Gates, Interval, Scores, write_gates
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import MANIFEST_NAME, load_transfer_set
from tskd_monai.data.verdict import Verdict
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import read_json, write_json
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

BLANK_CONTRAST = 0.01  # standard deviation of an image in [0, 1] below which it is blank
KID_SUBSETS = 200
KID_SUBSET_SIZE = 50
NEAR_COPY, LOW_CONFIDENCE = "near_copy", "low_confidence"
COLUMNS = 8  # images in a row of the contact sheet
TITLE_HEIGHT = 16  # pixels
ROW_NAMES = {"pixels": "nearest training image in pixels", "features": "nearest training image in features"}


@dataclass(frozen=True)
class Images:
    """Images, their features and their origins.

    Attributes:
        pixels: (N, C, H, W) in [0, 1].
        features: image embeddings of the encoder, (N, d).
        cases: patient of each image.
        slices: index of each image in its volume.
    """

    pixels: torch.Tensor
    features: np.ndarray
    cases: Sequence[str]
    slices: Sequence[int]


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
    """

    copies: Mapping[str, NearCopies]
    confidence: Confidence | None

    @property
    def nearest(self) -> dict[str, Nearest]:
        """Returns the training images nearest to the sampled ones, in each space."""
        return {space: found.synthetic for space, found in self.copies.items()}

    @property
    def near(self) -> np.ndarray:
        """Returns which images are near copies in any space, (N,)."""
        return np.any([found.flags for found in self.copies.values()], axis=0)

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
            "accepted": int((~(near | unconfident)).sum()),
            "near_copies": int(near.sum()),
            "low_confidence": int(unconfident.sum()),
        }

    def verdicts(self, real: Images) -> list[dict[str, Any]]:
        """Returns the fields that the gates add to each image's entry in the manifest.

        Args:
            real: the training images.
        """
        near, unconfident, nearest = self.near, self.unconfident, self.nearest
        confidence = [None] * len(near) if self.confidence is None else _list(self.confidence.synthetic)
        return [
            {
                "teacher_confidence": confidence[index],
                "nearest_training": {space: _nearest(found, index, real) for space, found in nearest.items()},
                "reasons": [NEAR_COPY] * bool(near[index]) + [LOW_CONFIDENCE] * bool(unconfident[index]),
            }
            for index in range(len(near))
        ]


def _nearest(found: Nearest, index: int, real: Images) -> dict[str, Any]:
    at = int(found.indices[index])
    distance = round(float(found.distances[index]), 6)
    return {"case": real.cases[at], "slice": real.slices[at], "distance": distance}


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
    real images, such as the ends of a volume, are excluded from every comparison.

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
        for images in (_all(PreparedImageDataset(entries)), nonblank_images(training), nonblank_images(validation))
    )
    confidence = _confidence(teacher, synthetic, held_out, confidence_quantile, batch_size, device)
    judgement = Judgement(_near_copies(synthetic, real, near_copy_quantile), confidence)
    subset_size = _subset_size(*(len(images.pixels) for images in (synthetic, real, held_out)))
    gates = Gates(
        task_hash=task.hash,
        checkpoint_sha256=read_json(folder / MANIFEST_NAME)["checkpoint_sha256"],
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
    )
    verdict = judge(gates, use_failed)
    gates = replace(gates, verdict=verdict)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_contact_sheet(output_dir / SHEET_NAME, synthetic.pixels, real.pixels, judgement.nearest)
    write_gates(gates, output_dir)
    _update_manifest(folder / MANIFEST_NAME, judgement.verdicts(real), judgement.counts, verdict)
    logger.info("%(accepted)d of %(sampled)d images accepted; %(near_copies)d are near copies.", judgement.counts)
    logger.info("%s", verdict.sentence)
    return gates


def _all(dataset: SliceDataset) -> Images:
    if not len(dataset):
        raise ValueError("Expected images to compare with in the datalist, found none; see its sections.")
    pixels = torch.stack([image.float() for image in dataset.arrays("image")])
    cases, slices = zip(*dataset.origins, strict=True)
    return Images(pixels, np.empty((0, 0)), cases, slices)


def nonblank_images(dataset: SliceDataset) -> Images:
    """Returns the nonblank images of a dataset, without features.

    Args:
        dataset: slices with `image` (C, H, W) in [0, 1].

    Raises:
        ValueError: when fewer than two images are nonblank.
    """
    images = _all(dataset)
    shown = [index for index, image in enumerate(images.pixels) if float(image.std()) >= BLANK_CONTRAST]
    if len(shown) < 2:
        raise ValueError(f"Expected at least two real images that are not blank, found {len(shown)}.")
    cases = [images.cases[index] for index in shown]
    slices = [images.slices[index] for index in shown]
    return Images(images.pixels[shown], images.features, cases, slices)


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


def write_contact_sheet(
    path: Path, synthetic: torch.Tensor, real: torch.Tensor, nearest: Mapping[str, Nearest]
) -> None:
    """Writes a PNG of two blocks: evenly spaced images of the set, and those nearest to a training image.

    Each block has a row of sampled images and, below each image, its nearest training image in each space. A row of
    evenly spaced training images stands above the first block.

    Args:
        path: path of the PNG.
        synthetic: sampled images (N, C, H, W) in [0, 1].
        real: training images (M, C, H, W).
        nearest: training images nearest to the sampled ones, by space: "pixels", "features".
    """
    even = _evenly_spaced(len(synthetic))
    closest = np.argsort(np.min([found.distances for found in nearest.values()], axis=0), kind="stable")[:COLUMNS]
    rows = [("real training images", real, _evenly_spaced(len(real)))]
    for title, chosen in (("synthetic, evenly spaced", even), ("synthetic, nearest to a training image", closest)):
        rows.append((title, synthetic, chosen))
        rows.extend((ROW_NAMES[space], real, found.indices[chosen]) for space, found in nearest.items())
    height, width = synthetic.shape[-2:]
    sheet = Image.new("RGB", (COLUMNS * width, len(rows) * (height + TITLE_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, images, chosen) in enumerate(rows):
        top = row * (height + TITLE_HEIGHT)
        pen.text((4, top + 2), title, fill="black")
        for column, index in enumerate(chosen):
            sheet.paste(_picture(images[int(index)]), (column * width, top + TITLE_HEIGHT))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _evenly_spaced(number: int) -> np.ndarray:
    return np.unique(np.linspace(0, number - 1, COLUMNS).round().astype(int))


def _picture(image: torch.Tensor) -> Image.Image:
    pixels = (image * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).convert("RGB")
