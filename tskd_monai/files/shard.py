"""One of several parts of a run: which cases are its own, and the names of its files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

AUTO = "auto"
PATTERN = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
ADVICE = "give --shard as 3/8, the third of eight"


@dataclass(frozen=True)
class Shard:
    """A part of a run that several processes or jobs share.

    A case belongs to a shard by a hash of its name, so that shards that start at different times agree even if images
    have been added in the meantime; sizes of shards therefore vary.

    Attributes:
        number: from 1 to `count`.
        count: number of shards.
    """

    number: int
    count: int

    @property
    def label(self) -> str:
        """Name of the shard in file names: `3-of-8`."""
        return f"{self.number}-of-{self.count}"

    def __str__(self) -> str:
        """Returns the shard as an option: `3/8`."""
        return f"{self.number}/{self.count}"

    def owns(self, name: str) -> bool:
        """Returns whether a case of this name belongs to the shard."""
        return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) % self.count == self.number - 1


def parse_shard(text: str | None, environment: Mapping[str, str] | None = None) -> Shard | None:
    """Returns the shard that an option states; None if it is None.

    Args:
        text: such as `3/8`; `auto`: the shard that torchrun (`RANK`, `WORLD_SIZE`), a Slurm job array
            (`SLURM_ARRAY_TASK_ID`, `…_COUNT`, `…_MIN`), or torchrun in each task of one has assigned to this process.
        environment: environment variables; None: those of this process.

    Raises:
        ValueError: if the text is malformed, or no shard is assigned, or the job array has gaps.
    """
    if text is None:
        return None
    if text == AUTO:
        return _assigned(os.environ if environment is None else environment)
    match = PATTERN.fullmatch(str(text))
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"Expected --shard K/N with K from 1 to N, or {AUTO}, found {text}.")
    return Shard(int(match[1]), int(match[2]))


def _assigned(environment: Mapping[str, str]) -> Shard:
    rank, processes = _numbers(environment, "RANK", "WORLD_SIZE") or (0, 1)
    task, tasks = _array_task(environment) or (0, 1)
    if "WORLD_SIZE" not in environment and "SLURM_ARRAY_TASK_COUNT" not in environment:
        raise ValueError(
            f"Expected RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, with --shard {AUTO}, "
            f"found neither; {ADVICE}."
        )
    return Shard(task * processes + rank + 1, tasks * processes)


def _array_task(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Returns index and number of tasks of a Slurm job array, None outside of one."""
    numbers = _numbers(environment, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if numbers is None:
        return None
    task, tasks = numbers
    first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", default)) for name, default in
                   (("MIN", "0"), ("STEP", "1")))  # fmt: skip
    index, gap = divmod(task - first, max(step, 1))
    if gap or not 0 <= index < tasks:
        raise ValueError(
            f"Expected a job array without gaps with --shard {AUTO}, found task {task} of {tasks} from {first}; "
            f"{ADVICE}."
        )
    return index, tasks


def _numbers(environment: Mapping[str, str], index: str, count: str) -> tuple[int, int] | None:
    """Returns the values of two environment variables, None if the second is not set."""
    if count not in environment:
        return None
    try:
        return int(environment[index]), int(environment[count])
    except (KeyError, ValueError):
        raise ValueError(
            f"Expected whole numbers in {index} and {count}, found {environment.get(index)} and {environment[count]}; "
            f"{ADVICE}."
        ) from None
