from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.data.datalist import (
    case_names,
    labelled_subset,
    load_datalist,
    load_section,
    restrict_labels,
    transfer_images,
)

Write = Callable[..., Path]
COUNTS = {"p01": 31, "p02": 36, "p03": 46, "p04": 26, "p05": 40}


def _entry(case: Any, image: str | None = None) -> dict[str, Any]:
    return {"image": image or f"img/{case}.nii", "label": f"lab/{case}.nii", "case": case}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a datalist of the sections given, and empty files for its entries, below tmp_path."""

    def write_datalist(**content: Any) -> Path:
        for section in ("training", "validation", "test", "unlabeled"):
            for entry in content.get(section, []):
                for key in {"image", "label"} & set(entry):
                    (tmp_path / entry[key]).parent.mkdir(exist_ok=True)
                    (tmp_path / entry[key]).touch()
        path = tmp_path / "datalist.json"
        path.write_text(json.dumps(content))
        return path

    return write_datalist


def test_paths_become_absolute_and_cases_text(write: Write, tmp_path: Path) -> None:
    path = write(training=[_entry(7)], unlabeled=[_entry("x")])
    datalist = load_datalist(path)
    expected = {"image": str(tmp_path / "img/7.nii"), "label": str(tmp_path / "lab/7.nii"), "case": "7"}
    assert datalist["training"] == [expected]
    assert datalist["unlabeled"] == [{"image": str(tmp_path / "img/x.nii"), "case": "x"}]
    assert datalist["validation"] == datalist["test"] == []
    assert load_section(path, "training") == [expected]


def test_the_label_of_a_second_reader_is_a_path_too(write: Write, tmp_path: Path) -> None:
    path = write(training=[{**_entry("a"), "second_reader": "lab/a.nii"}])
    assert load_datalist(path)["training"][0]["second_reader"] == str(tmp_path / "lab/a.nii")
    path = write(training=[{**_entry("a"), "second_reader": "lab/none.nii"}])
    with pytest.raises(FileNotFoundError, match=r"expected lab/none\.nii of `training` case a, found no file"):
        load_datalist(path)


def test_the_transfer_set_has_no_labels_and_no_held_out_case(write: Write) -> None:
    path = write(
        training=[_entry("a")], validation=[_entry("v")], test=[_entry("t")], unlabeled=[{"image": "u.nii", "case": 3}]
    )
    images = transfer_images(path)
    assert [entry["case"] for entry in images] == ["a", "3"]
    assert all(set(entry) == {"image", "case"} for entry in images)


@pytest.mark.parametrize(("first", "second"), [("training", "validation"), ("training", "test"), ("test", "unlabeled")])
def test_a_patient_in_two_sections_is_refused(write: Write, first: str, second: str) -> None:
    # 4 and "4" are one patient, whatever the type.
    path = write(**{"training": [], first: [_entry(4)], second: [_entry("4", "img/second.nii")]})
    with pytest.raises(ValueError, match=f"found case 4 in both `{first}` and `{second}`"):
        load_datalist(path)


def test_a_training_patient_may_have_unlabelled_images(write: Write) -> None:
    path = write(training=[_entry("a")], unlabeled=[{"image": "img/right.nii", "case": "a"}])
    assert [entry["case"] for entry in transfer_images(path)] == ["a", "a"]


def test_images_of_a_patient_share_a_budget_and_the_rest_becomes_unlabelled(write: Write) -> None:
    pairs = [
        _entry("a", "img/left.nii"),
        _entry("a", "img/right.nii"),
        _entry("b", "x/one.nii"),
        _entry("b", "x/two.nii"),
    ]
    datalist = load_datalist(write(training=pairs))
    names = case_names(datalist["training"])
    assert names == ["a_left", "a_right", "b_one", "b_two"]
    chosen = labelled_subset(dict.fromkeys(names, 1), 3, seed=0)
    restricted = restrict_labels(datalist, chosen)
    assert [len(restricted[section]) for section in ("training", "unlabeled")] == [3, 1]
    load_datalist(write(**restricted))


def test_a_patient_may_have_two_images_in_a_section(write: Write) -> None:
    path = write(training=[_entry("a", "img/left.nii"), _entry("a", "img/right.nii")])
    assert len(load_datalist(path)["training"]) == 2


def test_a_fold_redefines_the_sections_with_all_images_of_a_patient(write: Write) -> None:
    entries = [_entry("a", "img/left.nii"), _entry("a", "img/right.nii"), _entry("b")]
    folds = [{"training": ["a"], "validation": ["b"]}, {"training": ["b", "c"], "validation": ["a"]}]
    path = write(training=entries, validation=[_entry("c")], test=[_entry("t")], folds=folds)
    first, second = load_datalist(path, 0), load_datalist(path, 1)
    assert [Path(e["image"]).name for e in first["training"]] == ["left.nii", "right.nii"]
    assert [e["case"] for e in second["training"]] == ["b", "c"]
    assert [Path(e["image"]).name for e in second["validation"]] == ["left.nii", "right.nii"]
    assert first["test"] == []


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        ([{"training": ["a"]}], 1, "expected a fold below 1, found 1"),
        ([{"training": ["a"]}], -1, "expected a fold below 1, found -1"),
        ([{"training": ["z"]}], 0, "fold 0 names case z, which no section has"),
        ([{"training": ["a"], "test": ["a"]}], 0, "found case a in both `training` and `test`"),
    ],
)
def test_a_wrong_fold_is_refused(write: Write, folds: list, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_datalist(write(training=[_entry("a")], folds=folds), fold)


def test_a_wrong_datalist_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected --datalist"):
        load_datalist(None)
    for content, message in [
        ({"training": {}}, "an object with a list `training`"),
        ({"training": [], "test": {}}, "expected a list in `test`, found dict"),
        ({"training": [{"image": "a.nii", "case": "a"}]}, r"expected an entry with \['case', 'image', 'label'\]"),
        ({"training": [{**_entry("a"), "image_spacing": 1}]}, "has the key image_spacing; MONAI reserves"),
    ]:
        with pytest.raises(ValueError, match=rf"datalist\.json: .*{message}"):
            load_datalist(write(**content))
    path = write(training=[_entry("a")])
    (tmp_path / "lab/a.nii").unlink()
    with pytest.raises(FileNotFoundError, match="expected lab/a.nii of `training` case a, found no file"):
        load_datalist(path)
    with pytest.raises(ValueError, match="expected entries in `test`, found none"):
        load_section(write(training=[_entry("a")]), "test")
    with pytest.raises(ValueError, match=r"Expected a section among .*found train\."):
        load_section(path, "train")


def test_budgets_are_nested_seeded_and_exact() -> None:
    chosen = {n: labelled_subset(COUNTS, n, seed=3) for n in (10, 25, 100, 179)}
    pairs = {n: {(case, i) for case, indices in c.items() for i in indices} for n, c in chosen.items()}
    assert [len(pairs[n]) for n in chosen] == [10, 25, 100, 179]
    assert pairs[10] < pairs[25] < pairs[100] < pairs[179]
    assert all(0 <= index < COUNTS[case] for case, index in pairs[179])
    shuffled = dict(reversed(COUNTS.items()))  # the order of the cases does not matter
    assert labelled_subset(shuffled, 25, seed=3) == chosen[25] != labelled_subset(COUNTS, 25, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_patients_come_first_and_slices_are_spread(seed: int) -> None:
    assert [len(indices) for indices in labelled_subset(COUNTS, 3, seed).values()] == [1, 1, 1]
    assert [len(indices) for indices in labelled_subset(COUNTS, 25, seed).values()] == [5] * 5
    for case, indices in labelled_subset(COUNTS, 40, seed).items():
        gaps = [b - a for a, b in zip(indices, [*indices[1:], indices[0] + COUNTS[case]], strict=True)]
        assert len(indices) == 8 and max(gaps) <= 2 * COUNTS[case] / 8 + 1 and min(gaps) >= COUNTS[case] // 16


@pytest.mark.parametrize("budget", [0, 180])
def test_a_budget_beyond_the_slices_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=f"a budget of 1 to 179 labelled slices, found {budget}"):
        labelled_subset(COUNTS, budget, seed=0)


def test_short_volumes_give_all_and_long_ones_the_rest() -> None:
    assert labelled_subset({"a": 1, "b": 4, "c": 1}, 6, seed=0) == {"a": [0], "b": [0, 1, 2, 3], "c": [0]}


def test_cases_without_labelled_slices_become_unlabelled() -> None:
    datalist = {"training": [_entry("a"), _entry("b")], "unlabeled": [{"image": "u", "case": "u"}], "test": [1]}
    restricted = restrict_labels(datalist, {"b": [2, 5]})
    assert restricted["training"] == [{**_entry("b"), "slices": [2, 5]}]
    assert restricted["unlabeled"] == [{"image": "u", "case": "u"}, {"image": "img/a.nii", "case": "a"}]
    assert restricted["test"] == [1] and "slices" not in datalist["training"][1]


@pytest.mark.parametrize("name", ["img/a.nii", "./img/a.nii", "link.nii", "hard.nii", "folder/a.nii"])
@pytest.mark.parametrize("section", ["training", "validation", "test", "unlabeled"])
def test_an_image_is_in_one_section_once(write: Write, tmp_path: Path, name: str, section: str) -> None:
    write(training=[_entry("a"), _entry("b")])
    (tmp_path / "link.nii").symlink_to("img/a.nii")
    (tmp_path / "folder").symlink_to("img")
    os.link(tmp_path / "img/a.nii", tmp_path / "hard.nii")
    content: dict[str, Any] = {"training": [_entry("a")]}
    content.setdefault(section, []).append({**_entry("b"), "image": name})
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    message = rf"each image once, found a\.nii of `training` case a again in `{section}` case b; leave one"
    with pytest.raises(ValueError, match=message):
        load_datalist(tmp_path / "datalist.json")


def test_two_patients_do_not_share_a_label_but_two_images_of_one_may(write: Write) -> None:
    echoes = [{**_entry("a", f"img/{phase}.nii"), "label": "lab/a.nii"} for phase in ("in", "out")]
    assert len(load_datalist(write(training=echoes))["training"]) == 2
    with pytest.raises(ValueError, match=r"label of each case's own, found a\.nii for the cases a and b; pair each"):
        load_datalist(write(training=[_entry("a")], test=[{**_entry("b"), "label": "lab/a.nii"}]))


def test_entries_with_an_error_are_reported_and_left_out_where_asked(write: Write, tmp_path: Path) -> None:
    path = write(
        training=[_entry("a"), _entry("b"), {"image": "img/c.nii", "case": "c"}, {**_entry("d"), "label": "lab/a.nii"}],
        test=[_entry("t"), _entry("e", image="img/a.nii"), _entry("a", image="img/a2.nii")],
        folds=[{"training": ["a", "b", "c", "t"], "test": []}],
    )
    (tmp_path / "img/b.nii").unlink()
    faults: list[tuple[str, Any, str]] = []

    def refuse(section: str, entry: Any, error: Exception) -> None:
        faults.append((section, entry["case"], str(error).removeprefix(f"{path}: ")))

    found = load_datalist(path, refuse=refuse)
    assert {section: [entry["case"] for entry in found[section]] for section in ("training", "test")} == {
        "training": ["a"],
        "test": ["t"],
    }
    assert [(section, case) for section, case, _ in faults] == [
        ("training", "b"), ("training", "c"), ("test", "a"), ("training", "d"), ("test", "e"),
    ]  # fmt: skip
    for (*_, message), start in zip(faults, ("expected img/b.nii of `training`", "expected an entry with",
                                             "expected sections disjoint", "expected a label of each case's own",
                                             "expected each image once"), strict=True):  # fmt: skip
        assert message.startswith(start)
    faults.clear()
    found = load_datalist(path, 0, refuse)
    assert [entry["case"] for entry in found["training"]] == ["a", "a", "t"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"training": [{"image": "a.nii", "label": "b.nii"}]},
            r"in `training`, .*; name the patient of each image as `c",
        ),
        (
            {"training": [], "test": ["./a.nii"]},
            r"in `test`, found './a\.nii'; list images that have no label as .*`unla",
        ),
        (
            {"numTraining": 3, "channel_names": {"0": "T2"}},
            r"list `training`, found the dataset\.json of nnU-Net, which",
        ),
    ],
)
def test_a_list_of_another_tool_is_refused_with_what_is_missing(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_datalist(tmp_path / "datalist.json")
