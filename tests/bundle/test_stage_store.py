"""Files of finished stages are not touched unless the user requests it, and then the previous ones are kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tskd_monai.bundle.run import BundleRun, BundleRunError
from tskd_monai.bundle.stage_store import Stage, StageStore, differences
from tskd_monai.files.json_files import read_json, write_json

NAMES = ("teacher", "student", "predictions")


class Calls:
    """Replaces the bundle runner: writes a result that depends on the settings, and records which stages ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_in = ""
        self.changed: Mapping[str, str] = {}
        self.same_result = False

    def __call__(self, run: BundleRun) -> Mapping[str, Any]:
        folder = run.output_dir
        self.ran.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in run.overrides.items() if name in ("seed", "learning_rate")}
        (folder / "progress.txt").write_text(str(settings))
        if folder.name == self.fail_in:
            raise BundleRunError(1, "ValueError: Expected a disk, found none.")
        needed = {"student": ["teacher"], "predictions": ["student"]}.get(folder.name, [])
        read = [(folder.parent / name / "model.pt").read_text() for name in needed]
        shown = {"seed": 0} if self.same_result else settings
        (folder / "model.pt").write_text(f"{shown} {read} {self.changed.get(folder.name)}")
        return {"steps": 7}

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.yaml").write_text("# how it learns\nlearning_rate: 0.001\nnetwork: {_target_: Net, width: 8}\n")
    return configs.parent


@pytest.fixture
def stages(bundle: Path) -> dict[str, Stage]:
    """A teacher, a student that depends on it, and predictions of the student."""
    data = {"data": {"training images": ["a", "b"]}}
    common: dict[str, Any] = {"bundle": bundle, "configs": ["train.yaml"], "results": ["model.pt"]}
    return {
        "teacher": Stage("teacher", "Teacher", settings={"seed": 0}, inputs=data, **common),
        "student": Stage("student", "Student", settings={"seed": 0}, needs=["teacher"], **common),
        "predictions": Stage(
            "predictions", "Test",
            inputs={"data": {"test images": ["t"]}}, needs=["student"], incremental=["test images"],
            **common,
        ),
    }  # fmt: skip


