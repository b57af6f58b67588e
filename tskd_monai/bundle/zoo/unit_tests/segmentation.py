"""Unit tests of the bundle's configs on generated scans, in the format of the model zoo."""

import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from parameterized import parameterized
from utils import check_workflow

BUNDLE_ROOT = "models/abdomen_mr_tskd_segmentation"

TEST_CASE_1 = [  # train
    {
        "bundle_root": BUNDLE_ROOT,
        "max_epochs": 1,
        "epoch_length": 2,
        "batch_size": 2,
        "val_interval": 1,
    }
]
TEST_CASE_2 = [{"bundle_root": BUNDLE_ROOT}]  # inference, without and with scores


def test_order(test_name1: str, test_name2: str) -> int:
    """Sorts the training test first."""

    def get_order(name: str) -> int:
        return 1 if "train" in name else 2

    return get_order(test_name1) - get_order(test_name2)


class TestStudent(unittest.TestCase):
    """Runs training, inference and evaluation on volumes of noise."""

    def setUp(self) -> None:
        """Writes four scans with labels, and their datalist."""
        self.folder = Path(tempfile.mkdtemp())
        task = json.loads(Path(BUNDLE_ROOT, "configs/task.json").read_text())
        values = [label["value"] for label in task["labels"]]
        entries = []
        for case in range(4):
            volumes = {
                "image": np.random.randint(0, 1000, (48, 48, 4)),
                "label": np.random.choice(values, (48, 48, 4)),
            }
            entry = {"case": f"case{case}"}
            for key, voxels in volumes.items():
                entry[key] = str(self.folder / f"{key}_{case}.nii.gz")
                nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([-4.0, 4.0, 8.0, 1.0])), entry[key])
            entries.append(entry)
        self.image = entries[0]["image"]
        self.datalist = str(self.folder / "datalist.json")
        sections = {"training": entries[:2], "validation": entries[2:3], "test": entries[3:]}
        Path(self.datalist).write_text(json.dumps(sections))
        if BUNDLE_ROOT not in sys.path:
            sys.path = [BUNDLE_ROOT, *sys.path]

    def tearDown(self) -> None:
        """Removes the scans."""
        shutil.rmtree(self.folder)

    def run_configs(self, workflow_type: str, configs: list[str], override: dict[str, Any], output_dir: str) -> Path:
        """Runs one or more configs of the bundle and returns the output folder."""
        workflow = ConfigWorkflow(
            workflow_type=workflow_type,
            config_file=[f"{BUNDLE_ROOT}/configs/{config}" for config in configs],
            logging_file=f"{BUNDLE_ROOT}/configs/logging.conf",
            meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
            output_dir=str(self.folder / output_dir),
            **override,
        )
        check_workflow(workflow, check_properties=True)
        return self.folder / output_dir

    @parameterized.expand([TEST_CASE_1])
    def test_train_config(self, override: dict[str, Any]) -> None:
        """Trains one short epoch."""
        output_dir = self.run_configs("train", ["train.json"], {"datalist": self.datalist, **override}, "models")
        assert (output_dir / "model.pt").is_file()

    @parameterized.expand([TEST_CASE_2])
    def test_infer_config(self, override: dict[str, Any]) -> None:
        """One scan."""
        output_dir = self.run_configs("infer", ["inference.json"], {"image": self.image, **override}, "predictions")
        assert (output_dir / "image_0_seg.nii.gz").is_file()

    @parameterized.expand([TEST_CASE_2])
    def test_evaluate_config(self, override: dict[str, Any]) -> None:
        """Segments and scores the validation section."""
        configs = ["inference.json", "evaluate.json"]
        output_dir = self.run_configs("infer", configs, {"datalist": self.datalist, **override}, "scores")
        assert (output_dir / "metrics.json").is_file()


if __name__ == "__main__":
    loader = unittest.TestLoader()
    loader.sortTestMethodsUsing = test_order
    unittest.main(testLoader=loader)
