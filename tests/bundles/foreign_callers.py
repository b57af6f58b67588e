"""Programs of others that run a bundle, each as the function that does what the program does.

A caller takes a bundle, an image file and an output folder, and returns the label map (X, Y, Z).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, run

from tests.bundles import deploy_requests, monai_label_requests

Caller = Callable[[Path, Path, Path], np.ndarray]


def slicer_config(bundle: Path, image: Path, output: Path) -> ConfigParser:
    """Returns the config as the bundle module of SlicerMONAIAuto3DSeg prepares it (pull request 100)."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    parser["dataset_dir"] = str(image.parent)
    parser["output_dir"] = str(output)
    parser["datalist"] = [str(image)]
    parser["window_device"] = parser["device"] = "cpu"
    parser["inferer"]["device"] = "cpu"
    parser["dataloader"]["num_workers"] = 0
    return parser


def slicer(bundle: Path, image: Path, output: Path) -> np.ndarray:
    """Runs the evaluator alone and takes the newest segmentation below the output folder."""
    with torch.no_grad():
        parser = slicer_config(bundle, image, output)
        assert len(parser.get_parsed_content("dataloader")) > 0
        parser.get_parsed_content("evaluator").run()
    newest = max(output.rglob("*.nii.gz"), key=lambda path: path.stat().st_mtime)
    return voxels(newest)


def older_zoo(bundle: Path, image: Path, output: Path) -> np.ndarray:
    """Runs the bundle with a list of paths as `datalist`, as the zoo's first bundles make it from `dataset_dir`."""
    folder, config = str(image.parent), str(bundle / "configs" / "inference.json")
    options = {"dataset_dir": folder, "datalist": [str(image)], "output_dir": str(output), "device": "cpu"}
    run(config_file=config, bundle_root=str(bundle), logging_file=False, **options)
    return voxels(output / f"{image.name.partition('.')[0]}_seg.nii.gz")


def config_workflow(bundle: Path, image: Path, output: Path) -> np.ndarray:
    """Runs the workflow through its properties, as MONAI's client programs do."""
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        datalist=[{"image": str(image)}],
        output_dir=str(output),
        device="cpu",
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert Path(workflow.dataset_dir).is_dir()
    workflow.evaluator.run()
    workflow.finalize()
    return voxels(output / f"{image.name.partition('.')[0]}_seg.nii.gz")


def monai_label(bundle: Path, image: Path, output: Path) -> np.ndarray:
    """Infers as MONAI Label's bundle task does; nothing is written."""
    return np.asarray(monai_label_requests.infer(bundle, image)["pred"])[0]


def deploy(bundle: Path, image: Path, output: Path) -> np.ndarray:
    """Infers as MONAI Deploy's bundle operator does, which hands over voxels and affine instead of a file."""
    deploy_requests.export(bundle)
    parser = deploy_requests.open_archive(bundle)
    return deploy_requests.infer(parser, bundle, voxels(image, np.float32), nib.load(image).affine)


CALLERS: Mapping[str, Caller] = {
    "slicer": slicer,
    "older_zoo": older_zoo,
    "config_workflow": config_workflow,
    "monai_label": monai_label,
    "deploy": deploy,
}


def voxels(path: Path, dtype: type | None = None) -> np.ndarray:
    """Returns the voxels of a NIfTI file."""
    return np.asarray(nib.load(path).dataobj, dtype)
