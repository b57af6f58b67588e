from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fire.parser import DefaultParseValue

from tskd_monai.files.option_path import text_path, typed_path

NAMES = ("20240115", "2024_01_15", "0x10", "1e5", "1.50", "True")


@pytest.mark.parametrize("name", ["scan.nii", "~backup", "007", "a=b", Path("x")])
def test_text_is_the_path_unchanged(name: str | Path) -> None:
    assert text_path(name, "image") == typed_path(name, "image") == Path(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spelling", [("--image={}",), ("--image", "{}")])
def test_name_that_looks_like_a_value_is_the_name_that_was_typed(
    name: str, spelling: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word.format(name) if "{}" in word else word for word in spelling]
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--output_dir", "20240115", *words])
    value = DefaultParseValue(name)
    assert not isinstance(value, str)
    assert typed_path(value, "image") == Path(name)


@pytest.mark.parametrize("value", [20240115, 1e5, True, [1], {"a": 1}])
def test_value_that_was_not_typed_is_refused(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--image", "--output_dir", "7"])
    with pytest.raises(ValueError, match=r"Expected a path for --image, found .*; write \./ in front of a name"):
        typed_path(value, "image")


def test_other_options_are_refused_whatever_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--output_dir", "20240115"])
    with pytest.raises(ValueError, match="Expected a path for --output_dir, found 20240115, as which"):
        text_path(20240115, "output_dir")
