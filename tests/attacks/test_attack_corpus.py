"""Every attack is rejected, writes nothing outside its folder and runs nothing; without its guard it does harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import archive_attacks, config_attacks, dicom_attacks, image_attacks, weights_attacks
from tests.attacks.attack import MARKER, Attack, marker

CORPUS = [
    *weights_attacks.ROWS,
    *archive_attacks.ROWS,
    *image_attacks.ROWS,
    *dicom_attacks.ROWS,
    *config_attacks.ROWS,
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets the path of the marker file of planted code, and returns the folder that attacks are planted in."""
    monkeypatch.setenv(MARKER, str(tmp_path / "harm"))
    (tmp_path / "inbox").mkdir()
    monkeypatch.chdir(tmp_path / "inbox")
    return tmp_path / "inbox"


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: attack.name)
def test_attack_is_refused_and_does_harm_where_the_guard_is_taken_out(
    attack: Attack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = attack.plant(folder)
    with pytest.raises(attack.errors, match=attack.message):
        attack.guarded(planted)
    assert not marker().exists()
    assert attack.unguarded(planted, monkeypatch)


def test_corpus_has_every_attack_once() -> None:
    names = [attack.name for attack in CORPUS]
    assert len(set(names)) == len(names) >= 40
