"""Runs a student in an app of MONAI Deploy on a CPU, and compares its voxels with those of the bundle runner.

    python -m tests.interop.deploy_app WORK

Requirements, in an environment of their own: this package with the extra dicom, and monai-deploy-app-sdk==4.0.0 with
what it requires (holoscan-cu13 4.6.0; no GPU). The SDK's files must lie in the same site-packages as MONAI's.
The app is the SDK's own: DICOM loader, series selector, series to volume, bundle inference on `models/model.ts`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, IOType, Operator, OperatorSpec
from monai.deploy.core.domain import Image
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    IOMapping,
    MonaiBundleInferenceOperator,
)

from tests.bundles import deploy_requests
from tests.privacy.planted_scans import GRID, untrained_student
from tskd_monai.bundle.run import BundleRun
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import render, sample_anatomy


class Keep(Operator):
    """Keeps the label map that the app has computed."""

    found: np.ndarray | None = None

    def setup(self, spec: OperatorSpec) -> None:
        """Declares the input."""
        spec.input("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Stores the array, (D, H, W) as in the SDK."""
        Keep.found = np.asarray(op_input.receive("image").asnumpy())


class StudentApp(Application):
    """From a folder of DICOM to a label map.

    Args:
        series: folder of the series.
        model: TorchScript of the student with its configs.
    """

    def __init__(self, series: Path, model: Path) -> None:
        self.series, self.model = series, model
        super().__init__(argv=[])

    def compose(self) -> None:
        """Connects the operators."""
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.series, name="load")
        select = DICOMSeriesSelectorOperator(self, name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        infer = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=AppContext({"model": str(self.model)}),
            bundle_path=self.model,
            name="infer",
        )
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, infer, {("image", "image")})
        self.add_flow(infer, Keep(self, name="keep"), {("pred", "image")})


def main(work: Path) -> None:
    """Writes a scan and a student, runs both ways, and compares."""
    work = work.resolve()
    student, series = untrained_student(work / "student"), work / "series"
    image, _ = render(sample_anatomy(1), GRID, 1)
    write_dicom_series(series, image.astype(np.uint16), GRID.matrix, seed=1)
    deploy_requests.export(student)
    os.chdir(student)  # the configs in the TorchScript find task.json from the bundle's folder
    StudentApp(series, student / "models" / "model.ts").run()
    options = {"image": series, "output_dir": work / "out", "device": "cpu"}
    BundleRun(student, ("inference.json",), options).run_here(logging_file=False)
    expected = np.asarray(nib.load(next((work / "out").glob("*_seg.nii.gz"))).dataobj)
    assert Keep.found is not None, "the app computed nothing"
    same = [np.array_equal(turned, expected) for turned in _turns(Keep.found.squeeze())]
    assert len(np.unique(expected)) > 2, "a label map of one class proves nothing"
    assert same.count(True) == 1, "the app's label map is not that of the runner"
    sys.stdout.write(f"The app and the runner agree in all {expected.size} voxels.\n")


def _turns(array: np.ndarray) -> list[np.ndarray]:
    """Returns the array with its axes in the order of NIfTI, in the eight combinations of directions."""
    turned = array.transpose(2, 1, 0)
    return [turned[::x, ::y, ::z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
