from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "monai_label.sh"


def write_bundle(folder: Path, values: tuple[int, ...] = (0, 1, 2), axcodes: str | None = "PLS") -> Path:
    """Writes the files that identify a bundle."""
    for name in ("configs/inference.json", "configs/train.json", "configs/metadata.json", "models/model.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    labels = [{"value": value, "name": f"organ {value}"} for value in values]
    (folder / "configs/task.json").write_text(json.dumps({"labels": labels, "axcodes": axcodes}))
    return folder


def call(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(["bash", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_help_states_what_is_given_and_written() -> None:
    code, text = call("--help")
    assert code == 0
    for word in ("BUNDLE", "STUDIES", "--port", "--host", "--name", "models/model.pt", "datastore_v2.json"):
        assert word in text


def test_arguments_are_counted(tmp_path: Path) -> None:
    assert call(tmp_path) == (2, "monai_label: expected BUNDLE and STUDIES, found 1 arguments. See --help.\n")
    code, text = call(tmp_path, tmp_path, "--prot", "8001")
    assert code == 2 and "found --prot" in text


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    code, text = call(tmp_path / "nothing", tmp_path)
    assert code == 2 and f"expected the folder of a bundle at {tmp_path / 'nothing'}, found none" in text


def test_a_folder_that_is_no_bundle_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    code, text = call(tmp_path, tmp_path)
    assert code == 2 and f"expected configs/inference.json in the bundle {tmp_path}, found none" in text


def test_missing_weights_are_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "student")
    (bundle / "models/model.pt").unlink()
    code, text = call(bundle, tmp_path)
    assert code == 2 and f"expected the trained weights at {bundle}/models/model.pt, found none" in text


def test_a_missing_studies_folder_is_named(tmp_path: Path) -> None:
    code, text = call(write_bundle(tmp_path / "student"), tmp_path / "scans")
    assert code == 2 and f"found no folder {tmp_path / 'scans'}" in text and "DICOMweb" in text


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        code, text = call(write_bundle(tmp_path / "student"), tmp_path, "--port", port)
    assert code == 2 and f"found 127.0.0.1:{port} taken" in text and "--port" in text


@pytest.mark.parametrize(("name", "message"), [("kidney_detection", "'detection'"), ("left kidney", "letters")])
def test_a_name_that_monai_label_takes_for_something_else_is_refused(tmp_path: Path, name: str, message: str) -> None:
    code, text = call(write_bundle(tmp_path / "student"), tmp_path, "--name", name)
    assert code == 2 and message in text and "--name" in text


def test_labels_that_viewers_would_renumber_are_refused(tmp_path: Path) -> None:
    code, text = call(write_bundle(tmp_path / "student", (0, 3, 7)), tmp_path)
    assert code == 2 and "expected label values [0, 1, 2]" in text and "found [0, 3, 7]" in text


def test_a_task_of_2d_images_is_refused(tmp_path: Path) -> None:
    code, text = call(write_bundle(tmp_path / "student", axcodes=None), tmp_path)
    assert code == 2 and "expected a task of volumes" in text and "2D images" in text
