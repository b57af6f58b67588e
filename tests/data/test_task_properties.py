"""Any task round-trips through its file, and a file that violates any one rule is rejected by file and field."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.data.task import (
    CODES,
    INTENSITY_MODES,
    NAME,
    REFUSE,
    WARN,
    Intensity,
    Label,
    Task,
    TrainingImages,
    load_task,
    save_task,
)

NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: len(name) <= 12)
SHARES = st.floats(0, 1)
SIZES = st.integers(1, 64).map(lambda blocks: 16 * blocks)
SPACINGS = st.floats(1e-3, 1e3)
AXCODES = ["".join(letters) for pairs in permutations(("RL", "AP", "SI")) for letters in product(*pairs)]
RANGES = st.tuples(SPACINGS, SPACINGS).map(lambda pair: (min(pair), max(pair)))
TRAINING_IMAGES = st.none() | st.builds(TrainingImages, RANGES, RANGES, st.none() | RANGES, RANGES)
SNOMED = st.none() | st.dictionaries(st.sampled_from(CODES), st.lists(NAMES, min_size=3, max_size=3))


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    values = [0, *draw(st.lists(st.integers(1, 65535), min_size=1, max_size=5, unique=True))]
    labels = tuple(Label(value, draw(NAMES), draw(SNOMED)) for value in values)
    lower = draw(st.floats(-2000, 2000))
    kept = tuple(draw(st.lists(st.sampled_from(values[1:]), max_size=3, unique=True)))
    shares = draw(st.just(()) | st.tuples(*[SHARES] * len(labels)))
    return Task(
        name=draw(NAMES),
        labels=labels,
        channels=draw(st.sampled_from((1, 3))),
        image_size=(draw(SIZES), draw(SIZES)),
        pixdim=(draw(SPACINGS), draw(SPACINGS)),
        axcodes=draw(st.none() | st.sampled_from(AXCODES)),
        intensity=Intensity(draw(st.sampled_from(INTENSITY_MODES)), lower, lower + draw(st.floats(1, 4000))),
        class_frequencies=shares,
        foreground_oversampling=draw(SHARES),
        keep_largest_component=kept,
        unfiltered=kept[: draw(st.integers(0, len(kept)))],
        training_images=draw(TRAINING_IMAGES),
        unlike_training=draw(st.sampled_from((WARN, REFUSE))),
    )


@given(task=tasks())
def test_any_task_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, task: Task) -> None:
    path = tmp_path_factory.getbasetemp() / "task.json"
    save_task(task, path)
    again = load_task(path)
    assert again == task and again.hash == task.hash


TEXTS = st.text(max_size=5)
LISTS = st.lists(st.integers(-3, 3), max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | TEXTS
NO_LIST = SCALARS | st.dictionaries(TEXTS, SCALARS, max_size=2)
NO_WHOLE = st.none() | st.booleans() | st.floats(0, 64) | TEXTS | LISTS
NO_NUMBER = st.none() | st.booleans() | TEXTS | LISTS
BACKGROUND = {"value": 0, "name": "background"}


def pair_of(good: Any, wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(wrong.map(lambda value: [good, value]), st.booleans()).map(lambda p: p[0][:: 1 if p[1] else -1])


RULES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "the version is 1": ("format_version", st.none() | st.booleans() | st.integers(2, 9) | TEXTS),
    "a name is a text": ("name", NO_NUMBER.filter(lambda value: value == "" or not isinstance(value, str))),
    "labels are a list": ("labels", NO_LIST),
    "a label is an object": ("labels", SCALARS.map(lambda value: [BACKGROUND, value])),
    "two labels at least": ("labels", st.sampled_from([[], [BACKGROUND]])),
    "background comes first": ("labels", st.integers(1, 9).map(
        lambda value: [{"value": value, "name": "a"}, BACKGROUND])),
    "values are whole": ("labels", NO_WHOLE.map(lambda value: [BACKGROUND, {"value": value, "name": "a"}])),
    "values are distinct": ("labels", st.just([BACKGROUND, BACKGROUND])),
    "values fit 16 bits": (
        "labels",
        (st.integers(65536) | st.integers(max_value=-1)).filter(lambda value: abs(value) < 2**60)
        .map(lambda value: [BACKGROUND, {"value": value, "name": "a"}]),
    ),
    "labels have names": (
        "labels",
        (st.none() | st.integers() | st.just("")).map(lambda name: [BACKGROUND, {"value": 1, "name": name}])
        .filter(lambda labels: not isinstance(labels[1]["name"], int) or abs(labels[1]["name"]) < 2**60),
    ),
    "labels have no other field": ("labels", st.just([BACKGROUND, {"value": 1, "name": "a", "colour": "red"}])),
    "a label has a value": ("labels", st.just([BACKGROUND, {"name": "a"}])),
    "codes are of three texts": (
        "labels",
        (LISTS | st.lists(NAMES, max_size=2)).map(
            lambda code: [BACKGROUND, {"value": 1, "name": "a", "snomed": {"type": code}}]
        ),
    ),
    "channels are 1 or 3": ("channels", NO_WHOLE | st.sampled_from([0, 2, 4, -1])),
    "a size is two numbers": ("image_size", NO_LIST | st.sampled_from([[], [16], [16, 16, 16]])),
    "sizes are multiples of 16": ("image_size", pair_of(32, NO_WHOLE | st.sampled_from([0, -16, 8, 40]))),
    "a spacing is two numbers": ("pixdim", NO_LIST | st.sampled_from([[], [1.0], [1.0, 1.0, 1.0]])),
    "spacings are positive": ("pixdim", pair_of(1.5, NO_NUMBER | st.floats(-9, 0))),
    "axcodes name each direction": ("axcodes", st.sampled_from(
        ["", "PL", "PLSS", "PLL", "pls", 3, True, ["P", "L", "S"]])),
    "an intensity is an object": ("intensity", NO_NUMBER),
    "a mode is known": ("intensity", SCALARS.map(lambda mode: {"mode": mode, "lower": 0, "upper": 1})),
    "bounds are numbers": ("intensity", NO_NUMBER.map(lambda low: {"mode": "rgb", "lower": low, "upper": 1})),
    "bounds are ordered": ("intensity", st.floats(1, 9).map(lambda low: {"mode": "rgb", "lower": low, "upper": 1})),
    "an intensity is whole": ("intensity", st.sampled_from([{}, {"mode": "rgb", "lower": 0}])),
    "frequencies are shares": ("class_frequencies", pair_of(0.5, NO_NUMBER | st.floats(1.01, 9))),
    "frequencies are of the classes": ("class_frequencies", st.sampled_from([[0.5], [0.5, 0.3, 0.2]])),
    "oversampling is a share": ("foreground_oversampling", NO_NUMBER | st.floats(1.01, 9) | st.floats(-9, -0.01)),
    "kept components are classes": ("keep_largest_component", pair_of(1, NO_WHOLE | st.sampled_from([0, 7]))),
    "training images are an object": ("training_images", st.booleans() | st.integers(-9, 9) | TEXTS | LISTS),
    "training images have all ranges": ("training_images", st.sampled_from([{}, {"values": [0, 1]}])),
    "what is done is known": ("unlike_training", SCALARS | LISTS),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_every_broken_rule_names_file_and_field(
    tmp_path_factory: pytest.TempPathFactory, rule: str, data: st.DataObject
) -> None:
    field, wrong = RULES[rule]
    path = write_valid(tmp_path_factory.getbasetemp())
    content = json.loads(path.read_text())
    value = data.draw(wrong)
    path.write_text(json.dumps({**content, field: value}))
    with pytest.raises(ValueError, match=rf"task\.json: expected .* in `{field}`, found"):
        load_task(path)


@pytest.mark.parametrize("field", ["name", "labels", "channels", "image_size", "pixdim", "axcodes", "intensity"])
def test_a_field_that_is_missing_is_named(tmp_path: Path, field: str) -> None:
    path = write_valid(tmp_path)
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"task\.json: expected the fields \['{field}'\] in `task`, found none"):
        load_task(path)


def write_valid(folder: Path) -> Path:
    labels = (Label(0, "background"), Label(1, "liver"))
    task = Task("a", labels, 1, (16, 32), (1.0, 2.0), "PLS", Intensity("rgb", 0.0, 255.0), (0.9, 0.1))
    save_task(task, folder / "task.json")
    return folder / "task.json"