def run(folder: Path, stages: Mapping[str, Stage], runner: Calls, **options: Any) -> StageStore:
    store = StageStore(folder, list(stages.values()), runner=runner, **options)
    store.run()
    return store


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content of every file of the stages, by path."""
    paths = (path for name in NAMES for path in folder.glob(f"{name}*/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.read_bytes()) for path in paths}


@pytest.fixture
def finished(tmp_path: Path, stages: dict[str, Stage], calls: Calls) -> Path:
    run(tmp_path / "run", stages, calls)
    assert calls.take() == list(NAMES)
    return tmp_path / "run"


def refusal(folder: Path, stages: Mapping[str, Stage], runner: Calls, **options: Any) -> str:
    """Returns the message with which a call is rejected without changing anything."""
    before = files(folder)
    with pytest.raises(ValueError, match="Expected") as error:
        run(folder, stages, runner, **options)
    assert files(folder) == before
    return str(error.value)


def test_a_second_call_runs_nothing(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    before = files(finished)
    store = run(finished, stages, calls)
    assert store.is_finished() and calls.take() == [] and files(finished) == before


def test_paths_and_devices_decide_nothing(
    finished: Path, stages: dict[str, Stage], calls: Calls, tmp_path: Path
) -> None:
    before = files(finished)
    elsewhere = {
        name: replace(stage, paths=lambda: {"device": "cpu", "datalist": Path("/elsewhere/datalist.json")})
        for name, stage in stages.items()
    }
    run(finished, elsewhere, calls)
    assert calls.take() == [] and files(finished) == before

    moved = tmp_path / "moved"
    finished.rename(moved)
    run(moved, elsewhere, calls)
    assert calls.take() == [] and files(moved) == before

    shutil.copytree(moved, tmp_path / "copied")
    run(tmp_path / "copied", elsewhere, calls)
    assert calls.take() == []


def with_learning_rate(bundle: Path, rate: float) -> None:
    path = bundle / "configs" / "train.yaml"
    path.write_text(path.read_text().replace("0.001", str(rate)))


def test_an_edited_config_is_named_and_comments_do_not_count(
    finished: Path, stages: dict[str, Stage], calls: Calls, bundle: Path
) -> None:
    path = bundle / "configs" / "train.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text("# another comment\n" + yaml.safe_dump(dict(reversed(content.items()))))
    run(finished, stages, calls)
    assert calls.take() == []

    with_learning_rate(bundle, 0.002)
    message = refusal(finished, stages, calls)
    assert "teacher/ (learning_rate is 0.002, was 0.001)" in message
    assert "--restart teacher student predictions" in message and "--keep" in message and calls.take() == []


def test_a_changed_setting_task_or_image_is_named(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    teacher = stages["teacher"]
    for changed, expected in (
        (replace(teacher, settings={"seed": 1}), "seed is 1, was 0"),
        (replace(teacher, inputs={"data": {"training images": ["a", "c"]}}), "training images: 1 new, 1 gone of 2"),
        (
            replace(teacher, inputs={**teacher.inputs, "task.json": {"channels": 3}}),
            "channels is 3, was None (task.json)",
        ),
    ):  # fmt: skip
        message = refusal(finished, {**stages, "teacher": changed}, calls)
        assert expected in message and "--restart teacher (" not in message and calls.take() == []


def test_restart_keeps_the_old_folders_beside_and_runs_what_depends_on_them(
    finished: Path, stages: dict[str, Stage], calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(finished)
    changed = {**stages, "teacher": replace(stages["teacher"], settings={"seed": 1})}

    run(finished, changed, calls, restart=["teacher"])

    assert calls.take() == list(NAMES)
    kept = {path: state for path, state in files(finished).items() if ".before-" in path}
    assert sorted(kept.values()) == sorted(before.values())
    names = {path.split("/")[0].split(".")[0] for path in kept}
    assert names == set(NAMES) and "kept as teacher.before-" in caplog.text
    # Repeating the command changes nothing, with or without --restart.
    after = files(finished)
    run(finished, changed, calls, restart=["teacher"])
    run(finished, changed, calls)
    assert calls.take() == [] and files(finished) == after


def test_a_restart_with_the_same_result_does_not_run_dependents(
    finished: Path, stages: dict[str, Stage], calls: Calls
) -> None:
    students = {path: state for path, state in files(finished).items() if not path.startswith("teacher")}
    calls.same_result = True
    run(finished, {**stages, "teacher": replace(stages["teacher"], settings={"seed": 1})}, calls, restart=["teacher"])
    assert calls.take() == ["teacher"]
    after = files(finished)
    assert {path: after[path] for path in students} == students


def test_keep_takes_a_finished_stage_as_it_is(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    before = files(finished)
    changed = {**stages, "teacher": replace(stages["teacher"], settings={"seed": 1})}
    run(finished, changed, calls, keep=["teacher"])
    run(finished, changed, calls)  # need not be given again
    assert calls.take() == [] and files(finished) == before
    assert "--restart" in refusal(finished, stages, calls)


def test_more_test_cases_run_the_scoring_in_its_folder(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    before = files(finished)
    more = replace(stages["predictions"], inputs={"data": {"test images": ["t", "u"]}})
    run(finished, {**stages, "predictions": more}, calls)
    assert calls.take() == ["predictions"]
    after = files(finished)
    assert set(after) == set(before)
    assert {path: after[path] for path in before if not path.startswith("predictions")} == {
        path: state for path, state in before.items() if not path.startswith("predictions")
    }


def test_an_interrupted_stage_resumes_and_is_kept_where_settings_changed(
    tmp_path: Path, stages: dict[str, Stage], calls: Calls
) -> None:
    folder, calls.fail_in = tmp_path / "run", "student"
    with pytest.raises(SystemExit):
        run(folder, stages, calls)
    assert calls.take() == ["teacher", "student"]
    changed = {**stages, "student": replace(stages["student"], settings={"seed": 1}, needs=["teacher"])}
    assert "student/ (seed is 1, was 0)" in refusal(folder, changed, calls)
    assert "which has never finished" in refusal(folder, changed, calls, keep=["student"])
    calls.fail_in = ""
    run(folder, stages, calls)
    assert calls.take() == ["student", "predictions"] and not list(folder.glob("*.before-*"))


def test_a_default_given_as_a_setting_is_no_difference(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    run(
        finished, {**stages, "teacher": replace(stages["teacher"], settings={"seed": 0, "learning_rate": 0.001})}, calls
    )
    assert calls.take() == []
    changed = {**stages, "teacher": replace(stages["teacher"], settings={"seed": 0, "learning_rate": 0.1})}
    assert "learning_rate is 0.1, was 0.001" in refusal(finished, changed, calls)


def test_a_bundle_that_a_stage_writes_is_judged_once_it_is_there(
    finished: Path, stages: dict[str, Stage], calls: Calls
) -> None:
    own = {**stages, "predictions": replace(stages["predictions"], bundle=finished / "student")}
    (finished / "student" / "configs").mkdir()
    config = finished / "student" / "configs" / "train.yaml"
    config.write_text("sw_batch_size: 8\n")
    assert "predictions/ (learning_rate is None, was 0.001" in refusal(finished, own, calls)
    config.unlink()
    StageStore(finished, list(own.values())).check()


def test_a_removed_result_is_made_again_and_an_edited_one_is_detected(
    finished: Path, stages: dict[str, Stage], calls: Calls
) -> None:
    shutil.rmtree(finished / "predictions")
    run(finished, stages, calls)
    assert calls.take() == ["predictions"]
    (finished / "teacher" / "model.pt").write_text("another teacher")
    assert "student/ (the files in teacher/ changed)" in refusal(finished, stages, calls)


def test_a_stage_that_comes_out_otherwise_stops_before_its_dependents_are_touched(
    finished: Path, stages: dict[str, Stage], calls: Calls
) -> None:
    shutil.rmtree(finished / "teacher")
    calls.changed = {"teacher": "on another machine"}
    students = {path: state for path, state in files(finished).items() if not path.startswith("teacher")}
    with pytest.raises(ValueError, match=r"student/ \(the files in teacher/ changed\)"):
        run(finished, stages, calls)
    assert calls.take() == ["teacher"]
    assert {path: files(finished)[path] for path in students} == students


def test_what_an_earlier_version_finished_is_taken_as_it_is(
    finished: Path, stages: dict[str, Stage], calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    for name in NAMES:
        write_json(finished / "stages" / f"{name}.json", {"key": "0123", "finished": True, "seconds": 2.0})
    before = files(finished)
    run(finished, stages, calls)
    assert calls.take() == [] and files(finished) == before
    assert "finished by an earlier version" in caplog.text
    assert read_json(finished / "stages" / "teacher.json")["parts"]["settings"]["seed"] == 0


def test_the_states_that_0_1_wrote_are_valid(finished: Path, stages: dict[str, Stage], calls: Calls) -> None:
    settings = {"learning_rate": 0.001, "network": {"_target_": "Net", "width": 8}}

    def digest(name: str) -> str:
        content = hashlib.sha256((finished / name / "model.pt").read_bytes()).hexdigest()
        return hashlib.sha256(f"model.pt {content}".encode()).hexdigest()[:16]

    parts: dict[str, Any] = {
        "teacher": {"settings": {**settings, "seed": 0}, "data": {"training images": ["a", "b"]}, "needs": {}},
        "student": {"settings": {**settings, "seed": 0}, "needs": {"teacher": digest("teacher")}},
        "predictions": {
            "settings": settings, "data": {"test images": ["t"]}, "needs": {"student": digest("student")},
        },
    }  # fmt: skip
    for name in NAMES:
        write_json(
            finished / "stages" / f"{name}.json",
            {"format": 2, "parts": parts[name], "finished": True, "seconds": 1.0},
        )
    before = files(finished)
    run(finished, stages, calls)
    assert calls.take() == [] and files(finished) == before
    with_learning_rate(stages["teacher"].bundle, 0.002)
    assert "teacher/ (learning_rate is 0.002, was 0.001)" in refusal(finished, stages, calls)


def test_unknown_stages_are_refused(tmp_path: Path, stages: dict[str, Stage]) -> None:
    for option in ("restart", "keep"):
        with pytest.raises(ValueError, match=r"stages among teacher, student, predictions, found \['techer'\]"):
            StageStore(tmp_path, list(stages.values()), **{option: ["techer"]})


def test_differences_are_stated_in_words(make_parts: Callable[..., Any]) -> None:
    before = make_parts(**{"long": "x" * 100})
    assert differences(before, before) == []
    assert differences(before, make_parts(**{"long": "y" * 100})) == ["long changed (task.json)"]
    assert differences(before, make_parts(**{"long": "x" * 100, "new": True})) == ["new is True, was None (task.json)"]


@pytest.fixture
def make_parts() -> Callable[..., Any]:
    return lambda **content: {"settings": {"seed": 0}, "task.json": content}
