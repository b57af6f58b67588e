"""Any valid datalist is read unchanged, and one that violates any one rule is rejected by file and section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.data.datalist import SECTIONS, load_datalist

CASES = st.integers(0, 999) | st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=6
)


@st.composite
def datalists(draw: st.DrawFn) -> dict[str, Any]:
    """Returns a datalist of files `0`, `1`, ... whose cases differ as strings."""
    cases = draw(st.lists(CASES, min_size=1, max_size=6, unique_by=str))
    datalist: dict[str, Any] = {"training": []}
    for number, case in enumerate(cases):
        section = draw(st.sampled_from(SECTIONS))
        entry = {"image": f"images/{number}", "case": case}
        if section != "unlabeled":
            entry["label"] = f"labels/{number}"
        datalist.setdefault(section, []).append(entry)
    return datalist


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the files that the datalists name."""
    folder = tmp_path_factory.mktemp("study")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for number in range(6):
            (folder / kind / str(number)).touch()
    return folder


def load(folder: Path, content: Any, fold: int | None = None) -> dict[str, Any]:
    (folder / "datalist.json").write_text(json.dumps(content))
    return load_datalist(folder / "datalist.json", fold)


@given(content=datalists())
def test_a_datalist_is_read_unchanged(folder: Path, content: dict[str, Any]) -> None:
    found = load(folder, content)
    for section in SECTIONS:
        expected = content.get(section, [])
        assert [entry["case"] for entry in found[section]] == [str(entry["case"]) for entry in expected]
        for entry, written in zip(found[section], expected, strict=True):
            assert set(entry) == set(written)
            assert all(entry[key] == str(folder / written[key]) for key in {"image", "label"} & set(written))


@given(content=datalists())
def test_what_is_read_is_read_again_the_same(folder: Path, content: dict[str, Any]) -> None:
    first = load(folder, content)
    assert load(folder, first) == first


@given(content=datalists(), data=st.data())
def test_a_fold_holds_the_cases_that_it_names(folder: Path, content: dict[str, Any], data: st.DataObject) -> None:
    cases = [str(entry["case"]) for section in SECTIONS[:3] for entry in content.get(section, [])]
    shuffled = data.draw(st.permutations(cases))
    cut = data.draw(st.integers(0, len(cases)))
    fold = {"training": shuffled[:cut], "validation": shuffled[cut:]}
    found = load(folder, {**content, "folds": [fold]}, fold=0)
    for section in ("training", "validation"):
        assert [entry["case"] for entry in found[section]] == fold[section]
    assert found["test"] == []


ENTRY = {"image": "images/0", "label": "labels/0", "case": "a"}
NO_TEXT = st.none() | st.booleans() | st.integers(-9, 9) | st.lists(st.text(max_size=3), max_size=2)


def entry_with(key: str, wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return wrong.map(lambda value: {"training": [{**ENTRY, key: value}]})


RULES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "it is an object": ("an object with a list `training`", NO_TEXT | st.text(max_size=3)),
    "training is a list": ("an object with a list `training`", (NO_TEXT | st.just({})).map(lambda x: {"training": x})
                           .filter(lambda content: not isinstance(content["training"], list))),
    "sections are lists": ("a list in `validation`", st.sampled_from([None, 1, "a", {}]).map(
        lambda value: {"training": [], "validation": value})),
    "an entry is an object": ("an entry with .* in `training`", NO_TEXT.map(lambda value: {"training": [value]})),
    "an entry is whole": ("an entry with .* in `training`", st.sampled_from(sorted(ENTRY)).map(
        lambda key: {"training": [{name: value for name, value in ENTRY.items() if name != key}]})),
    "no key of MONAI's": ("`training` has the key", st.text(st.characters(codec="ascii"), max_size=3).map(
        lambda end: {"training": [{**ENTRY, f"image_{end}": 1}]})),
    "an image is a path": ("a path as `image` in `training`", entry_with("image", NO_TEXT | st.just(""))),
    "a label is a path": ("a path as `label` in `training`", entry_with("label", NO_TEXT | st.just(""))),
    "a case is text or a number": ("a printable text or a whole number as `case` in `training`", entry_with(
        "case", st.sampled_from([None, True, 1.5, [], {}, "", "a\n", "\x00", "\u202e"]))),
    "slices are numbers from 0": ("slice numbers from 0 as `slices` in `training`", entry_with(
        "slices", st.sampled_from([None, 3, "0", {}, [-1], [0.5], ["0"], [True], [[0]]]))),
    "a patient has one section": ("sections disjoint by `case`", st.sampled_from(SECTIONS[1:3]).map(
        lambda section: {"training": [ENTRY], section: [ENTRY]})),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_every_broken_rule_names_file_and_section(folder: Path, rule: str, data: st.DataObject) -> None:
    message, wrong = RULES[rule]
    with pytest.raises(ValueError, match=rf"datalist\.json: (expected )?{message}"):
        load(folder, data.draw(wrong))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({}, "a list in `folds`, found dict"),
        ([], "`folds` for --fold 0, found none"),
        ([None], r"an object in `folds\[0\]`, found NoneType"),
        ([{"training": "a"}], "a list in `training` of fold 0, found str"),
    ],
)
def test_folds_of_another_type_are_named(folder: Path, folds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"datalist\.json: expected {message}"):
        load(folder, {"training": [ENTRY], "folds": folds}, fold=0)


@pytest.mark.parametrize("name", ["images/none", "a\x00b", "x" * 5000, "images/0/below a file"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_a_name_that_no_file_has_is_a_missing_file(folder: Path, key: str, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"datalist\.json: expected .* of `training` case a, found no file"):
        load(folder, {"training": [{**ENTRY, key: name}]})


def test_a_link_counts_as_its_file(folder: Path, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0").symlink_to(folder / kind / "0")
    assert load(tmp_path, {"training": [ENTRY]})["training"][0]["image"] == str(tmp_path / "images" / "0")
