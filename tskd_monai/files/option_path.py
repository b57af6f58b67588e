"""Paths as given on the command line of MONAI's bundle runner.

The runner parses Python literals: the folder `20240115` arrives as an int, `2024_01` as another, `1e5` as a float,
`True` and `[1]` as a bool and a list.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue


def text_path(value: Any, option: str) -> Path:
    """Returns the path given by an option.

    Args:
        value: value of the option.
        option: its name, such as `output_dir`.

    Raises:
        ValueError: if the value is not a string; states how to write a name that looks like a number.
    """
    if isinstance(value, (str, Path)):
        return Path(value)
    raise ValueError(
        f"Expected a path for --{option}, found {value!r}, as which the command line reads it; "
        "write ./ in front of a name that looks so."
    )


def typed_path(value: Any, option: str) -> Path:
    """Returns the path given by an option, or the name that was typed if its value is not a string.

    Args:
        value: value of the option.
        option: its name, such as `image`.

    Raises:
        ValueError: if the value is not a string and no argument of this process is parsed as it.
    """
    if not isinstance(value, (str, Path)):
        value = next((text for text in _typed(option) if DefaultParseValue(text) == value), value)
    return text_path(value, option)


def _typed(option: str) -> Iterator[str]:
    """Yields the strings given to an option on the command line of this process."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, text = word.partition("=")
        if name == f"--{option}":
            yield text if equals else following
