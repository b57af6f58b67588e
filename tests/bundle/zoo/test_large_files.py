from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from tskd_monai.bundle.zoo import large_files
from tskd_monai.bundle.zoo.large_files import write_large_files

URL = "https://example.org/model.pt"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with one file above the limit, which is lowered for the test."""
    monkeypatch.setattr(large_files, "LIMIT_BYTES", 100)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"w" * 101)
    (tmp_path / "LICENSE").write_bytes(b"l" * 100)
    return tmp_path


def test_large_file_is_listed_with_its_sha256(bundle: Path) -> None:
    assert write_large_files(bundle, {"models/model.pt": URL}) == ["models/model.pt"]
    assert yaml.safe_load((bundle / "large_files.yml").read_text()) == {
        "large_files": [
            {
                "path": "models/model.pt",
                "url": URL,
                "hash_val": hashlib.sha256(b"w" * 101).hexdigest(),
                "hash_type": "sha256",
            }
        ]
    }


def test_small_files_need_no_list(bundle: Path) -> None:
    (bundle / "models" / "model.pt").write_bytes(b"w" * 100)
    assert write_large_files(bundle, {}) == []
    assert not (bundle / "large_files.yml").exists()


def test_large_file_without_an_address_is_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected --url models/model\.pt=https://….*25 MB.*Upload it"):
        write_large_files(bundle, {})


def test_address_of_another_file_is_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected --url for a file of the bundle, found model\.pt; it has LICENSE"):
        write_large_files(bundle, {"model.pt": URL})


def test_address_of_a_small_file_is_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match="Expected --url for a file above 25 MB, found LICENSE, which"):
        write_large_files(bundle, {"models/model.pt": URL, "LICENSE": URL})
