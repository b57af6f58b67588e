"""What is mutated: a parser of ours, valid inputs for it, and what it may answer."""

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
"""What a parser raises on a wrong input: these very types, for a subclass comes from somebody else's code."""


class BrokenContractError(Exception):
    """A parser returned what it says it does not return."""


@dataclass(frozen=True)
class Case:
    """A valid input.

    Attributes:
        folder: that holds it.
        files: which of its files are mutated, one at a time, by their names within the folder.
    """

    folder: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A parser under test.

    Attributes:
        name: of the parser.
        inputs: share of a full run, in inputs.
        write: writes valid inputs below a folder, the same each time.
        read: reads the input in a case's folder with our parser and checks what it returns.
        documented: what it may raise.
        folder_is_input: whether an error may name the folder instead of the file.
        reseal: puts right what a checksum within the case would notice of a mutated file; half of the inputs get it.
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
    """A mutated file and where it belongs."""

    case: Case
    file: str
    content: bytes
    resealed: bool

    @property
    def path(self) -> Path:
        """Of the file in its place."""
        return self.case.folder / self.file


@dataclass(frozen=True)
class Answer:
    """What a parser said to an input.

    Attributes:
        outcome: `read`, `refused` or `offender`.
        error: type of the exception, or empty.
        message: of the exception.
        seconds: that it took.
    """

    outcome: str
    error: str
    message: str
    seconds: float


class Trials:
    """Mutated inputs of one parser; input i depends on the seed, the parser's name and i alone.

    Args:
        subject: the parser.
        folder: for its inputs, emptied first.
        seed: of all mutations.
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
        """Returns what the parser says to an input, and puts the valid one back."""
        mutant.path.write_bytes(mutant.content)
        if mutant.resealed and self.subject.reseal is not None:
            self.subject.reseal(mutant.case.folder, mutant.file)
        started = time.perf_counter()
        try:
            self.subject.read(mutant.case.folder)
            outcome, error, message = READ, "", ""
        except Exception as caught:  # whatever it is, it is what we are after
            outcome = REFUSED if self._is_documented(caught, mutant) else OFFENDER
            error, message = type(caught).__name__, str(caught)
        seconds = time.perf_counter() - started
        self._restore(mutant.case.folder)
        return Answer(outcome, error, message, seconds)

    def require_valid(self) -> None:
        """Raises what a parser raises on its valid inputs: nothing, or the mutations prove nothing."""
        for case in self.cases:
            self.subject.read(case.folder)

    def _is_documented(self, error: Exception, mutant: Mutant) -> bool:
        names = [re.escape(mutant.path.name)]
        if self.subject.folder_is_input:  # a series goes by a hash of its UID: its folder may bear a patient's name
            names += [re.escape(mutant.case.folder.name), "series [0-9a-f]{8}"]
        return type(error) in self.subject.documented and bool(re.search("|".join(names), str(error)))

    def _restore(self, folder: Path) -> None:
        for path, content in self.valid.items():
            if path.is_relative_to(folder):
                path.write_bytes(content)


def require(condition: bool, what: str) -> None:
    """Raises BrokenContractError unless a parser kept its word."""
    if not condition:
        raise BrokenContractError(what)


def quiet() -> None:
    """Silences what parsers and the libraries below them say of wrong inputs: it is the outcome that counts."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
