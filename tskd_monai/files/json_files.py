"""JSON files: the only reader and writer, and checks of their content.

Files are read strictly by the standard (RFC 8259), since others may have written them.

Python's own parser accepts more: NaN and infinity, duplicate keys of which the last wins, numbers beyond 64 bits, text
that cannot be encoded. The writer intended none of these, so each is rejected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.files.atomic import atomic_path

MAX_DIGITS = 20
"""Maximum number of digits of a whole number: that of the largest 64-bit integer."""

SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def read_json(path: str | Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not JSON as `parse_json` accepts it; names the file and the position or the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a JSON file at {path}, found none.")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in {path}: {error}") from error


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def parse_json(text: str) -> Any:
    """Returns the content of JSON text.

    Raises:
        ValueError: if it is not JSON, is nested too deeply, repeats a key, or contains a number that is not finite or
            exceeds 64 bits, or an unpaired surrogate; states which.
    """
    try:
        content = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        if SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # an unpaired surrogate cannot be encoded
    except UnicodeEncodeError as error:
        raise ValueError(f"an unpaired surrogate in a string: {error.reason}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"the key {shown(repeated)} twice in one object")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the number {name}, which is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text)}, which is not finite")
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"the whole number {shown(text)} of more than {MAX_DIGITS} digits")
    return int(text)


def shown(value: Any) -> str:
    """Returns a value from a file as shown in messages: its first 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


Fields = Mapping[str, tuple[type, ...]]
"""Types that each field may have; `bool` must be named, although it is a subclass of int in Python."""


def check_fields(found: Any, fields: Fields, where: str, advice: str) -> None:
    """Raises ValueError unless `found` is an object with these fields, each of one of its types.

    Args:
        found: content of a file, or a part of it.
        fields: required fields; others are allowed.
        where: the file and the position in it, named in the message.
        advice: what to do about it, at the end of the message.
    """
    if not isinstance(found, dict):
        raise ValueError(f"Expected an object in {where}, found {type(found).__name__}; {advice}.")
    for key, types in fields.items():
        if key not in found:
            raise ValueError(f"Expected {key} in {where}, found none; {advice}.")
        if not is_a(found[key], *types):
            names = " or ".join(expected.__name__ for expected in types)
            raise ValueError(f"Expected {key} in {where} to be {names}, found {shown(found[key])}; {advice}.")


def is_a(value: Any, *types: type) -> bool:
    """Returns whether a value has one of these types; an int is accepted as a float, a bool only as a bool."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (float in types and isinstance(value, int))


def is_there(path: Path) -> bool:
    """Returns whether a file or folder exists; False for invalid names, too long or with a null character."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
