"""The record of a case: accepted if complete, else rejected by file and field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.data.task import Task
from tskd_monai.files.json_files import write_json
from tskd_monai.inference.case_records import read_case_record
from tskd_monai.inference.outputs import WriterThread
from tskd_monai.inference.segmentation_run import SegmentationRun

DONE = {"study": "0123", "name": "a", "status": "done", "outputs": ["a_seg.nii.gz"],
        "volumes_ml": {"liver": 1500, "spleen": 200.5}}  # fmt: skip
PIXELS = {**{key: value for key, value in DONE.items() if key != "volumes_ml"}, "pixels": {"liver": 9, "spleen": 0}}
FAILED = {"study": "0123", "name": "", "status": "failed", "message": "no slices"}


@pytest.mark.parametrize("content", [DONE, {**DONE, "unlike_training": "field of view 40 mm"}, FAILED])
def test_a_record_comes_back(tmp_path: Path, make_task: Callable[..., Task], content: dict[str, Any]) -> None:
    write_json(tmp_path / "0a.json", content)
    assert read_case_record(tmp_path / "0a.json", make_task()) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"Expected an object in .*0a\.json, found list; delete it to segment the case again"),
        ({**DONE, "status": "begun"}, r"Expected status in .*0a\.json to be done or failed, found 'begun'"),
        ({**DONE, "status": None}, r"Expected status in .*0a\.json to be str"),
        ({**DONE, "name": 3}, r"Expected name in .*0a\.json to be str"),
        ({**DONE, "outputs": "a"}, r"Expected outputs in .*0a\.json to be list"),
        ({**DONE, "outputs": ["../../a"]}, r"Expected outputs in .*0a\.json to be names of files"),
        ({**DONE, "volumes_ml": {"liver": 3}}, r"Expected spleen in .*0a\.json, volumes_ml, found none"),
        ({**DONE, "volumes_ml": {"liver": 3, "spleen": "x"}}, r"Expected spleen in .*volumes_ml to be float"),
        ({**DONE, "unlike_training": ["a"]}, r"Expected unlike_training in .*0a\.json to be str"),
        ({**FAILED, "message": None}, r"Expected message in .*0a\.json to be str"),
    ],
)
def test_a_record_that_no_run_writes_is_refused(
    tmp_path: Path, make_task: Callable[..., Task], content: Any, message: str
) -> None:
    write_json(tmp_path / "0a.json", content)
    with pytest.raises(ValueError, match=message):
        read_case_record(tmp_path / "0a.json", make_task())


def test_sizes_are_those_of_the_tasks_kind_of_image(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    path = tmp_path / "0a.json"
    write_json(path, PIXELS)
    assert read_case_record(path, make_task(axcodes=None)) == PIXELS
    with pytest.raises(ValueError, match="Expected volumes_ml in"):
        read_case_record(path, make_task())
    write_json(path, DONE)
    with pytest.raises(ValueError, match="Expected pixels in"):
        read_case_record(path, make_task(axcodes=None))


def test_a_record_is_found_by_what_its_outputs_depend_on_as_since_0_1(
    tmp_path: Path, make_task: Callable[..., Task]
) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"voxels")
    (tmp_path / "model.pt").write_bytes(b"weights")
    state = (tmp_path / "scan.nii.gz").stat()
    files = repr([("scan.nii.gz", state.st_size, state.st_mtime_ns)])
    case = {"image": str(tmp_path / "scan.nii.gz"), "name": "scan"}
    identity = {"task": make_task().hash, "weights": hashlib.sha256(b"weights").hexdigest(), "network": ["auto"],
                **case, "files": [1, hashlib.sha256(files.encode()).hexdigest()]}  # fmt: skip
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    write_json(tmp_path / "out" / "records" / f"{key}.json", {**DONE, "study": key, "outputs": []})

    def pending(**settings: Any) -> int:
        writer, checkpoint = WriterThread(), tmp_path / "model.pt"
        return len(SegmentationRun([case], tmp_path / "out", make_task(), checkpoint, settings, writer).pending)

    assert pending(network=["auto"]) == 0
    assert pending(network=["torch"]) == 1
