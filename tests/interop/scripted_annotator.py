"""A scripted annotator of a real `tskd annotate` server: zero labels, boxes, labels, training, a served student.

It draws boxes around the true structures, each side shifted by up to a fraction of the box, on a few slices of an
image, looks at some slices of the result, corrects those that are wrong, saves, and asks for the next image. After
each round of images it trains. It prints a line per step with its time, and the Dice of the student that is served on
test images, which the server never has.

    python -m tests.interop.scripted_annotator ADDRESS TRUTH TEST [--images 4] [--rounds 1]

The server is started by hand: tskd annotate PROJECT SCANS --labels ... ; TRUTH has a label map of each image's name,
with the server's label values, and TEST the test images. The environment is that of this project.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.interop.monai_label_client import LabelServer
from tskd_monai.annotation.slice_view import SliceView
from tskd_monai.data.image_file import IMAGE_SUFFIXES, is_image_file
from tskd_monai.data.nifti import write_nifti
from tskd_monai.data.volume_reader import VolumeReader

ACCEPTED = 0.9
"""Dice of a structure on a slice from which the annotator leaves a mask as it is."""


class Truth:
    """True label maps in radiologists' view.

    Args:
        folder: folder of the label maps.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = {_name(path): path for path in sorted(folder.iterdir())}

    def read(self, image: str) -> tuple[np.ndarray, np.ndarray, SliceView]:
        """Returns the label map along the file's axes, its affine, and the slices."""
        values, metadata = VolumeReader(labels=True).read(self.paths[image])
        values = np.asarray(values).astype(np.uint8)
        if is_image_file(self.paths[image]):
            values = (values > 0).astype(np.uint8)  # masks of one structure are written as 0 and 255
        affine = np.asarray(metadata["affine"], float)
        shape = (int(values.shape[0]), int(values.shape[1]), int(values.shape[2]))
        return values, affine, SliceView(shape, affine, is_image_file(self.paths[image]))


