"""Whatever can be written as JSON round-trips, and whatever is not JSON is rejected with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.files.json_files import check_fields, parse_json, read_json, write_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
CONTENT = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


@given(content=CONTENT)
def test_json_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, content)
    found = read_json(path)
    assert found == content
    assert json.dumps(found) == json.dumps(content)  # 1 and 1.0 are equal but not the same


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "the number NaN, which is not finite"),
        ("[-Infinity]", "the number -Infinity, which is not finite"),
        ('{"a": 1e999}', "the number '1e999', which is not finite"),
        ('{"channels": 1, "channels": 3}', "the key 'channels' twice in one object"),
        ("[" + "9" * 21 + "]", "the whole number '9+' of more than 20 digits"),
        ("9" * 5000, r"the whole number '9+\.\.\. of more than 20 digits"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (r'{"case": "\ud800"}', "an unpaired surrogate in a string"),
        (r'{"\uDFFF": 1}', "an unpaired surrogate in a string"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_what_python_accepts_and_the_standard_does_not_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"Expected JSON in .*odd\.json: .*{reason}"):
        read_json(tmp_path / "odd.json")


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert parse_json(r'"\ud83e\uddec"') == "🧬"


@given(value=CONTENT)
def test_a_field_is_taken_or_refused_by_its_type(value: Any) -> None:
    for types in ((int,), (float,), (str, type(None)), (bool,), (list,), (dict,)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        expected = isinstance(value, bool) if bool in types else not isinstance(value, bool) and (
            isinstance(value, types) or (float in types and whole)
        )  # fmt: skip
        if expected:
            check_fields({"key": value, "other": 1}, {"key": types}, "a.json", "write it again")
        else:
            with pytest.raises(ValueError, match=r"Expected key in a\.json to be \w.*; write it again\."):
                check_fields({"key": value}, {"key": types}, "a.json", "write it again")


def test_a_field_that_is_missing_and_no_object_are_named() -> None:
    with pytest.raises(ValueError, match=r"Expected key in a\.json, found none; write it again\."):
        check_fields({}, {"key": (int,)}, "a.json", "write it again")
    with pytest.raises(ValueError, match=r"Expected an object in a\.json, found list; write it again\."):
        check_fields([], {"key": (int,)}, "a.json", "write it again")
