"""Unit tests of the bundle's inference on a generated scan, in the format of the model zoo."""

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

BUNDLE_ROOT = "models/abdomen_mr_tskd_teacher_segmentation"

TEST_CASE_1 = [{"bundle_root": BUNDLE_ROOT}]  # inference


class TestTeacher(unittest.TestCase):
    """Runs inference on a volume of noise."""

    def setUp(self) -> None:
        """Writes a scan."""
        self.folder = Path(tempfile.mkdtemp())
        voxels = np.random.randint(0, 1000, (48, 48, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-4.0, 4.0, 8.0, 1.0])), self.folder / "scan.nii.gz")
        if BUNDLE_ROOT not in sys.path:
            sys.path = [BUNDLE_ROOT, *sys.path]

    def tearDown(self) -> None:
        """Removes the scan."""
        shutil.rmtree(self.folder)

    @parameterized.expand([TEST_CASE_1])
    def test_infer_config(self, override: dict[str, Any]) -> None:
        """One scan."""
        workflow = ConfigWorkflow(
            workflow_type="infer",
            config_file=f"{BUNDLE_ROOT}/configs/inference.yaml",
            logging_file=f"{BUNDLE_ROOT}/configs/logging.conf",
            meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
            image=str(self.folder / "scan.nii.gz"),
            output_dir=str(self.folder / "predictions"),
            **override,
        )
        check_workflow(workflow, check_properties=True)
        assert (self.folder / "predictions" / "scan_seg.nii.gz").is_file()


if __name__ == "__main__":
    unittest.main()
