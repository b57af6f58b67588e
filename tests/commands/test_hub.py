from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.bundle.zoo import hub
from tskd_monai.commands.hub import main
from tskd_monai.files.json_files import write_json


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The parts of an exported bundle that are uploaded."""
    folder = tmp_path / "abdomen"
    metadata = {"name": "A student", "tags": ["MR"], "weights_license": "cc-by-nc-sa-4.0", "non_commercial": True}
    write_json(folder / "configs" / "metadata.json", metadata)
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# A student\n")
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(b"w" * 2_000_000)
    return folder


def push(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    main(list(map(str, arguments)))


class RecordingApi:
    """Replaces the hub."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []

    def create_repo(self, repo_id: str, **options: object) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload_folder", options))

    def upload_file(self, **options: object) -> RecordingApi:
        self.calls.append(("upload_file", options))
        return self

    @property
    def commit_url(self) -> str:
        return "https://hub/commit/1"


def test_dry_run_lists_what_would_be_sent_and_sends_nothing(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: pytest.fail("a dry run must not reach for the hub"))
    push(monkeypatch, export, "--repo_id", "owner/abdomen", "--dry_run")
    shown = capsys.readouterr().out
    assert "license: cc-by-nc-sa-4.0" in shown and "non_commercial: true" in shown
    assert "2000000  models/model.pt" in shown and "README.md" in shown
    assert shown.endswith("MB in 4 files. Nothing was uploaded.\n")


def test_push_sends_the_folder_and_then_the_card(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = RecordingApi()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    push(monkeypatch, export, "--repo_id", "owner/abdomen", "--private")
    assert [name for name, _ in api.calls] == ["create_repo", "upload_folder", "upload_file"]
    created, sent, card = (options for _, options in api.calls)
    assert created == {"repo_id": "owner/abdomen", "private": True, "exist_ok": True}
    assert sent["folder_path"] == export and "eval/*" in sent["ignore_patterns"]  # type: ignore[operator]
    assert card["path_in_repo"] == "README.md" and b"non-commercial" in card["path_or_fileobj"]  # type: ignore[operator]
    assert capsys.readouterr().out == "https://hub/commit/1\n"


@pytest.mark.parametrize(
    ("folder", "repo_id", "message"),
    [("abdomen", "not a repository", "Repo id must"), ("nowhere", "owner/abdomen", "Expected a JSON file at")],
)
def test_wrong_repository_and_folder_are_named(
    folder: str,
    repo_id: str,
    message: str,
    export: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        push(monkeypatch, export.parent / folder, "--repo_id", repo_id, "--dry_run")
    assert message in capsys.readouterr().err
