"""JSON has no comments: the options of `inference.json` are explained in a table of the bundle's README."""

from __future__ import annotations

import re

from tests.support.paths import BUNDLES
from tskd_monai.files.json_files import read_json

BUNDLE = BUNDLES / "segmentation"
COMPUTED = {"task", "device"}
"""Options whose default is computed."""
NOT_OPTIONS = {"dataset_dir", "task_def"}


def test_the_table_names_every_option_with_its_default() -> None:
    config = read_json(BUNDLE / "configs" / "inference.json")
    options = [name for name in list(config)[: list(config).index("task_def")] if name not in NOT_OPTIONS]
    expected = {
        name: "none" if config[name] is None else f"`{config[name]}`" for name in options if name not in COMPUTED
    }
    rows = re.findall(r"^\| `--(\w+)` \| (.*?) \| .+ \|$", (BUNDLE / "docs" / "README.md").read_text(), re.M)
    assert sorted(name for name, _ in rows) == sorted(options)
    assert {name: default for name, default in rows if name not in COMPUTED} == expected


def test_the_teachers_options_are_the_same() -> None:
    text = (BUNDLES / "teacher_lora" / "configs" / "inference.yaml").read_text()
    section = text.split("# Options\n")[1].split("\n\n")[0]
    names = set(re.findall(r"^(\w+):", section, re.M))
    config = read_json(BUNDLE / "configs" / "inference.json")
    options = set(list(config)[: list(config).index("task_def")])
    assert names - options == {"teacher_dir", "encoder_weights"}
    assert options - names == {"student", "engine", "precision", "rejected"}  # a student's only
