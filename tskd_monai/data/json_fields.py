"""The fields of a JSON object from outside: that they are there and of their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tskd_monai.files.json_files import shown

Fields = Mapping[str, tuple[type, ...]]
"""Types that each field may have; `bool` has to be named, although Python counts it among the whole numbers."""


def check_fields(found: Any, fields: Fields, where: str, advice: str) -> None:
    """Raises ValueError unless `found` is an object that has these fields, each of one of its types.

    Args:
        found: content of a file, or a part of it.
        fields: that it must have; it may have others.
        where: the file and the place in it; named in the message.
        advice: what to do about it, the end of the message.
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
    """Whether a value is of one of these types, a whole number standing for a number but true and false for none."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (float in types and isinstance(value, int))
