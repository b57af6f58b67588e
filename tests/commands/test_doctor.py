"""`tskd doctor`: what is installed, what is missing, and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tskd_monai.commands import doctor
from tskd_monai.commands.main import main


def found(**changes: Any) -> dict[str, Any]:
    """The findings of doctor on a working machine, with some changed."""
    machine = {"memory_gb": 16.0, "free_disk_gb": 50.0, **changes.pop("machine", {})}
    torch = {"build": "CPU", "gpus": [], **changes.pop("torch", {})}
    return {"machine": machine, "torch": torch, "versions": {"torch": "2.10"}, "extras": {}, **changes}


def test_the_page_and_the_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["torch"]["version"] in page and content["machine"]["python"] in page
    assert content["problems"] == [] and page.rstrip().endswith("No problems found.")
    assert content["versions"]["monai"] in page
    assert content["extras"]["training"] == []
    for extra, missing in content["extras"].items():
        assert (f"pip install 'tskd-monai[{extra}]'" in page) is bool(missing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"torch": "2.10", "monai": None}}, "Missing: monai. Run: pip install monai"),
        ({"machine": {"memory_gb": 3.8}}, "3.8 GB of memory"),
        ({"machine": {"free_disk_gb": 0.4}}, "0.4 GB of free disk"),
        ({"torch": {"build": "CUDA 13.0"}}, "CPU build does the same; PyTorch's installation page shows its command"),
    ],
)
def test_each_problem_states_what_to_do(changes: dict[str, Any], message: str) -> None:
    assert doctor.problems(found()) == []
    (sentence,) = doctor.problems(found(**changes))
    assert message in sentence


def test_a_cuda_build_with_a_gpu_is_no_problem() -> None:
    assert doctor.problems(found(torch={"build": "CUDA 13.0", "gpus": ["H200"]})) == []
