from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tskd_monai.bundle.zoo.cards import Card, load_card, readme
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json, write_json

CARD = {
    "tags": ["MR"],
    "data": "Three phantoms.",
    "license": "cc-by-nc-sa-4.0",
    "non_commercial": True,
    "data_license": "CC BY-NC-SA 4.0",
    "references": ["A paper."],
}
METADATA = {
    "name": "A student",
    "authors": "The team",
    "copyright": "Copyright (c) The team",
    "description": "Segments.",
    "intended_use": "Research. Not a medical device.",
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.2.6",
    "required_packages_version": {"nibabel": "5.4.2"},
}
METADATA_OF_SHIPPED = read_json(ROOT / "bundles" / "segmentation" / "configs" / "metadata.json")
SECTIONS = ("Authors", "Tags", "Model Description", "Data", "Performance", "System Configuration", "Limitations")


def write_card(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({key: value for key, value in {**CARD, **changes}.items() if value is not None}))
    return path


def text(task: Task, card: Card | None, metrics: Path | None = None) -> str:
    return readme("zoo_name", "segmentation", METADATA, {"highdicom": "0.28.2"}, task, card, metrics)


def test_readme_has_the_zoos_sections_and_the_content_of_the_card(
    tmp_path: Path, make_task: Callable[..., Task]
) -> None:
    card = load_card(write_card(tmp_path / "card.yaml"))
    written = text(make_task(), card)
    assert all(f"**{section}**" in written for section in SECTIONS)
    assert "Three phantoms." in written and "[1] A paper." in written
    assert "Weights: cc-by-nc-sa-4.0. Copyright (c) The team. They must not be used commercially." in written
    assert "pip install monai==1.6.1 torch==2.13.0 numpy==2.2.6 nibabel==5.4.2" in written
    assert "--bundle_root zoo_name --config_file zoo_name/configs/inference.json" in written


def test_readme_states_what_is_not_known(make_task: Callable[..., Task]) -> None:
    written = text(make_task(), None)
    assert "Not stated when the bundle was exported (`--card`)." in written
    assert "Not measured for these weights." in written


@pytest.mark.parametrize(("bundle", "scripted"), [("segmentation", True), ("teacher_lora", False)])
def test_readme_states_what_cannot_be_scripted(make_task: Callable[..., Task], bundle: str, scripted: bool) -> None:
    written = readme("zoo_name", bundle, METADATA, {}, make_task(), None, None)
    assert ("TorchScript" not in written) == scripted


def test_performance_is_a_table_of_the_metrics(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    one = {"missed": 1, "dice": {"mean": 0.8, "sd": None, "cases": 1}, "hd95_mm": {"mean": None, "sd": None}}
    write_json(tmp_path / "metrics.json", {**one, "classes": {"liver": one}})
    written = text(make_task(), None, tmp_path / "metrics.json")
    assert "| liver | 0.800 ± - | - ± - mm | 1 | 1 |" in written
    assert "| mean | 0.800 ± - |" in written


def test_performance_without_metrics_is_the_table_of_the_model_card(
    tmp_path: Path, make_task: Callable[..., Task]
) -> None:
    document = tmp_path / "model_card.md"
    document.write_text("# Card\n\nText | with a bar.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| other |\n")
    written = readme("zoo_name", "segmentation", METADATA, {}, make_task(), None, None, document)
    assert "| a | b |\n|---|---|\n| 1 | 2 |\n\nHow it was trained and measured: [model_card.md]" in written
    assert "Not measured" not in written and "| other |" not in written
    document.write_text("# Card\n")
    with pytest.raises(ValueError, match=r"Expected a table of results in .*model_card\.md, found none"):
        readme("zoo_name", "segmentation", METADATA, {}, make_task(), None, None, document)


@pytest.mark.parametrize("changes", [{"license": None}, {"licence": "x"}])
def test_missing_and_unknown_keys_are_refused(tmp_path: Path, changes: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match=r"Expected tags, data, license, non_commercial, data_license and maybe"):
        load_card(write_card(tmp_path / "card.yaml", **changes))


def test_non_commercial_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected true or false for non_commercial in .*, found 'maybe'"):
        load_card(write_card(tmp_path / "card.yaml", non_commercial="maybe"))


def test_card_of_the_shipped_student_is_whole() -> None:
    shipped = ROOT / "tskd_monai" / "bundle" / "zoo" / "shipped_student.yaml"
    assert load_card(shipped).non_commercial and load_card(shipped).authors == METADATA_OF_SHIPPED["authors"]
