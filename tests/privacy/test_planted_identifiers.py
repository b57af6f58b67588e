"""Patients' identifiers in DICOM headers and paths reach no output, whatever the stage and the format.

Deliberately not searched: `private/`, whose purpose is to name inputs, and DICOM SEG, a clinical object that belongs to
its patient and must contain the patient module.
"""

from __future__ import annotations

import csv
import logging
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.bundle import ckpt_export, run

from tests.privacy.identifiers import FOLDER, IDENTIFIERS, SERIES_FOLDER, found_identifiers, search
from tests.privacy.planted_scans import ROOT, scan, untrained_student
from tests.support.fork_server import python_command
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import FOLDER as PRIVATE

pytestmark = pytest.mark.slow

LEFT_OUT = (PRIVATE, ".dcm")
SECTIONS = {"training": (1, 2), "validation": (3,), "test": (4, 5)}
TRACKED = {"tensorboard": True} | ({"tracking": "mlflow"} if find_spec("mlflow") else {})
TINY = {
    "image_size": 48,
    "labelled_slices": 6,
    "teacher": {
        "epoch_length": 2,
        "max_epochs": 1,
        "val_interval": 1,
        "batch_size": 2,
        **TRACKED,
    },
    "diffusion": {"epoch_length": 2, "max_epochs": 1, "batch_size": 2},
    "sampling": {"number": 2, "num_inference_steps": 2},
    "distillation": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "fine_tuning": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "scratch": {"epoch_length": 2, "val_interval": 1, "batch_size": 2},
}


def labelled_as_read(series: Path) -> None:
    """Resamples the label to the grid on which the series is read."""
    read, path = read_series(series), series.parent / "label.nii.gz"
    label = nib.load(path)
    there = np.linalg.solve(label.affine, read.affine)
    assert np.allclose(np.abs(there[:3, :3]), np.abs(there[:3, :3]).round(), atol=1e-3)
    turned = label.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(label.affine), nib.io_orientation(read.affine))
    )
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), read.affine), path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the datalist of five patients whose folders and headers name them."""
    folder = tmp_path_factory.mktemp("incoming") / FOLDER
    datalist: dict[str, object] = {"name": "phantom", "labels": {str(v): n for v, n in LABELS.items()}}
    for section, numbers in SECTIONS.items():
        entries = []
        for number in numbers:
            labelled_as_read(scan(folder / str(number), number))
            paths = {"image": f"{number}/{SERIES_FOLDER}", "label": f"{number}/label.nii.gz"}
            entries.append({**paths, "case": f"case_{number}"})
        datalist[section] = entries
    write_json(folder / "datalist.json", datalist)
    return folder / "datalist.json"


def uids(datalist: Path) -> list[str]:
    """Returns the UIDs of the study's series."""
    return [read_series(path).uid for path in sorted(datalist.parent.glob(f"*/{SERIES_FOLDER}"))]


def assert_free_of(folder: Path, at_least: int, series_uids: list[str]) -> None:
    """Searches the outputs of a run, except those deliberately left out."""
    searched, found = search(folder, LEFT_OUT)
    assert found == []
    assert searched >= at_least
    for path in folder.rglob("*"):
        if path.is_file() and PRIVATE not in path.relative_to(folder).parts and path.suffix != ".dcm":
            assert not any(uid.encode() in path.read_bytes() for uid in series_uids), path


def test_search_finds_what_is_packed_and_encoded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.frombuffer(b"Plantedname^Jane", np.uint8))
    nib.save(
        nib.Nifti1Image(np.frombuffer(b"MRN4711PLANTED..", np.uint8).reshape((4, 4, 1), order="F"), np.eye(4)),
        tmp_path / "b.nii.gz",
    )
    (tmp_path / "c.html").write_text("data:;base64,UGxhbnRlZG5hbWVeSmFuZV5QbGFudGVkbmFtZV5KYW5lXg==")
    (tmp_path / FOLDER).mkdir()
    searched, found = search(tmp_path, LEFT_OUT)
    assert searched == 3
    assert [line.split(":")[0] for line in found] == [*(FOLDER,) * 2, "a.npz", "b.nii.gz", "c.html"]


def test_pipeline_export_and_report_are_free_of_planted_identifiers(study: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"tiny": TINY}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [
        ["train", "--datalist", study, "--output-dir", "out", "--preset", "tiny.yaml"],
        ["export", "out/student", "--to", "onnx"],
    ]
    for number, command in enumerate(commands):
        done = subprocess.run(
            [python_command(), "-m", "tskd_monai", *map(str, command)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (tmp_path / "out" / f"log_{number}.txt").write_text(done.stdout + done.stderr)
    bundle = tmp_path / "out" / "student"
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "out" / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        key_in_ckpt="",
        bundle_root=str(bundle),
    )
    assert str(ROOT).encode() not in (bundle / "models" / "model.onnx").read_bytes()
    assert_free_of(tmp_path / "out", at_least=60, series_uids=uids(study))


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Returns an untrained student bundle."""
    return untrained_student(tmp_path / "student")


def test_inference_that_fails_in_part_tells_no_identifier_and_keeps_the_key_private(
    student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = tmp_path / "incoming" / FOLDER
    for number in (1, 2, 3, 4):
        scan(tree / f"{FOLDER}_{number}", number)
    broken = sorted((tree / f"{FOLDER}_2" / SERIES_FOLDER).iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:-40])
    sorted((tree / f"{FOLDER}_3" / SERIES_FOLDER).iterdir())[3].unlink()
    for path in (tree / f"{FOLDER}_1" / SERIES_FOLDER).iterdir():  # a second series among the fourth's files
        (tree / f"{FOLDER}_4" / SERIES_FOLDER / f"again_{path.name}").write_bytes(path.read_bytes())
    for path in tree.glob("*/label.nii.gz"):
        path.unlink()
    configs = [str(student / "configs" / name) for name in ("inference.json", "dicom_seg.json")]
    caplog.set_level(logging.INFO, "tskd_monai")
    caplog.set_level(logging.INFO, "ignite")
    with pytest.raises(RuntimeError) as raised:
        run(
            config_file=configs, bundle_root=str(student), logging_file=False, device="cpu", tree=str(tree),
            output_dir=str(tmp_path / "out"),
        )  # fmt: skip
    told = str(raised.value.__cause__)
    assert "3 of 4 cases failed" in told
    summary = read_json(tmp_path / "out" / "summary.json")
    logged = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith(("tskd_monai", "ignite")))
    assert found_identifiers("\n".join([told, logged]).encode()) == set()
    assert logged.count("failed: Expected") == 3
    assert_free_of(tmp_path / "out", at_least=7, series_uids=[])
    with (tmp_path / "out" / PRIVATE / "studies.csv").open() as file:
        key = {row["study"]: row for row in csv.DictReader(file)}
    assert sorted(key) == sorted(study["study"] for study in summary["studies"])
    assert sorted(Path(row["input"]) for row in key.values()) == sorted(tree.glob(f"*/{SERIES_FOLDER}"))
    assert any(broken.name in row["message"] for row in key.values())
    assert (tmp_path / "out" / PRIVATE).stat().st_mode & 0o077 == 0


def test_every_kind_of_identifier_is_planted(study: Path) -> None:
    planted = b"".join(path.read_bytes() for path in study.parent.rglob("*.dcm"))
    names = "".join(map(str, study.parent.rglob("*"))).encode()
    assert found_identifiers(planted + names) == set(IDENTIFIERS)
