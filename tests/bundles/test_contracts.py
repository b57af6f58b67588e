"""Every bundle and config on disk satisfies the contracts, and each check finds the fault it is meant for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import bundle_contracts as contracts
from tests.bundles.bundle_layout import ROOT, config_files, documented_runs, runs

LICENCE = ROOT / "LICENSE"


@pytest.fixture(autouse=True)
def _duplicate_keys_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")


# The bundles on disk.


def test_bundle_has_its_files(bundle: Path) -> None:
    assert contracts.check_files(bundle, LICENCE) == []


def test_bundle_metadata_is_valid(bundle: Path) -> None:
    assert contracts.check_metadata(bundle) == []


def test_bundle_logging_config_loads(bundle: Path) -> None:
    assert contracts.check_logging(bundle) == []


def test_config_is_short(config: Path) -> None:
    assert contracts.check_size(config) == []


def test_config_has_few_options(config: Path) -> None:
    assert contracts.check_options(config) == []


def test_config_expressions_are_plain(config: Path) -> None:
    assert contracts.check_expressions(config) == []


def test_config_names_exist(config: Path) -> None:
    assert contracts.check_names(config) == []


def test_override_changes_what_exists(override: Path) -> None:
    assert contracts.check_override(override) == []


def test_run_references_exist(run: list[Path]) -> None:
    assert contracts.check_references(run) == []


def test_run_imports_what_it_uses(run: list[Path]) -> None:
    assert contracts.check_imports(run) == []


def test_run_has_the_required_properties(run: list[Path]) -> None:
    assert contracts.check_properties(run) == []


# The checks themselves, on a small bundle with one fault at a time.


def plant(path: Path, old: str, new: str) -> None:
    """Replaces a string that must be present."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def plant_metadata(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata in place."""
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    change(metadata)
    path.write_text(json.dumps(metadata), encoding="utf-8")


def test_good_bundle_has_no_problems(scratch: Path) -> None:
    assert contracts.check_files(scratch, LICENCE) == []
    assert contracts.check_metadata(scratch) == []
    assert contracts.check_logging(scratch) == []
    for config in config_files(scratch):
        assert contracts.check_size(config) == []
        assert contracts.check_expressions(config) == []
        assert contracts.check_names(config) == []
    assert [[path.stem for path in run] for run in runs(scratch)] == [
        ["inference"],
        ["train", "multi_gpu_train"],
        ["train"],
    ]
    for run in runs(scratch):
        assert contracts.check_references(run) == []
        assert contracts.check_imports(run) == []
        assert contracts.check_properties(run) == []
    assert contracts.check_override(scratch / "configs" / "multi_gpu_train.yaml") == []


@pytest.mark.parametrize("name", ["LICENSE", "configs/metadata.json", "configs/logging.conf", "docs/README.md"])
def test_missing_file_is_found(scratch: Path, name: str) -> None:
    (scratch / name).unlink()
    assert contracts.check_files(scratch, LICENCE) == [f"scratch: {name} is missing"]


def test_other_licence_is_found(scratch: Path) -> None:
    (scratch / "LICENSE").write_text("MIT", encoding="utf-8")
    assert contracts.check_files(scratch, LICENCE) == ["scratch: LICENSE differs from the project's"]


def test_missing_config_and_yaml_in_the_json_bundle_are_found(scratch: Path) -> None:
    (scratch / "configs" / "inference.yaml").unlink()
    folder = scratch.rename(scratch.with_name("segmentation"))
    problems = contracts.check_files(folder, LICENCE)
    assert "segmentation: no configs/inference that stands alone (with its own bundle_root)" in problems
    assert any("train.yaml is not JSON" in line for line in problems)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.pop("required_packages_version"), "'required_packages_version' is a required property"),
        (lambda m: m.update(version="0.2.0"), "changelog has no entry for version 0.2.0"),
        (lambda m: m.pop("name"), "no name"),
        (lambda m: m.update(supported_apps=[]), "$.supported_apps: [] is not of type 'object'"),
        (lambda m: m.update(schema="https://example.org/other.json"), "not a link to meta_schema_20240725.json"),
        (lambda m: m["network_data_format"]["inputs"]["image"].pop("dtype"), "'dtype' is a required property"),
        (
            lambda m: m["network_data_format"]["inputs"]["image"].update(value_range=["0", "1"]),
            "'0' is not of type 'number'",
        ),
        (lambda m: m.update(teacher_data_format={"inputs": {}}), "'outputs' is a required property"),
    ],
)
def test_wrong_metadata_is_found(scratch: Path, change: Callable[[dict[str, Any]], object], expected: str) -> None:
    plant_metadata(scratch, change)
    problems = contracts.check_metadata(scratch)
    assert any(expected in line for line in problems), problems


