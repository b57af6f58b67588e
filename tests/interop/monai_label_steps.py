"""The steps of annotating with a MONAI Label server, each compared with the expected result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import io_orientation, ornt_transform

from tests.interop.monai_label_client import LabelServer
from tests.interop.monai_label_study import Scan, mean_dice, segment
from tskd_monai.data.task import load_task
from tskd_monai.training.checkpoint import load_checkpoint

TRAINING = {"max_epochs": 6, "device": "cpu", "val_split": 0}
"""Setting of MONAI Label: with so few labels none is held out, so the best weights are those on the labelled scans."""
AFFINE_TOLERANCE_MM = 1e-3
TURNS = ("before", "after")  # training


def expect(condition: bool, expected: object, found: object) -> None:
    """Raises AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(f"expected {expected}, found {found}")


def stem(scan: Scan) -> str:
    """Returns the name of a scan, after which its reference is named."""
    return scan.label.name.removesuffix(".nii.gz")


def same_label_map(found: Path, expected: Path) -> int:
    """Returns the number of foreground voxels of two label maps that are equal in world coordinates.

    Raises:
        AssertionError: if a voxel differs; the order and direction of the axes may differ.
    """
    theirs, ours = (nib.as_closest_canonical(nib.load(path)) for path in (found, expected))
    expect(theirs.shape == ours.shape, ours.shape, theirs.shape)
    expect(np.allclose(theirs.affine, ours.affine, atol=AFFINE_TOLERANCE_MM), ours.affine, theirs.affine)
    different = int((np.asarray(theirs.dataobj) != np.asarray(ours.dataobj)).sum())
    expect(different == 0, f"the label map {expected.name}", f"{different} other voxels")
    return int((np.asarray(ours.dataobj) > 0).sum())


class LabelSession:
    """One server, one bundle, and the scans that are annotated.

    Args:
        server: running server.
        bundle: bundle that it serves and trains.
        scans: scans by the server's identifiers.
        folder: folder for the label maps.
    """

    def __init__(self, server: LabelServer, bundle: Path, scans: Mapping[str, Scan], folder: Path) -> None:
        self.server, self.bundle, self.scans, self.folder = server, bundle, scans, folder
        self.model = bundle.name
        self.foreground = load_task(bundle / "configs" / "task.json").foreground
        folder.mkdir(parents=True, exist_ok=True)

    def offers_the_model(self) -> str:
        """Step: `/info/` lists the model, its labels by value, and a trainer; every scan is found."""
        info = self.server.info()
        expect(list(info["models"]) == [self.model], f"the model {self.model}", list(info["models"]))
        model = info["models"][self.model]
        labels = {name.lower(): value for value, name in self.foreground.items()}
        expect(model["labels"] == labels, f"labels {labels}", model["labels"])
        expect(model["type"] == "segmentation", "a segmentation", model["type"])
        expect(list(info["trainers"]) == [self.model], "its trainer", list(info["trainers"]))
        total = self.server.datastore_status()["total"]
        expect(total == len(self.scans), f"{len(self.scans)} scans", total)
        return ", ".join(f"{value} {name}" for name, value in labels.items())

    def infers(self, turn: str) -> str:
        """Step: label maps equal those of `python -m monai.bundle run` with the same weights, voxel for voxel."""
        voxels, scans = 0, list(self.scans.values())
        for identifier, scan in self.scans.items():
            content = self.server.infer(self.model, identifier, {"result_extension": ".nii.gz"})
            self.label_map(scan, turn).write_bytes(content)
        for scan, expected in zip(scans, segment(self.bundle, scans, self.folder / f"runner_{turn}"), strict=True):
            voxels += same_label_map(self.label_map(scan, turn), expected)
        expect(voxels > 0, "some foreground", voxels)
        return f"{len(self.scans)} scans, {voxels} foreground voxels, mean Dice {self.dice(list(self.scans), turn):.3f}"

    def saves_labels(self, identifiers: Sequence[str]) -> str:
        """Step: the server accepts finished labels and knows which scans have one."""
        names = [{"name": name, "idx": value} for value, name in self.foreground.items()]
        for identifier in identifiers:
            self.server.save_label(identifier, self.corrected(self.scans[identifier]), {"label_info": names})
        objects = self.server.datastore()["objects"]
        stored = sorted(name for name, entry in objects.items() if "final" in entry["labels"])
        expect(stored == sorted(identifiers), sorted(identifiers), stored)
        return f"{len(stored)} of {len(self.scans)} scans are labelled"

    def gives_labels_back(self, identifiers: Sequence[str]) -> str:
        """Step: finished labels are returned as they were saved."""
        voxels = 0
        for identifier in identifiers:
            scan = self.scans[identifier]
            back = self.folder / f"{stem(scan)}_saved.nii.gz"
            back.write_bytes(self.server.label(identifier))
            voxels += same_label_map(back, scan.label)
        return f"{voxels} foreground voxels"

    def names_the_next_sample(self, expected: Sequence[str]) -> str:
        """Step: each strategy proposes a scan that has no label yet."""
        found = {strategy: self.server.next_sample(strategy).get("id") for strategy in ("first", "random")}
        expect(set(found.values()) <= set(expected), f"one of {list(expected)}", found)
        return str(found["first"])

    def trains(self) -> str:
        """Step: training on the saved labels replaces the weights."""
        path = self.bundle / "models" / "model.pt"
        before = load_checkpoint(path)
        self.server.train(self.model, TRAINING)
        after = load_checkpoint(path)
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        expect(bool(changed), "other weights after training", "the same")
        return f"{TRAINING['max_epochs']} epochs, {len(changed)} of {len(before)} tensors changed"

    def infers_anew(self) -> str:
        """Step: after training, label maps come from the new weights, not from the old ones."""
        said = self.infers("after")
        pairs = [[nib.load(self.label_map(scan, turn)) for turn in TURNS] for scan in self.scans.values()]
        same = [np.array_equal(np.asarray(old.dataobj), np.asarray(new.dataobj)) for old, new in pairs]
        expect(not all(same), "other label maps than before training", "the same")
        return said

    def corrected(self, scan: Scan) -> Path:
        """Returns the scan's true labels on the grid of the label map that the server predicted for it."""
        grid, truth = nib.load(self.label_map(scan, "before")), nib.load(scan.label)
        turned = truth.as_reoriented(ornt_transform(io_orientation(truth.affine), io_orientation(grid.affine)))
        path = self.folder / f"{stem(scan)}_corrected.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
        return path

    def label_map(self, scan: Scan, turn: str) -> Path:
        """Returns the file of the label map that the server predicted for a scan `before` or `after` training."""
        return self.folder / f"{stem(scan)}_{turn}.nii.gz"

    def dice(self, identifiers: Sequence[str], turn: str) -> float:
        """Returns the mean Dice of some label maps."""
        scans = [self.scans[identifier] for identifier in identifiers]
        scores = [mean_dice(self.label_map(scan, turn), self.corrected(scan), self.foreground) for scan in scans]
        return float(np.mean(scores))
