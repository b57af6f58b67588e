"""The time left of a run is proportional to what is expected of the remaining stages."""

from __future__ import annotations

import pytest

from tskd_monai.bundle.time_left import TimeLeft, about, clock

EXPECTED = {"teacher": 30.0, "student": 60.0, "test": 10.0}


def bar(elapsed: str, left: str, unit: str = "step") -> str:
    return f"Teacher:  50%|###   | 5/10 [{elapsed}<{left}, 3.1{unit}/s, loss=0.1]"


def test_finished_stages_measure_the_machine() -> None:
    times = TimeLeft(EXPECTED)
    assert times.left(EXPECTED) is None
    times.measure("teacher", 60.0)
    assert times.left(["student", "test"]) == pytest.approx(140)
    times.measure("student", 30.0)  # 90 s, as expected of both
    assert times.left(["test"]) == pytest.approx(10)
    assert times.left([]) == 0
    assert times.elapsed() >= 0


def test_an_earlier_call_measured_it_too() -> None:
    assert TimeLeft(EXPECTED, {"teacher": 15.0, "other": 1.0}).left(["student"]) == pytest.approx(30)


def test_what_is_not_known_is_left_out() -> None:
    times = TimeLeft({})
    times.measure("teacher", 60.0)
    assert times.left(["student"]) is None
    assert TimeLeft(EXPECTED, {"teacher": 30.0}).left(["student", "another"]) is None
    assert TimeLeft({"teacher": 0.0}, {"teacher": 3.0}).left(["teacher"]) is None


def test_the_bar_of_the_first_stage_measures_it() -> None:
    times = TimeLeft(EXPECTED)
    later = ["student", "test"]
    assert times.left_with(bar("01:00", "1:00:00"), "teacher", 90, later) == pytest.approx(3600 + 3690 * 70 / 30)
    assert times.left_with(bar("00:02", "00:01"), "teacher", 9, later) is None  # too early to measure
    assert times.left_with(bar("01:00", "02:00", unit="case"), "teacher", 9, later) is None
    assert times.left_with(bar("01:00", "?"), "teacher", 9, later) is None
    assert times.left_with(bar("00:10", "00:00"), "test", 12, []) == 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "about 10 s"), (44, "about 40 s"), (100, "about 2 min"), (3570, "about 60 min"), (4900, "about 1 h 20 min"),
     (7000, "about 2 h 0 min")],
)  # fmt: skip
def test_durations_for_people(seconds: float, expected: str) -> None:
    assert about(seconds) == expected


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 67.9, 3723)] == ["0:00", "1:07", "1:02:03"]
