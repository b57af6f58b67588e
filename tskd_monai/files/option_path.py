"""Paths as the command line of MONAI's bundle runner gives them.

It reads what looks like Python's: the folder `20240115` arrives as a number, `2024_01` as another, `1e5`, `True` and
`[1]` as what they are in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue


def text_path(value: Any, option: str) -> Path:
    """Returns the path that an option gives.

    Args:
        value: of the option.
        option: its name, such as `output_dir`.

    Raises:
        ValueError: if the value is no text; says how to write a name that looks like a number.
    """
    if isinstance(value, (str, Path)):
        return Path(value)
    raise ValueError(
        f"Expected a path for --{option}, found {value!r}, as which the command line reads it; "
        "write ./ in front of a name that looks so."
    )


def typed_path(value: Any, option: str) -> Path:
    """Returns the path that an option gives, or where its value is no text the name that was typed.

    Args:
        value: of the option.
        option: its name, such as `image`.

    Raises:
        ValueError: if the value is no text and none on this process' command line is read as it.
    """
    if not isinstance(value, (str, Path)):
        value = next((text for text in _typed(option) if DefaultParseValue(text) == value), value)
    return text_path(value, option)


def _typed(option: str) -> Iterator[str]:
    """Yields the texts that the command line of this process gives to an option."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, text = word.partition("=")
        if name == f"--{option}":
            yield text if equals else following