def test_wrong_logging_config_is_found(scratch: Path) -> None:
    plant(scratch / "configs" / "logging.conf", "keys=console", "keys=console,file")
    assert contracts.check_logging(scratch)[0].startswith("logging.conf: KeyError")


@pytest.mark.parametrize(("name", "limit"), [("train", 140), ("inference", 120), ("multi_gpu_train", 40)])
def test_long_config_is_found(scratch: Path, name: str, limit: int) -> None:
    config = scratch / "configs" / f"{name}.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text + "#\n" * (limit - text.count("\n")), encoding="utf-8")
    assert contracts.check_size(config) == []
    config.write_text(config.read_text(encoding="utf-8") + "#\n", encoding="utf-8")
    assert contracts.check_size(config) == [f"{name}.yaml: {limit + 1} lines, at most {limit}"]


def test_many_options_are_found(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    assert contracts.check_options(config) == []
    plant(config, "epochs: 2", "epochs: 2\n" + "".join(f"option_{number}: 0\n" for number in range(31)))
    assert contracts.check_options(config)[0].endswith("options, at most 30")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("$'" + "a" * 78 + "'", "81 characters, at most 80"),
        ("$1 if @device else 2", "if; make it a named function"),
        ("$[x for x in @train#handlers if x]", "if; make it a named function"),
        ("$(lambda x: x)(1)", "lambda; make it a named function"),
        ("$print(", "not a Python expression"),
    ],
)
def test_wrong_expression_is_found(scratch: Path, expression: str, expected: str) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "epochs: 2", f"epochs: {json.dumps(expression)}")
    problems = contracts.check_expressions(config)
    assert len(problems) == 1
    assert problems[0].startswith("train.yaml: epochs: ")
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("_target_: SimpleInferer", "_target_: SimplerInferer", "SimplerInferer is no component of MONAI"),
        ("_target_: SimpleInferer", "_target_: torch.nn.Linea", "torch.nn.Linea: torch.nn has no Linea"),
        ("_target_: SimpleInferer", "_target_: nowhere.Thing", "nowhere.Thing: no module nowhere"),
        ("_target_: SimpleInferer", "_target_: torch.pi", "torch.pi cannot be called"),
        ("epochs: 2", "epochs: $tskd_monai.nothing(2)", "tskd_monai.nothing: tskd_monai has no nothing"),
        ("$import glob", "$from glob import glop", "glob.glop: glob has no glop"),
        ("$import glob", "$import globb", "No module named 'globb'"),
    ],
)
def test_wrong_name_is_found(scratch: Path, old: str, new: str, expected: str) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, old, new)
    problems = contracts.check_names(config)
    assert len(problems) == 1
    assert problems[0].endswith(expected)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("trian#dataset: {_target_: Dataset, data: []}", "trian#dataset: no such id in train.yaml"),
        ("train#dataloader#smapler: 1", "train#dataloader#smapler: no such id in train.yaml"),
        ("+train#handler: []", "+train#handler: no such id in train.yaml"),
        ("train#handlers#0: 1", "train#handlers#0: a list position"),
    ],
)
def test_misspelt_override_is_found(scratch: Path, new: str, expected: str) -> None:
    override = scratch / "configs" / "multi_gpu_train.yaml"
    plant(override, "initialize:", f"{new}\ninitialize:")
    assert contracts.check_override(override) == [f"multi_gpu_train.yaml: {expected}"]


def test_override_without_a_documented_run_is_found(scratch: Path) -> None:
    override = scratch / "configs" / "multi_gpu_train.yaml"
    plant(override, "'configs/train.yaml',", "")
    assert documented_runs(override) == []
    assert "no documented run" in contracts.check_override(override)[0]


def test_override_of_an_absent_config_is_found(scratch: Path) -> None:
    override = scratch / "configs" / "multi_gpu_train.yaml"
    plant(override, "configs/train.yaml", "configs/trane.yaml")
    assert contracts.check_override(override) == [
        "multi_gpu_train.yaml: documented to follow trane.yaml, which does not exist"
    ]


