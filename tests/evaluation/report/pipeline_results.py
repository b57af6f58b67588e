"""A small pipeline's results on disk, for tests of the pages and pictures that show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from tskd_monai.evaluation.metrics import evaluate_cases
from tskd_monai.evaluation.report.pipeline_content import Method, PipelineContent

LABELS = {1: "liver", 2: "spleen <&>"}


def study(folder: Path, suffix: str = ".nii.gz", losses: tuple[int, int] = (1, 4)) -> PipelineContent:
    """Writes four cases with two organs and two methods that miss the first rows of each organ."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)

    def save(array: np.ndarray, path: Path) -> Path:
        if suffix == ".png":
            Image.fromarray(array[:, :, 2].astype(np.uint8)).save(path)
        else:
            nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([-1.5, -1.0, 5.0, 1.0])), path)
        return path

    cases: list[dict[str, Any]] = []
    predictions: tuple[dict[str, Path], dict[str, Path]] = ({}, {})
    for index, case in enumerate("abcd"):
        label = np.zeros((32, 28, 5), dtype=np.uint8)
        label[4:14, 4:20, 1:4], label[20:28, 8:16, 1:4] = 1, 2
        image = save(40 * label + generator.integers(0, 60, label.shape), folder / f"image_{case}{suffix}")
        cases.append({"case": case, "image": image, "label": save(label, folder / f"label_{case}{suffix}")})
        for number, rows in enumerate(losses):
            prediction = label.copy()
            prediction[: 4 + rows + index % 2] = prediction[20 : 20 + rows] = 0
            predictions[number][case] = save(prediction, folder / f"{case}_{number}{suffix}")
    methods = []
    for number, key in enumerate(("student", "scratch")):
        entries = [{**case, "prediction": predictions[number][case["case"]]} for case in cases]
        evaluate_cases(entries, LABELS, folder / key / "metrics.csv")
        history = [{"epoch": e, "iteration": 10 * e, "seconds": 6.0 * e, "train_loss": 1 / e} for e in range(1, 6)]
        history[-1]["val_mean_dice"] = 0.5
        (folder / key / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history) + '{"epo')
        methods.append(
            Method(
                key,
                "Distilled <student>" if key == "student" else "From scratch",
                folder / key / "metrics.csv",
                predictions[number],
                212_345,
                212_345,
                18.7 if key == "student" else None,
                folder / key / "history.jsonl",
                75.0,
            )
        )
    images = [case["image"] for case in cases]
    settings, notes = {"Seed": "0", "Loss": "a < b"}, ["Made in a test & nowhere else."]
    return PipelineContent(
        "A <title>", "A summary.", methods, ("student", "scratch"), LABELS, cases, images, images, settings, notes
    )
