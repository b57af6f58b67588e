"""Measures how far the quality of cases can be relied on, with students of `quality_students`.

python -m tests.reliability.quality_figures chaos_t2spir WORK --folds 0,1,2,3,4

For each fold, the quality file is fitted on the training and validation patients; the test patients are scored, with
copies of their images that a student must not be given, and images of other datasets. Writes WORK/DATASET/quality.json
with a record of each image, and prints the figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import nn

from tests.reliability.quality_students import STUDENT, data_folder, numbers, planned, student_folder
from tests.reliability.wrong_inputs import CHANGES, CT_SERIES, other_images, write_changed, write_nifti_of
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.inference.label_map_inferer import QUALITY, LabelMapInferer
from tskd_monai.networks.students import build_student
from tskd_monai.networks.weights_file import load_strictly, read_weights
from tskd_monai.training.validation import slice_inferer
from tskd_monai.transforms.pipelines import preprocessing
from tskd_monai.trust.assessor import case_assessor, grid_spacing
from tskd_monai.trust.fitting import Measurement, fit_quality
from tskd_monai.trust.verdict import OK, REJECT

RIGHT, REFUSED = "right", "refused"
SAME_GRID = ("motion", "noise")
OTHER_IMAGES = 10
REFUSED_RISK = 1e6


def load_student(folder: Path, task: Task) -> nn.Module:
    """Returns the student of a bundle."""
    network = build_student(STUDENT, task.channels, task.num_classes, task.image_size)
    load_strictly(network, read_weights(folder / "models" / "model.pt"), folder.name)
    return network.eval()


def measure_fold(dataset: str, work: Path, fold: int) -> list[dict[str, Any]]:
    """Returns a record of each image that the student of seed 0 is given."""
    datalist, task = planned(dataset, work, fold)
    folder = student_folder(work, dataset, fold, 0)
    network, inferer = load_student(folder, task), slice_inferer(task)
    labelled, checkpoint = preprocessing(task, ["image", "label"]), folder / "models" / "model.pt"
    fit_quality(datalist, labelled, network, STUDENT, inferer, task, checkpoint, folder / "models")
    others = [other for seed in range(1, 5) if (other := student_folder(work, dataset, fold, seed)).is_dir()]
    ensemble = [network, *(load_student(other, task) for other in others if (other / "models/history.jsonl").is_file())]
    segmented = _Assessed(task, folder, network)
    records = []
    for item in load_datalist(datalist)["test"]:
        read = labelled({key: item[key] for key in ("image", "label")})
        measure = Measurement(network, inferer, task, segmented.layer, torch.device("cpu"))
        _, dice = measure(read["image"].as_tensor(), read["label"].as_tensor(), grid_spacing(read["image"]))
        record = {"kind": RIGHT, "case": item["case"], "dice": dice, **segmented(item["image"])}
        if len(ensemble) == 5:
            record["pairwise"] = pairwise_dice(read["image"].as_tensor(), ensemble, task)
        records.append(record)
        if task.axcodes is not None:
            records += _changed(item, read["label"].as_tensor(), segmented, measure)
    for kind, path in other_images(dataset, data_folder(""), OTHER_IMAGES):
        records.append({"kind": kind, "case": path.name, **segmented(path)})
    if task.axcodes is not None:
        with tempfile.TemporaryDirectory() as temporary:
            for name in CT_SERIES:
                path = write_nifti_of(data_folder("") / name, Path(temporary))
                records.append({"kind": "CT as NIfTI", "case": path.name, **segmented(path)})
    return [{"fold": fold, **record} for record in records]


def _changed(
    item: Mapping[str, Any], label: torch.Tensor, segmented: _Assessed, measure: Measurement
) -> Iterator[dict[str, Any]]:
    """Yields a record of each changed copy, with its Dice where the label still fits."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in CHANGES:
            path = write_changed(item["image"], kind, Path(folder))
            record = {"kind": kind, "case": item["case"], **segmented(path)}
            if kind in SAME_GRID:
                image = segmented.read({"image": str(path)})["image"]
                record["dice"] = measure(image.as_tensor(), label, grid_spacing(image))[1]
            yield record


class _Assessed:
    """Segments a file as inference does; returns its quality, or why it is refused."""

    def __init__(self, task: Task, folder: Path, network: nn.Module) -> None:
        assessor = case_assessor(folder / "models", folder / "models" / "model.pt", task)
        assert assessor is not None
        self.layer = assessor.quality.layer
        self.read, self.network = preprocessing(task), network
        self.inferer = LabelMapInferer(task, assessor=assessor)

    @torch.no_grad()
    def __call__(self, path: str | Path) -> dict[str, Any]:
        """Returns verdict, reasons, risk and predicted Dice."""
        try:
            image = self.read({"image": str(path)})["image"]
        except Exception as error:  # MONAI wraps the reason
            while error.__cause__ is not None:
                error = error.__cause__
            return {"verdict": REFUSED, "risk": REFUSED_RISK, "reasons": [str(error).replace(str(path), "FILE")]}
        return dict(json.loads(self.inferer(image[None], self.network).meta[QUALITY]))


