from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tskd_monai.bundle.audit import AllowList, Finding, unlisted_code

ALLOWED = AllowList.read(ROOT / "tskd_monai" / "bundle" / "allow_list.json")
BUNDLES = [
    *sorted(path.parent.parent for path in (ROOT / "bundles").glob("*/configs/metadata.json")),
    ROOT / "tests" / "bundles" / "student_0_1",
]


def write(bundle: Path, name: str, content: str) -> Path:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_text(content)
    return bundle


def kinds(bundle: Path) -> list[tuple[str, str]]:
    return [(finding.kind, finding.text) for finding in unlisted_code(bundle, ALLOWED)]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_own_bundles_hold_what_the_list_has(bundle: Path) -> None:
    assert unlisted_code(bundle, ALLOWED) == []


IN_EARLIER_STUDENTS = {"SimpleInferer", "$@train#dataset.classes_present()"}
"""Students written before their training had guards contain these, and may be checked now."""
OF_OTHER_STUDENTS = {"DynUNet"}
"""Networks of students other than the shipped one."""


def test_list_has_nothing_that_no_bundle_holds() -> None:
    empty = AllowList(frozenset(), frozenset(), frozenset())
    texts = {finding.text for bundle in BUNDLES for finding in unlisted_code(bundle, empty)}
    assert not texts & (IN_EARLIER_STUDENTS | OF_OTHER_STUDENTS)
    assert texts | IN_EARLIER_STUDENTS | OF_OTHER_STUDENTS == ALLOWED.expressions | ALLOWED.targets | ALLOWED.logging


@pytest.mark.parametrize("name", ["configs/inference.json", "configs/train.yaml", "configs/deep/a.yml"])
def test_expression_call_and_other_file_are_found_at_any_position(name: str, tmp_path: Path) -> None:
    content = {"a": [{"b": "$__import__('os')"}], "c": {"_target_": "os.system"}, "d": "%other.json", "e": "a $ b"}
    found = unlisted_code(write(tmp_path, name, json.dumps(content)), ALLOWED)
    assert found == [
        Finding(name, "a#0#b", "expression", "$__import__('os')"),
        Finding(name, "c", "_target_", "os.system"),
        Finding(name, "d", "text of another file", "%other.json"),
    ]


def test_name_that_begins_like_ours_is_not_ours(tmp_path: Path) -> None:
    content = {"a": {"_target_": "tskd_monai.files.atomic.os.system"}, "b": "$@evaluator.run() or exit()"}
    assert len(kinds(write(tmp_path, "a.json", json.dumps(content)))) == 2


def test_key_that_is_there_twice_hides_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a.json", '{"a": "$first", "a": 1}')
    write(tmp_path, "b.yaml", "a: $second\na: 1\n$third: 1\nc: &x {d: $fourth}\ne: {<<: *x}\n")
    assert {text for _, text in kinds(tmp_path)} == {"$first", "$second", "$third", "$fourth"}


def test_modules_links_and_what_cannot_be_read_are_found(tmp_path: Path) -> None:
    write(tmp_path, "scripts/net.py", "")
    write(tmp_path, "models/model.ts", "")
    write(tmp_path, "configs/a.json", "{")
    write(tmp_path, "configs/b.yaml", "a: !!python/object/apply:os.system [ls]")
    (tmp_path / "link").symlink_to("/etc")
    assert sorted(kind for kind, _ in kinds(tmp_path)) == ["code", "code", "link", "unreadable", "unreadable"]


def test_fields_that_logging_evaluates_are_found(tmp_path: Path) -> None:
    text = "[handler_a]\nclass=StreamHandler\nargs=(__import__('os').system('ls'),)\n"
    assert kinds(write(tmp_path, "configs/logging.conf", text)) == [("logging", "(__import__('os').system('ls'),)")]


def test_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected the folder of a bundle at .*gone"):
        unlisted_code(tmp_path / "gone", ALLOWED)


@pytest.mark.parametrize("key", ["network#_target_", "network::_target_", "a#b#_target_"])
def test_a_target_set_by_its_path_is_found(key: str, tmp_path: Path) -> None:
    write(tmp_path, "configs/inference.json", json.dumps({"network": {"_target_": "UNet"}, key: "os.system"}))
    assert ("_target_", "os.system") in kinds(tmp_path)
