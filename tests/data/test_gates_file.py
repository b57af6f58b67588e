from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tskd_monai.data.gates_file import GATES_NAME, SHEET_NAME, read_gates, write_gates
from tskd_monai.data.verdict import Verdict


def gates_json() -> dict[str, Any]:
    interval = {"mean": 0.25, "low": -0.01, "high": 0.5}
    return {
        "format_version": 2,
        "task_hash": "a" * 64,
        "checkpoint_sha256": "c" * 64,
        "derived": False,
        "settings": {
            "confidence_quantile": 0.05,
            "near_copy_quantile": 0.01,
            "encoder": "vit <tiny>",
            "kid_subset_size": 50,
            "kid_subsets": 200,
            "seed": 0,
        },
        "confidence": {"threshold": 0.7, "validation": [0.8, 0.9, 0.95], "synthetic": [0.6, 0.9, 0.91, 0.92]},
        "memorisation": {
            "pixels": {"threshold": 0.06, "real": [0.07, 0.1, 0.2], "synthetic": [0.01, 0.02, 0.1, 0.12]},
            "features": {"threshold": 0.05, "real": [0.06, 0.1, 0.2], "synthetic": [0.02, 0.2, 0.2, 0.3]},
        },
        "quality": {
            "kid": {"synthetic_validation": interval, "training_validation": interval},
            "ms_ssim": {"synthetic": interval, "training": interval},
            "sharpness": {"synthetic": interval, "training": interval},
        },
        "verdict": {"passed": False, "reason": "The images are blurred.", "use_failed": False},
        "counts": {"sampled": 4, "accepted": 1, "near_copies": 2, "low_confidence": 1},
    }


def write(folder: Path, content: object, sheet: bool = True) -> Path:
    (folder / GATES_NAME).write_text(json.dumps(content))
    if sheet:
        Image.new("L", (320, 40)).save(folder / SHEET_NAME)
    return folder


def changed(field: str, value: object) -> dict[str, Any]:
    content = gates_json()
    *outer, last = field.split(".")
    inner = content
    for name in outer:
        inner = inner[name]
    if value is None and field not in ("confidence", "verdict"):
        del inner[last]
    else:
        inner[last] = value
    return content


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = gates_json()
    gates = read_gates(write(tmp_path, content))
    assert gates.content() == content
    for one in (gates, replace(gates, confidence=None, seed=7)):
        write_gates(one, tmp_path)
        assert read_gates(tmp_path) == one


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 3, "Expected 1 or 2 at format_version in .*gates.json, found 3"),
        (
            "verdict.passed",
            "yes",
            "Expected passed in .*gates.json, verdict to be bool, found 'yes'; run the gates again",
        ),
        ("verdict.reason", None, "Expected reason in .*gates.json, verdict, found none; run the gates again"),
        ("quality.sharpness.training", {"mean": 1, "low": 2, "high": 1}, "low <= high at quality.sharpness.training"),
        ("counts.accepted", None, "Expected a value at counts.accepted in .*gates.json, found none"),
        ("counts.sampled", 0, "a whole number of at least 1 at counts.sampled"),
        ("counts.near_copies", 5, "at most the 4 sampled images at counts.near_copies"),
        ("memorisation.pixels.threshold", "low", "a finite number at memorisation.pixels.threshold"),
        ("memorisation.features.real", [], "a list of at least one number at memorisation.features.real"),
        ("memorisation.pixels.synthetic", [0.1, "0.2"], r"memorisation.pixels.synthetic\[1\]"),
        ("quality.kid.training_validation", {"mean": 1, "low": 2, "high": 1}, "low <= high at quality.kid.training"),
        ("settings.near_copy_quantile", 1.0, "a quantile between 0 and 1 at settings.near_copy_quantile"),
        ("settings.encoder", "", "a text at settings.encoder"),
        ("derived", "no", "true or false at derived in .*gates.json, found 'no'"),
    ],
)
def test_a_damaged_file_is_refused_by_field(tmp_path: Path, field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_gates(write(tmp_path, changed(field, value)))


def test_a_file_of_version_1_has_no_verdict_and_its_images_are_used(tmp_path: Path) -> None:
    content = {**gates_json(), "format_version": 1}
    del content["verdict"], content["quality"]["sharpness"], content["derived"]
    gates = read_gates(write(tmp_path, content))
    assert gates.verdict is gates.sharpness_synthetic is gates.sharpness_training is None
    assert gates.is_used and "not the whole set" in gates.sentence
    assert gates.content() == {
        **content,
        "format_version": 2,
        "derived": False,
        "quality": {**content["quality"], "sharpness": {"synthetic": None, "training": None}},
        "verdict": None,
    }


def test_the_verdict_decides_whether_the_images_are_used(tmp_path: Path) -> None:
    gates = read_gates(write(tmp_path, gates_json()))
    assert not gates.is_used
    assert gates.sentence == (
        "The transfer set failed its gates and is left out of distillation. The images are blurred."
    )
    requested = Verdict(passed=False, reason="The images are blurred.", use_failed=True)
    assert replace(gates, verdict=requested).is_used and "used all the same" in requested.sentence
    assert replace(gates, verdict=Verdict(passed=True, reason="KID 0.1.")).is_used
    nothing = replace(gates, verdict=None, counts={**gates.counts, "accepted": 0})
    assert not nothing.is_used and nothing.sentence == "The gates rejected every synthetic image."