@torch.no_grad()
def pairwise_dice(image: torch.Tensor, students: Sequence[nn.Module], task: Task) -> dict[str, float]:
    """Returns the mean Dice between the segmentations of students by structure; 1 where neither finds it."""
    inferer = slice_inferer(task)
    label_maps = [inferer(image[None], student)[0].argmax(dim=0) for student in students]
    return {
        name: float(np.mean([_dice(a == number, b == number) for a, b in combinations(label_maps, 2)]))
        for number, name in enumerate(task.foreground.values(), start=1)
    }


def _dice(a: torch.Tensor, b: torch.Tensor) -> float:
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0


def risk_coverage_area(confidence: np.ndarray, risk: np.ndarray) -> float:
    """Returns the area under the risk-coverage curve: the mean over n of the mean risk of the n most confident.

    Cases of the same confidence come in the mean order.

    Args:
        confidence: (N,).
        risk: (N,).
    """
    groups = [risk[confidence == value] for value in np.unique(confidence)[::-1]]
    expected = np.concatenate([np.full(len(group), group.mean()) for group in groups])
    return float(np.mean(np.cumsum(expected) / np.arange(1, len(expected) + 1)))


def auroc(wrong: np.ndarray, right: np.ndarray) -> float:
    """Returns the probability that a wrong input has the larger score, ties counting half."""
    ranks = rankdata(np.concatenate([wrong, right]))[: len(wrong)]
    return float((ranks.sum() - len(wrong) * (len(wrong) + 1) / 2) / (len(wrong) * len(right)))


def print_figures(records: Sequence[Mapping[str, Any]]) -> None:
    """Prints coverage, correlation, risk and coverage, and the detection of wrong inputs."""
    right = [record for record in records if record["kind"] == RIGHT]
    rows = [
        (*record["predicted_dice"][name], true, record.get("pairwise", {}).get(name, np.nan))
        for record in right
        for name, true in record["dice"].items()
    ]
    value, low, high, true, pairwise = np.array(rows).T
    print(f"{len(right)} patients, {len(true)} structures, mean Dice {true.mean():.3f}, smallest {true.min():.3f}")
    inside = (low <= true) & (true <= high)
    print(f"90 % interval: {inside.sum()} of {len(inside)} inside, mean width {(high - low).mean():.3f}")
    errors = [np.abs(found - true).mean() for found in (value, true.mean())]
    print(f"mean absolute error {errors[0]:.3f}, of the mean Dice as prediction {errors[1]:.3f}")
    _print_ranking("structures", 1 - true, {"predicted Dice": value, "pairwise Dice": pairwise})
    by_case = {
        "predicted Dice": [np.mean([record["predicted_dice"][name][0] for name in record["dice"]]) for record in right],
        "-risk": [-record["risk"] for record in right],
        "pairwise Dice": [np.mean(list(record.get("pairwise", {"": np.nan}).values())) for record in right],
    }
    loss = np.array([1 - np.mean(list(record["dice"].values())) for record in right])
    _print_ranking("patients", loss, {name: np.array(values) for name, values in by_case.items()})
    for record in right:
        if record["verdict"] != OK:
            print(f"  {record['verdict']} at {record['case']}: {'; '.join(record['reasons'])} {record['dice']}")
    false = [sum(record["verdict"] == verdict for record in right) for verdict in ("look", REJECT)]
    print(f"right input: look {false[0]}, reject {false[1]} of {len(right)}")
    own = np.array([record["risk"] for record in right])
    for kind in dict.fromkeys(record["kind"] for record in records if record["kind"] != RIGHT):
        found = [record for record in records if record["kind"] == kind]
        counts = {name: sum(record["verdict"] == name for record in found) for name in (OK, "look", REJECT, REFUSED)}
        area = auroc(np.array([record["risk"] for record in found]), own)
        if dice := [value for record in found for value in record.get("dice", {}).values()]:
            kind += f", mean Dice {np.mean(dice):.3f}"
        print(f"{kind:32} AUROC {area:.3f}  {counts}  {found[0]['reasons'][:2]}")


def _print_ranking(unit: str, risk: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
    """Prints rank correlation and area under the risk-coverage curve, over all cases and those with pairwise Dice."""
    for chosen in (np.ones(len(risk), bool), np.isfinite(scores["pairwise Dice"])):
        if not chosen.any():
            continue
        loss = risk[chosen]
        known = {name: score[chosen] for name, score in scores.items() if np.isfinite(score[chosen]).all()}
        areas = {name: risk_coverage_area(score, loss) for name, score in known.items()}
        areas |= {"random": float(loss.mean()), "best": risk_coverage_area(-loss, loss)}
        ranks = {name: round(float(spearmanr(score, 1 - loss).statistic), 2) for name, score in known.items()}
        print(f"{len(loss)} {unit}: rank correlation {ranks}")
        print("  area under the risk-coverage curve", {name: round(area, 4) for name, area in areas.items()})


def main() -> None:
    """Reads the command line, measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("work", type=Path, help="folder of the students")
    parser.add_argument("--folds", type=numbers, default=[0])
    parser.add_argument("--again", action="store_true", help="print the figures of the last measurement")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    work = args.work.resolve()
    results = work / args.dataset / "quality.json"
    if not args.again:
        write_json(results, [record for fold in args.folds for record in measure_fold(args.dataset, work, fold)])
    print_figures([record for record in read_json(results) if record["fold"] in args.folds])


if __name__ == "__main__":
    main()
