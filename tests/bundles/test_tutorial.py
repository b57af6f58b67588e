"""The tutorial is a clean notebook, and its cells run in order, scaled down, from a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.files.json_files import read_json

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "bundles" / "segmentation" / "docs" / "tutorial.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    """Return the cells of a kind."""
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_committed_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert str(ROOT) not in NOTEBOOK.read_text(encoding="utf-8")


def test_what_the_notebook_links_to_exists() -> None:
    text = "".join("".join(cell["source"]) for cell in cells("markdown"))
    for name in ("which_option.md", "README.md"):
        assert f"({name})" in text and (NOTEBOOK.parent / name).is_file()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the code of all cells as one program inside the checkout's docs; returns its output."""
    folder = tmp_path_factory.mktemp("tutorial")
    program = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    (folder / "tutorial.py").write_text(program, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    environment |= {"TSKD_TUTORIAL": "tiny", "TSKD_TUTORIAL_DIR": str(folder / "work")}
    command = [python_command(), str(folder / "tutorial.py")]
    done = subprocess.run(command, cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "OK: training can start." in done.stderr  # the dry run
    return folder / "work"


def test_every_stage_leaves_its_result(work: Path) -> None:
    for name in (
        "teacher/adapter/adapter_model.safetensors",
        "diffusion/pipeline",
        "transfer_set/transfer_set.json",
        "distilled/models/model.pt",
        "student/models/model.pt",
        "evaluation/report.html",
    ):
        assert (work / name).exists(), name
    assert set(read_json(work / "evaluation" / "metrics.json")["classes"])
    assert len(list((work / "predictions").glob("*_seg.nii.gz"))) == 1