def test_json_override_takes_its_run_from_the_readme(scratch: Path) -> None:
    override = scratch / "configs" / "dicom_seg.json"
    override.write_text('{"dataset_dir": "studies"}', encoding="utf-8")
    assert documented_runs(override) == []
    command = "--config_file \"['configs/inference.yaml','configs/dicom_seg.json']\""
    (scratch / "docs" / "README.md").write_text(command, encoding="utf-8")
    assert documented_runs(override) == [[scratch / "configs" / "inference.yaml", override]]
    assert contracts.check_override(override) == []


def test_dangling_reference_is_found(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "max_epochs: '@epochs'", "max_epochs: '@epoch'")
    assert contracts.check_references([config]) == ["train.yaml: train#trainer#max_epochs: no @epoch"]


def test_duplicate_key_is_found(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "epochs: 2", "epochs: 2\nepochs: 3")
    with pytest.raises(ValueError, match="Duplicate key: `epochs`"):
        contracts.check_references([config])


@pytest.mark.parametrize(
    ("statement", "used"), [("$import os", "glob"), ("$import glob, os", "os"), ("$import os.path", "os")]
)
def test_name_that_no_import_binds_is_found(scratch: Path, statement: str, used: str) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "  - $import glob", f"  - {statement}")
    plant(config, "$glob.glob(@dataset_dir + '/*')", f"'$[{used}.x(y) for y in @dataset_dir]'")
    assert contracts.check_imports([config]) == [f"train.yaml: train#dataset#data: {used} is not imported"]


@pytest.mark.parametrize(
    ("name", "old", "expected"),
    [
        ("train", "  inferer: {_target_: SimpleInferer}\n", ["property train_inferer (train#inferer)"]),
        ("train", "run:\n  - $@train#trainer.run()\n", ["no run"]),
        ("inference", "dataset: {_target_: Dataset, data: []}\n", ["property dataset (dataset)"]),
        ("inference", "device: $torch.device('cpu')\n", ["no device", "property device (device)"]),
    ],
)
def test_missing_property_is_found(scratch: Path, name: str, old: str, expected: list[str]) -> None:
    config = scratch / "configs" / f"{name}.yaml"
    plant(config, old, "")
    assert contracts.check_properties([config]) == [f"{name}.yaml: {line}" for line in expected]


def test_wrong_reference_to_an_optional_property_is_found(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "train_handlers: '@train#handlers'", "train_handlers: '@handlers'")
    assert contracts.check_properties([config]) == ["train.yaml: property train_handlers (train#handlers)"]


def test_what_monai_label_needs_is_required_of_the_deployed_bundle(scratch: Path) -> None:
    plant(scratch / "configs" / "train.yaml", "val_interval: 1\n", "")
    plant(scratch / "configs" / "inference.yaml", "preprocessing:", "preparation:")
    folder = scratch.rename(scratch.with_name("segmentation"))
    assert contracts.check_properties([folder / "configs" / "train.yaml"]) == ["train.yaml: no val_interval"]
    assert contracts.check_properties([folder / "configs" / "inference.yaml"]) == ["inference.yaml: no preprocessing"]


def test_handlers_must_be_a_list(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "  handlers: []", "  handlers: $list()")
    assert contracts.check_properties([config]) == ["train.yaml: train#handlers is not a list"]


def test_handlers_of_the_deployed_bundle_are_components(scratch: Path) -> None:
    plant(scratch / "configs" / "train.yaml", "  handlers: []", "  handlers: ['@network']")
    assert contracts.check_properties([scratch / "configs" / "train.yaml"]) == []
    config = scratch.rename(scratch.with_name("segmentation")) / "configs" / "train.yaml"
    assert contracts.check_properties([config]) == [
        "train.yaml: train#handlers holds a reference; MONAI Label reads components only"
    ]


def test_inline_component_is_not_a_wrong_reference(scratch: Path) -> None:
    config = scratch / "configs" / "train.yaml"
    plant(config, "data: []}", "data: [], transform: {_target_: Compose, transforms: []}}")
    assert contracts.check_properties([config]) == []


@pytest.mark.parametrize(
    ("validator", "expected"),
    [
        ("@validate#evaluator", []),
        ("@evaluator", ["train.yaml: property evaluator (validate#evaluator)"]),
    ],
)
def test_validation_handler_refers_to_the_evaluator(scratch: Path, validator: str, expected: list[str]) -> None:
    config = scratch / "configs" / "train.yaml"
    handler = f"{{_target_: ValidationHandler, validator: '{validator}', interval: '@val_interval'}}"
    plant(config, "  handlers: []", f"  handlers: [{handler}]")
    assert contracts.check_properties([config]) == expected