class ScriptedAnnotator:
    """Annotates as a person would, from the true labels.

    Args:
        server: running server.
        truth: true label maps.
        jitter: largest shift of each side of a box, as a fraction of its width or height.
        spacing: number of slices of a structure for each box.
        looked_at: number of slices of each image that are looked at besides those with boxes.
        seed: seed of the shifts.
    """

    def __init__(
        self, server: LabelServer, truth: Truth, jitter: float, spacing: int, looked_at: int, seed: int = 0
    ) -> None:
        self.server, self.truth, self.jitter, self.spacing, self.looked_at = server, truth, jitter, spacing, looked_at
        self.rng = np.random.default_rng(seed)
        self.labels: dict[str, int] = server.info()["models"]["boxes"]["labels"]
        self.boxes = self.corrected = 0

    def annotate(self, image: str) -> str:
        """Annotates and saves one image; returns what it took."""
        values, affine, view = self.truth.read(image)
        prompts = self._boxes(values, view)
        flat = view.flat
        suffix = ".png" if flat else ".nii.gz"
        with tempfile.TemporaryDirectory() as folder:
            found = self._label_map(
                self.server.infer("boxes", image, {"prompts": prompts}), Path(folder) / f"a{suffix}"
            )
            edited, listed = self._corrected(view.to_slices(found).copy(), view.to_slices(values))
            label = Path(folder) / f"label{suffix}"
            _write(label, view.from_slices(edited), affine)
            self.server.save_label(image, label, {"confirmed_slices": listed})
        self.boxes += len(prompts)
        return f"{len(prompts)} boxes, proposal {dice(found, values, self.labels):.3f}, {len(listed)} slices looked at"

    def student_dice(self, images: Sequence[Path]) -> float:
        """Returns the mean Dice of the served student on some images."""
        scores = []
        for image in images:
            values, _, view = self.truth.read(_name(image))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / ("a.png" if view.flat else "a.nii.gz")
                found = self._label_map(self.server.infer_file("student", image), path)
                scores.append(dice(found, values, self.labels))
        return float(np.mean(scores))

    def _boxes(self, values: np.ndarray, view: SliceView) -> list[dict[str, Any]]:
        """Returns shifted boxes around each structure on every few of its slices, in the middle of their stretch."""
        prompts = []
        for name, value in self.labels.items():
            slices = np.flatnonzero((values == value).any(axis=(0, 1)))
            count = max(1, round(len(slices) / self.spacing)) if len(slices) else 0
            for z in (int(slices[(2 * number + 1) * len(slices) // (2 * count)]) for number in range(count)):
                first, second = np.nonzero(values[..., z] == value)
                x, y = (second, first) if view.flat else (first, second)
                low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
                shift = self.rng.uniform(-self.jitter, self.jitter, (2, 2)) * (high - low + 1)
                limit = np.array(view.viewer_shape[:2]) - 1
                low, high = np.clip(low + shift[0], 0, limit), np.clip(high + shift[1], 0, limit)
                roi = [float(low[0]), float(high[0]), float(low[1]), float(high[1]), z, z]
                prompts.append({"label": name, "roi": roi})
        return prompts

    def _corrected(self, found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Returns the label map after corrections, and the slices that were looked at: the worst, and an empty one."""
        wrong = (found != truth).sum(axis=(0, 1))
        empty = np.flatnonzero(~truth.any(axis=(0, 1)) & ~found.any(axis=(0, 1)))
        listed = [int(index) for index in np.argsort(-wrong, kind="stable")[: self.looked_at] if wrong[index]]
        for index in listed:
            values = {name: value for name, value in self.labels.items() if (truth[..., index] == value).any()}
            if not values or dice(found[..., index], truth[..., index], values) < ACCEPTED:
                found[..., index] = truth[..., index]
                self.corrected += 1
        return found, sorted({*listed, *(int(index) for index in empty[:1])})

    @staticmethod
    def _label_map(content: bytes, path: Path) -> np.ndarray:
        path.write_bytes(content)
        return np.asarray(VolumeReader(labels=True).read(path)[0]).astype(np.uint8)


def dice(found: np.ndarray, truth: np.ndarray, labels: dict[str, int]) -> float:
    """Returns the mean Dice over the structures that either label map has."""
    scores = []
    for value in labels.values():
        total = int((found == value).sum() + (truth == value).sum())
        if total:
            scores.append(2 * int(((found == value) & (truth == value)).sum()) / total)
    return float(np.mean(scores)) if scores else 1.0


def _write(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        from PIL import Image

        Image.fromarray(values[..., 0].astype(np.uint8)).save(path)
    else:
        write_nifti(path, values.astype(np.uint8), affine)


def _name(path: Path) -> str:
    return path.name.removesuffix(".nii.gz").removesuffix(path.suffix)


def main() -> None:
    """Runs the loop against a running server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("truth", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--images", type=int, default=4, help="images of a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jitter", type=float, default=0.08)
    parser.add_argument("--spacing", type=int, default=6, help="slices of a structure for each box")
    parser.add_argument("--looked-at", type=int, default=2, help="slices of an image that are looked at")
    parser.add_argument("--strategy", default="uncertainty")
    args = parser.parse_args()
    server = LabelServer(args.address)
    annotator = ScriptedAnnotator(server, Truth(args.truth), args.jitter, args.spacing, args.looked_at)
    start, test = time.monotonic(), sorted(args.test.iterdir())

    def report(text: str) -> None:
        print(f"{(time.monotonic() - start) / 60:6.1f} min  {text}", flush=True)

    for number in range(1, args.rounds + 1):
        for _ in range(args.images):
            image = str(server.next_sample(args.strategy)["id"])
            report(f"{image}: {annotator.annotate(image)}")
        server.train("student", {})
        report(f"round {number}: {annotator.boxes} boxes and {annotator.corrected} corrected slices in all")
        report(f"round {number}: test Dice of the student {annotator.student_dice(test):.3f}")


if __name__ == "__main__":
    main()
