"""Every command of the bundles' READMEs runs as it stands, from a folder that is not the bundle's, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.data.datalist import load_datalist
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json, write_json

pytestmark = pytest.mark.slow

BUNDLES = ("teacher_lora", "diffusion_synthesis", "distillation", "segmentation")
# What makes a training run of hours one of seconds; everything else is as documented.
SHORT = {
    "train": ["--epoch_length", "2", "--max_epochs", "1", "--batch_size", "2"],
    "inference": ["--num_inference_steps", "3"],
}


def documented_commands(bundle: str) -> list[list[str]]:
    """The commands of a bundle's README, split as a shell does."""
    text = (ROOT / "bundles" / bundle / "docs" / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


def run_command(command: list[str], folder: Path, python: str) -> None:
    """Runs a documented command with this environment's Python, shortened."""
    configs = command[command.index("--config_file") + 1] if "--config_file" in command else ""
    training = "train" in configs or "fine_tune" in configs
    extra = SHORT["train"] if training else SHORT["inference"] if "diffusion" in configs else []
    programs = {"torchrun": ["-m", "torch.distributed.run"], "tskd": ["-m", "tskd_monai"], "python": []}
    command = [python, *programs[command[0]], *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *extra], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bundles`, a planned study, a NIfTI scan and the same scan as a DICOM series."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("bundles", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    sections = {"training": 2, "validation": 1, "test": 1}
    write_study(folder / "phantom", seed=3, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    plan = [python_command(), "-m", "tskd_monai", "plan", "phantom/datalist.json"]
    plan += ["--output-dir", "study", "--image-size", "48", "--labelled-slices", "8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(plan, cwd=folder, env=environment, check=True, capture_output=True)
    scan = nib.load(load_datalist(folder / "study/datalist.json")["test"][0]["image"])
    nib.save(scan, folder / "scan.nii.gz")
    write_dicom_series(folder / "series", np.asarray(scan.dataobj), scan.affine, seed=3)
    return folder


def test_documented_commands_run_in_order(workplace: Path) -> None:
    for bundle in BUNDLES:
        for number, command in enumerate(documented_commands(bundle)):
            # The first of each bundle starts an interpreter as a user does.
            run_command(command, workplace, python_command() if number else sys.executable)
    study = workplace / "study"
    assert (study / "teacher/adapter/adapter_model.safetensors").is_file()
    transfer_set = read_json(study / "transfer_set/transfer_set.json")
    assert len(transfer_set["unlabeled"]) + len(transfer_set["rejected"]) == transfer_set["gates"]["sampled"] == 16
    assert (study / "student/models/model.pt").is_file()
    assert set(read_json(workplace / "predictions_validation/metrics.json"))
    check_one_mask_for_nifti_and_dicom(workplace / "predictions", workplace / "scan.nii.gz")
    check_task_mismatch_is_refused(workplace)


def check_one_mask_for_nifti_and_dicom(predictions: Path, scan: Path) -> None:
    """The NIfTI volume and the same volume as DICOM give one mask, on the scan's own grid."""
    from_nifti = nib.load(predictions / "scan_seg.nii.gz")
    others = [path for path in predictions.glob("*_seg.nii.gz") if path.name != "scan_seg.nii.gz"]
    assert len(others) == 1 and "series" not in others[0].name
    from_dicom = nib.as_closest_canonical(nib.load(others[0]))
    assert from_nifti.shape == nib.load(scan).shape
    np.testing.assert_allclose(from_nifti.affine, nib.load(scan).affine, atol=1e-3)
    canonical = nib.as_closest_canonical(from_nifti)
    np.testing.assert_array_equal(np.asarray(canonical.dataobj), np.asarray(from_dicom.dataobj))
    assert list(predictions.glob("*_seg.dcm"))


def check_task_mismatch_is_refused(workplace: Path) -> None:
    """What was made for another task is refused by name."""
    task = read_json(workplace / "study/task.json")
    write_json(workplace / "other_task.json", {**task, "name": "another study"})
    command = documented_commands("distillation")[0]
    command = [python_command(), *command[1:], "--task", "other_task.json", "--output_dir", "refused"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "was trained for task" in done.stderr
    assert not (workplace / "refused").exists()
