"""Mutated inputs: the harness detects every kind of offence, and a small run over the parsers finds none."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from tests.support.paths import ROOT

INPUTS = {
    "datalist": 300, "task": 300, "transfer set": 100, "gates": 150, "export record": 150, "training history": 100,
    "metrics table": 100, "study record": 100, "any record": 100, "NIfTI": 200, "NRRD and MetaImage": 300,
    "DICOM series": 60, "2D image": 100, "target cache": 200, "weights": 200, "checkpoint": 50, "teacher folder": 3,
    "student bundle": 8, "diffusion folder": 4, "sampling progress": 60,
    "DICOM label": 60, "Slicer segmentation": 100,
}  # fmt: skip


def script(name: str) -> ModuleType:
    return importlib.import_module(f"tests.reliability.{name}")


def test_every_parser_has_its_short_run() -> None:
    assert set(INPUTS) == set(script("parsers").NAMES)
    assert sum(script("parsers").parser_named(name).inputs for name in INPUTS) >= 100_000
    with pytest.raises(ValueError, match="Expected a parser among .*, found 'none'"):
        script("parsers").parser_named("none")


def check_mutants(name: str, inputs: int, folder: Path, seed: int) -> None:
    """Mutates the input of a parser several times; it must reject or read each in time, by its contract."""
    subject = script("subject")
    trials = subject.Trials(script("parsers").parser_named(name), folder / "inputs", seed=seed)
    trials.require_valid()
    outcomes: Counter[str] = Counter()
    for index in range(inputs):
        result = trials.attempt(trials.mutant(index))
        outcomes[result.outcome] += 1
        assert result.outcome != subject.OFFENDER, f"input {index}: {result}"
        assert result.seconds < 10
    trials.require_valid()  # every file was restored
    if name != "target cache":  # which treats a damaged target as missing
        assert outcomes[subject.REFUSED] > 0


@pytest.mark.parametrize("name", INPUTS)
def test_no_mutated_input_is_an_offender(name: str, tmp_path: Path) -> None:
    check_mutants(name, INPUTS[name], tmp_path, seed=1)


@pytest.mark.nightly
@pytest.mark.parametrize("name", INPUTS)
def test_no_mutated_input_of_many_is_an_offender(name: str, tmp_path: Path) -> None:
    check_mutants(name, 10 * INPUTS[name], tmp_path, seed=2)


@pytest.mark.parametrize(
    ("parser", "outcome", "error"),
    [
        ("refuses", "refused", "ValueError"),
        ("names_no_file", "offender", "ValueError"),
        ("raises_a_subclass", "offender", "UnicodeDecodeError"),
        ("breaks_its_word", "offender", "BrokenContractError"),
        ("asks_for_too_much", "offender", "MemoryError"),
    ],
)
def test_an_offence_is_distinguished_from_a_refusal(tmp_path: Path, parser: str, outcome: str, error: str) -> None:
    trials = script("subject").Trials(getattr(script("misbehaving_parsers"), parser)(), tmp_path / "inputs", seed=0)
    results = [trials.attempt(trials.mutant(index)) for index in range(5)]
    assert {(result.outcome, result.error) for result in results} == {(outcome, error)}


@pytest.mark.parametrize(
    ("parser", "error", "seconds"), [("hangs", "Hang", 1.0), ("dies", "Death", 60.0), ("takes_memory", "Memory", 60.0)]
)
def test_a_lost_worker_is_an_offence_and_the_run_continues(parser: str, error: str, seconds: float) -> None:
    limits = script("workers").Limits(seconds, memory_mb=250)
    find = getattr(script("misbehaving_parsers"), parser)
    replies = list(script("workers").run_parser(find, seed=0, inputs=2, limits=limits))
    assert [index for index, _, _ in replies] == [0, 1]
    assert {(result.outcome, result.error) for _, result, _ in replies} == {("offender", error)}
    assert all((peak > 250) == (parser == "takes_memory") for _, _, peak in replies)


def test_a_mutation_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    make, find = script("subject").Trials, script("parsers").parser_named
    first, again, other = (make(find("task"), tmp_path / str(n), seed) for n, seed in enumerate((0, 0, 1)))
    contents = [[trials.mutant(index).content for index in range(40)] for trials in (first, again, other)]
    assert contents[0] == contents[1] != contents[2]
    assert len(set(contents[0])) > 35


def test_json_mutations_break_structure_and_meaning() -> None:
    mutations = script("mutations")
    valid = json.dumps({"a": [1, 2.5, {"b": "text"}], "c": None, "d": True}).encode()
    texts = [mutations.mutate_json(Random(index), valid).decode(errors="replace") for index in range(600)]
    assert any("NaN" in text for text in texts) and any("1e999" in text for text in texts)
    assert any("[" * 1000 in text for text in texts) and any("9" * 5000 in text for text in texts)
    assert any(text.count('"c":') == 2 for text in texts) and any('"c":' not in text for text in texts)
    assert not any("\\uffff" in text for text in texts)


@pytest.mark.slow
def test_a_run_counts_keeps_offenders_and_replays_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, tally = script("mutate_parsers").main, script("mutate_parsers").Tally
    results = tmp_path / "results.json"
    assert main(["--parsers", "task", "--inputs", "20", "--seed", "3", "--results", str(results)]) == 0
    found = json.loads(results.read_text())
    assert found["inputs"] == found["parsers"]["task"]["inputs"] == 20 and found["offenders"] == 0
    assert found["parsers"]["task"]["seed"] == 3 and found["versions"]["python"]
    subject = script("subject")
    tally("task", 3, tmp_path / "kept").add(7, subject.Answer(subject.OFFENDER, "KeyError", "'name'", 0.1), 50.0)
    (kept,) = (tmp_path / "kept").iterdir()
    about = json.loads((kept / "offender.json").read_text())
    assert (about["parser"], about["index"], about["error"]) == ("task", 7, "KeyError")
    mutant = subject.Trials(script("parsers").parser_named("task"), tmp_path / "again", 3).mutant(7)
    assert (kept / "task.json").read_bytes() == mutant.content
    with pytest.raises(ValueError, match=r"task\.json"):
        main(["--replay", str(kept)])


def test_the_committed_run_is_whole() -> None:
    found = json.loads((ROOT / "tests/reliability/results/parsers.json").read_text())
    assert list(found["parsers"]) == list(script("parsers").NAMES)
    assert found["inputs"] >= 100_000 and found["offenders"] == 0
    for name, result in found["parsers"].items():
        assert result["slowest_seconds"] < found["limits"]["seconds"], name
        assert result["peak_mb"] < found["limits"]["memory_mb"], name
