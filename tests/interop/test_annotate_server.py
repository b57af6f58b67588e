"""`tskd annotate` with the real server: boxes, labels, training and the student, over REST; the phantom, tiny."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.interop.monai_label_client import LabelServer, ServerError, running_server
from tests.interop.scripted_annotator import ScriptedAnnotator, Truth
from tests.support.paths import ROOT
from tskd_monai.data.nifti import read_nifti, write_nifti
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json

STEPS = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2}
PRESET = {
    "image_size": 48,
    "synthesis": False,
    "teacher": STEPS,
    "diffusion": {"epoch_length": 2, "max_epochs": 1},
    "sampling": {"number": 1},
    "distillation": STEPS,
    "fine_tuning": STEPS,
}


def refused(server: LabelServer, request: dict[str, object]) -> str:
    with pytest.raises(ServerError) as raised:
        server.infer("boxes", "phantom_000", request)
    return str(raised.value)


@pytest.mark.nightly
def test_boxes_become_labels_and_these_a_student(tmp_path: Path) -> None:
    if not (ROOT / "build" / "monai_label" / "venv" / "installed.txt").is_file():
        pytest.skip("the MONAI Label environment is not there; scripts/setup_monai_label.sh makes it")
    write_study(tmp_path / "study", sections={"training": 4}, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    shutil.copytree(tmp_path / "study" / "images", tmp_path / "scans")
    test = Path(shutil.move(tmp_path / "scans" / "phantom_003.nii.gz", tmp_path))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"tiny": PRESET}))
    project, names = tmp_path / "project", ",".join(name for value, name in LABELS.items() if value)
    command = [sys.executable, "-m", "tskd_monai", "annotate", str(project), str(tmp_path / "scans"), "--labels", names]
    command += ["--promptable", "lite_medsam=random", "--size", "64", "--teacher", "sam_demo"]
    command += ["--preset", str(tmp_path / "tiny.yaml")]
    with running_server(command, tmp_path / "server.log", tmp_path / "cache") as server:
        assert list(server.info()["models"]) == ["boxes"]  # no student yet
        check_refusals(server, tmp_path)
        annotator = ScriptedAnnotator(server, Truth(tmp_path / "study" / "labels"), 0.08, spacing=4, looked_at=2)
        for _ in range(2):
            annotator.annotate(str(server.next_sample("uncertainty")["id"]))
        assert server.train("student", {})["status"] == "DONE"
        assert sorted(server.info()["models"]) == ["boxes", "student"]
        assert 0 <= annotator.student_dice([test]) <= 1
        scores = read_json(project / "rounds/0001/scores.json")
        assert len(scores) == 1 and server.next_sample("uncertainty")["id"] in scores
    datalist = read_json(project / "rounds/0001/datalist.json")
    stored = read_json(tmp_path / "scans" / "datastore_v2.json")["objects"]
    (entry,) = datalist["training"]
    assert entry["slices"] == stored[entry["case"]]["labels"]["final"]["info"]["slices"]
    assert len(entry["slices"]) < 8 and len(datalist["unlabeled"]) == 1


def check_refusals(server: LabelServer, folder: Path) -> None:
    """Checks that bad input is named, and that nothing of it is saved."""
    assert "within the image of 48 x 48 x 8" in refused(server, {"label": "liver", "roi": [1, 60, 1, 20, 2, 2]})
    assert "spans more than one voxel" in refused(server, {"label": "liver", "roi": [4, 4, 4, 4, 2, 2]})
    assert "found 'pancreas'" in refused(server, {"label": "pancreas", "roi": [1, 9, 1, 9, 2, 2]})
    with pytest.raises(ServerError, match="a trained student, found none yet"):
        server.infer("student", "phantom_000")
    image, affine = read_nifti(folder / "scans" / "phantom_000.nii.gz")
    moved = affine.copy()
    moved[:3, 3] += 40
    for values, grid, message in (
        (np.zeros_like(image), moved, "label other of image phantom_000"),
        (np.full_like(image, 9), affine, "expected label values .* found also"),
    ):
        write_nifti(folder / "other.nii.gz", values.astype(np.uint8), grid)
        with pytest.raises(ServerError, match=message):
            server.save_label("phantom_000", folder / "other.nii.gz", {})
    assert not server.datastore()["objects"]["phantom_000"]["labels"] and not list(folder.glob("scans/labels/final/*"))
    with pytest.raises(ServerError, match="at least 2 images, found 0"):
        server.train("student", {})
    assert server.datastore_status()["completed"] == 0 and not (folder / "project" / "rounds").exists()
