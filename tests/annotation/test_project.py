from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.annotation.project import AnnotationProject, ProjectSettings, training_commands
from tskd_monai.commands.train.command import parse_arguments
from tskd_monai.files.json_files import write_json

SETTINGS = ProjectSettings(("liver", "spleen"), "MR", weights="random", training=("--preset", "demo"))


def test_a_project_is_opened_as_it_was_made(tmp_path: Path) -> None:
    made = AnnotationProject.make(tmp_path / "project", SETTINGS)
    assert made.settings == SETTINGS == AnnotationProject(tmp_path / "project").settings
    assert made.settings.values == {"liver": 1, "spleen": 2} and made.student is None and made.scores == {}
    with pytest.raises(ValueError, match="labels liver, spleen of the project .*, found spleen, liver"):
        AnnotationProject.make(tmp_path / "project", ProjectSettings(("spleen", "liver")))


def test_an_interrupted_round_is_resumed_unless_labels_were_added(tmp_path: Path) -> None:
    project = AnnotationProject.make(tmp_path, SETTINGS)
    first = project.next_round({"labels": {"a": ["hash", [3]]}})
    assert first.name == "0001" and project.next_round({"labels": {"a": ["hash", [3]]}}) == first
    second = project.next_round({"labels": {"a": ["hash", [3, 4]]}})
    assert second.name == "0002" and project.student is None
    write_json(second / "scores.json", {"b": 0.25})
    assert project.student == second / "trained" / "student" and project.scores == {"b": 0.25}
    assert project.next_round({"labels": {"a": ["hash", [3, 4]]}}).name == "0003"  # trained again on request


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ()}, "--labels with a different name"),
        ({"labels": ("liver", "liver")}, "--labels with a different name"),
        ({"labels": ("liver", "background")}, "without background"),
        ({"labels": ("liver",), "side": 100}, "--size with a multiple of 16 up to 1024, found 100"),
    ],
)
def test_settings_that_are_not_valid_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectSettings(**options)  # type: ignore[arg-type]


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "annotation.json", {"labels": ["liver"]})
    with pytest.raises(ValueError, match="settings .* in .*annotation.json, found others"):
        AnnotationProject(tmp_path)
    with pytest.raises(FileNotFoundError, match="annotation.json"):
        AnnotationProject(tmp_path / "none")


def test_a_round_is_a_run_of_tskd_train_without_test_cases(tmp_path: Path) -> None:
    train, scores = training_commands("python", tmp_path, SETTINGS.training)
    args = parse_arguments(train[4:])
    assert args.no_test and args.preset == "demo" and args.output_dir == tmp_path / "trained"
    assert scores[3:] == [str(tmp_path / name) for name in ("trained/student", "images.json", "scores.json")]
