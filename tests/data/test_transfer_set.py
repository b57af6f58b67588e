from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tskd_monai.data.transfer_set import image_name, load_transfer_set

TASK = "a" * 64


def write_set(folder: Path, number: int = 2, **changes: Any) -> Path:
    """Writes a well-formed transfer set, except for `changes` of its settings."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for index in range(number):
        content = f"image {index}".encode()
        (folder / image_name(index)).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        case = f"synthetic_{index:06d}"
        entries.append(
            {
                "image": image_name(index),
                "case": case,
                "origin": "synthetic",
                "seed": index,
                "sha256": sha256,
                "condition": None,
            }
        )
    settings: dict[str, Any] = {
        "format_version": 2,
        "task_hash": TASK,
        "checkpoint_sha256": "c" * 64,
        "image_size": [16, 16],
        "channels": 1,
        "pixdim": [1.5, 1.5],
        "sampler": "dpmsolver++",
        "num_inference_steps": 20,
        "batch_size": 8,
        "base_seed": 0,
        "condition": {"kind": "none"},
        "unlabeled": entries,
    }
    path = folder / "transfer_set.json"
    path.write_text(json.dumps({**settings, **changes}))
    return path


def change_entry(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content["unlabeled"][1].update(changes)
    path.write_text(json.dumps(content))


def test_entries_come_with_absolute_paths_from_file_or_folder(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set", number=3)
    entries = load_transfer_set(path, TASK)
    assert entries == load_transfer_set(path.parent, TASK)
    assert [entry["case"] for entry in entries] == ["synthetic_000000", "synthetic_000001", "synthetic_000002"]
    assert all(Path(entry["image"]).is_absolute() and Path(entry["image"]).is_file() for entry in entries)
    assert not [key for key in entries[0] if key.startswith(("image_", "label_"))]


def test_set_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"of task {'b' * 64} in .*transfer_set.json, found one of task {TASK}"):
        load_transfer_set(write_set(tmp_path / "set"), "b" * 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "Expected format_version 2"),
        ({"channels": "1"}, "Expected channels in .* to be int, found '1'"),
        ({"channels": True}, "Expected channels in .* to be int, found True"),
        ({"unlabeled": {}}, "Expected unlabeled in .* to be list"),
        ({"unlabeled": []}, "at least one image"),
        ({"unlabeled": ["x"]}, r"Expected an object in .*unlabeled\[0\], found str"),
        ({"task_hash": None}, "Expected task_hash in .* to be str"),
    ],
)
def test_malformed_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_transfer_set(write_set(tmp_path / "set", **changes), TASK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "1"}, r"Expected seed in .*unlabeled\[1\] to be int"),
        ({"sha256": "xyz"}, "64 hex digits"),
        ({"case": ""}, "to name a case"),
        ({"case": "synthetic_000000"}, "Expected every case .* once"),
        ({"image": "../outside.png"}, "inside the list's folder, found '../outside.png'"),
        ({"image": "/etc/hostname"}, "inside the list's folder"),
        ({"sha256": "0" * 64}, "as it was written, found another file"),
    ],
)
def test_malformed_entries_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_set(tmp_path / "set")
    (tmp_path / "outside.png").write_bytes(b"outside")
    change_entry(path, **changes)
    with pytest.raises(ValueError, match=message):
        load_transfer_set(path, TASK)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    (tmp_path / "outside.png").write_bytes(b"image 1")
    (path.parent / image_name(1)).unlink()
    (path.parent / image_name(1)).symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match="inside the list's folder"):
        load_transfer_set(path, TASK)


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    (path.parent / image_name(1)).unlink()
    with pytest.raises(FileNotFoundError, match=r"images/000001.png of .*unlabeled\[1\], found no such file"):
        load_transfer_set(path, TASK)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="Expected a JSON file at"):
        load_transfer_set(path, TASK)
    (path.parent / "transfer_set.progress-0.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match="whose sampling was stopped; run it again"):
        load_transfer_set(path.parent, TASK)


def test_a_missing_key_and_broken_json_are_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    content = json.loads(path.read_text())
    del content["sampler"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Expected sampler in .*transfer_set.json, found none"):
        load_transfer_set(path, TASK)
    path.write_text('{"unlabeled": [')
    with pytest.raises(ValueError, match="Expected JSON in .*transfer_set.json"):
        load_transfer_set(path, TASK)


def test_reading_a_set_does_not_import_diffusers() -> None:
    code = "import sys, tskd_monai.data.transfer_set; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_rejected_images_are_left_out(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    content = json.loads(path.read_text())
    content["rejected"] = [{**content["unlabeled"].pop(), "reasons": ["near_copy"]}]
    path.write_text(json.dumps(content))
    assert [entry["case"] for entry in load_transfer_set(path, TASK)] == ["synthetic_000000"]
    content["rejected"].append({**content["unlabeled"].pop(), "reasons": ["near_copy"]})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the gates rejected all 2"):
        load_transfer_set(path, TASK)


def test_label_maps_come_with_their_images(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    label = path.parent / "labels/000001.png"
    label.parent.mkdir()
    label.write_bytes(b"label map")
    change_entry(path, label="labels/000001.png", mask_sha256=hashlib.sha256(b"label map").hexdigest())
    assert load_transfer_set(path, TASK)[1]["label"] == str(label.resolve())
    label.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"Expected labels/000001.png of .*unlabeled\[1\] as it was written"):
        load_transfer_set(path, TASK)


def test_rejected_images_of_another_type_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set", rejected="images/000000.png")
    for rejected in (False, True):
        with pytest.raises(ValueError, match=r"Expected rejected in .*transfer_set\.json to be list, found 'images"):
            load_transfer_set(path, TASK, rejected=rejected)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("images/a\x00b.png", ValueError, "inside the list's folder"),
        ("x" * 5000, FileNotFoundError, r"Expected the file x+ of .*unlabeled\[1\], found no such file"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(
    tmp_path: Path, name: str, kind: type[Exception], message: str
) -> None:
    path = write_set(tmp_path / "set")
    change_entry(path, image=name)
    with pytest.raises(kind, match=message):
        load_transfer_set(path, TASK)
