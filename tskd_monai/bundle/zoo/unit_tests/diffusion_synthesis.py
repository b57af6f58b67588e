"""Unit tests of the bundle's sampling, in the format of the model zoo."""

import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from parameterized import parameterized
from utils import check_workflow

BUNDLE_ROOT = "models/abdomen_mr_tskd_diffusion_synthesis"

TEST_CASE_1 = [  # inference
    {"bundle_root": BUNDLE_ROOT, "number": 2, "batch_size": 2, "num_inference_steps": 2}
]


class TestDiffusion(unittest.TestCase):
    """Samples two images in two steps."""

    def setUp(self) -> None:
        """Creates an output folder."""
        self.folder = Path(tempfile.mkdtemp())
        if BUNDLE_ROOT not in sys.path:
            sys.path = [BUNDLE_ROOT, *sys.path]

    def tearDown(self) -> None:
        """Removes them."""
        shutil.rmtree(self.folder)

    @parameterized.expand([TEST_CASE_1])
    def test_infer_config(self, override: dict[str, Any]) -> None:
        """Writes a transfer set of two images."""
        workflow = ConfigWorkflow(
            workflow_type="infer",
            config_file=f"{BUNDLE_ROOT}/configs/inference.yaml",
            logging_file=f"{BUNDLE_ROOT}/configs/logging.conf",
            meta_file=f"{BUNDLE_ROOT}/configs/metadata.json",
            output_dir=str(self.folder / "transfer_set"),
            **override,
        )
        check_workflow(workflow, check_properties=True)
        assert len(list((self.folder / "transfer_set").rglob("*.png"))) == 2


if __name__ == "__main__":
    unittest.main()
