"""The subject of mutation: a parser of ours, valid inputs for it, and its permitted outcomes."""

from __future__ import annotations

import logging
import re
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.reliability.mutations import mutation_of

READ, REFUSED, OFFENDER = "read", "refused", "offender"
DOCUMENTED = (ValueError, FileNotFoundError)
"""What a parser raises on an invalid input: exactly these types, since a subclass comes from other code."""


class BrokenContractError(Exception):
    """A parser returned a value outside its contract."""


@dataclass(frozen=True)
class Case:
    """A valid input.

    Attributes:
        folder: folder that contains it.
        files: names of its files that are mutated, one at a time, relative to the folder.
    """

    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A parser under test.

    Attributes:
        name: name of the parser.
        inputs: number of inputs in a full run.
        write: writes valid inputs into a folder, the same each time.
        read: reads the input in a case's folder with our parser and checks the result.
        documented: exceptions that it may raise.
        folder_is_input: whether an error may name the folder instead of the file.
        reseal: updates checksums within the case that would reveal a mutated file; applied to half of the inputs.
    """

    name: str
    inputs: int
    write: Callable[[Path], Sequence[Case]]
    read: Callable[[Path], object]
    documented: tuple[type[Exception], ...] = DOCUMENTED
    folder_is_input: bool = False
    reseal: Callable[[Path, str], None] | None = None


@dataclass(frozen=True)
class Mutant:
    """A mutated file and its path."""

    case: Case
    file: str
    content: bytes
    resealed: bool

    @property
    def path(self) -> Path:
        """Path of the file in its case."""
        return self.case.folder / self.file


@dataclass(frozen=True)
class Answer:
    """The outcome of a parser on an input.

    Attributes:
        outcome: `read`, `refused` or `offender`.
        error: type of the exception, or empty.
        message: message of the exception.
        seconds: duration.
    """

    outcome: str
    error: str
    message: str
    seconds: float


class Trials:
    """Mutated inputs of one parser; input i depends only on the seed, the parser's name and i.

    Args:
        subject: the parser.
        folder: folder for its inputs, emptied first.
        seed: seed of all mutations.
    """

    def __init__(self, subject: Subject, folder: Path, seed: int) -> None:
        self.subject, self.seed = subject, seed
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.cases = list(subject.write(folder))
        self.valid = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def mutant(self, index: int) -> Mutant:
        """Returns input `index`."""
        rng = Random(f"{self.seed}/{self.subject.name}/{index}")
        case = rng.choice(self.cases)
        file = rng.choice(case.files)
        donors = [self.valid[other.folder / name] for other in self.cases for name in other.files]
        content = mutation_of(file)(rng, self.valid[case.folder / file], donors)
        return Mutant(case, file, content, self.subject.reseal is not None and rng.random() < 0.5)

    def attempt(self, mutant: Mutant) -> Answer:
        """Returns the parser's outcome on an input, and restores the valid input."""
        mutant.path.write_bytes(mutant.content)
        if mutant.resealed and self.subject.reseal is not None:
            self.subject.reseal(mutant.case.folder, mutant.file)
        started = time.perf_counter()
        try:
            self.subject.read(mutant.case.folder)
            outcome, error, message = READ, "", ""
        except Exception as caught:  # any exception is an outcome
            outcome = REFUSED if self._is_documented(caught, mutant) else OFFENDER
            error, message = type(caught).__name__, str(caught)
        seconds = time.perf_counter() - started
        self._restore(mutant.case.folder)
        return Answer(outcome, error, message, seconds)

    def require_valid(self) -> None:
        """Raises what a parser raises on its valid inputs; unless it is nothing, the mutations prove nothing."""
        for case in self.cases:
            self.subject.read(case.folder)

    def _is_documented(self, error: Exception, mutant: Mutant) -> bool:
        names = [re.escape(mutant.path.name)]
        if (
            self.subject.folder_is_input
        ):  # a series is named by a hash of its UID: its folder may contain a patient's name
            names += [re.escape(mutant.case.folder.name), "series [0-9a-f]{8}"]
        return type(error) in self.subject.documented and bool(re.search("|".join(names), str(error)))

    def _restore(self, folder: Path) -> None:
        for path, content in self.valid.items():
            if path.is_relative_to(folder):
                path.write_bytes(content)


def require(condition: bool, what: str) -> None:
    """Raises BrokenContractError unless the parser satisfied its contract."""
    if not condition:
        raise BrokenContractError(what)


def quiet() -> None:
    """Silences the output of parsers and libraries on invalid inputs: only the outcome counts."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
