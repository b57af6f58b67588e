from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from tskd_monai.bundle.zoo.configs import export_config

PLAIN = {
    "bundle_root": ".",
    "task_def": {"_target_": "tskd_monai.data.task.load_task", "path": "task.json"},
    "student": "x",
}
YAML = """# Reads.
bundle_root: .
task: null                  # the task
task_def: {_target_: tskd_monai.data.task.load_task, path: "@task"}
finish: {template: "$Path(@bundle_root).resolve().parent / 'segmentation'"}
initialize:
- {_target_: tskd_monai.bundle.options.check_bundle_root, bundle_root: "@bundle_root"}
"""


def exported(folder: Path, name: str, text: str, settings: dict[str, str]) -> ConfigParser:
    (folder / name).write_text(text)
    export_config(folder / name, folder / "out" / name, "zoo_name", {}, settings)
    return ConfigParser(ConfigParser.load_config_file(str(folder / "out" / name)))


@pytest.mark.parametrize(("name", "text"), [("a.json", json.dumps(PLAIN)), ("a.yaml", YAML)])
def test_config_finds_the_code_beside_it_before_anything_else(tmp_path: Path, name: str, text: str) -> None:
    parser = exported(tmp_path, name, text, {})
    assert parser["vendored_code"] == "$sys.path.insert(0, str(@bundle_root))"
    assert parser["imports"] == ["$import sys"]
    assert parser["initialize"][0] == "@vendored_code"
    assert ensure_tuple(parser["task_def"]["_requires_"]) == ("@vendored_code",)
    assert parser["task_def"]["_target_"] == "scripts.data.task.load_task"


def test_yaml_keeps_its_comments_and_holds_the_template_of_students(tmp_path: Path) -> None:
    parser = exported(tmp_path, "a.yaml", YAML, {"task": "$@bundle_root + '/configs/task.json'"})
    assert (tmp_path / "out" / "a.yaml").read_text().startswith("# Reads.\n")
    assert parser["task"] == "$@bundle_root + '/configs/task.json'"
    assert parser["finish"]["template"] == "$Path(@bundle_root) / 'segmentation'"
    assert parser["initialize"][1]["_target_"] == "scripts.bundle.options.check_bundle_root"


def test_override_gets_the_path_only_where_it_replaces_initialize(tmp_path: Path) -> None:
    parser = exported(tmp_path, "multi.json", json.dumps({"device": "cpu", "initialize": ["$print(1)"]}), {})
    assert parser.get() == {"device": "cpu", "initialize": ["@vendored_code", "$print(1)"]}
    assert exported(tmp_path, "small.yaml", "output_dir: out\n", {}).get() == {"output_dir": "out"}


def test_every_component_of_the_bundled_code_requires_it(tmp_path: Path) -> None:
    ours, stock = {"_target_": "tskd_monai.a.B"}, {"_target_": "Compose", "_requires_": "@x"}
    config = {"bundle_root": ".", "x": 1, "a": [{**ours, "b": {**ours, "_requires_": "@x"}}, {**stock, "c": ours}]}
    first, second = exported(tmp_path, "a.json", json.dumps(config), {})["a"]
    assert first["_requires_"] == ["@vendored_code"] and first["b"]["_requires_"] == ["@vendored_code", "@x"]
    assert second["_requires_"] == "@x" and second["c"]["_requires_"] == ["@vendored_code"]


@pytest.mark.parametrize(("name", "text"), [("a.json", json.dumps(PLAIN)), ("a.yaml", YAML)])
def test_unknown_setting_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"Expected the id teacher_dir at the top of .*{name}, found none"):
        exported(tmp_path, name, text, {"teacher_dir": "here"})
