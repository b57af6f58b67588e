"""Stages of the pipeline: each is one call of the stock bundle runner, finished once and not run again.

What a stage was made from stands beside it, in `stages/NAME.json`: its settings, the content of the bundle's config
files, the task, hashes of the data and of the results of other stages that it reads. Nothing else decides whether it
is still valid: no device, no path, no order of cases. A stage that was made from something else is never removed: the
pipeline stops and says what differs, or, where the user asked for it, keeps the old folder beside the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tskd_monai.bundle.options import plain_option
from tskd_monai.data.planning.content_hashes import ContentHashes
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file

logger = logging.getLogger(__name__)
# OpenMP threads that wait by spinning cost a factor of thirty as soon as anything else wants one of the cores.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
STATE_FORMAT = 2
SHOWN_LENGTH = 40
NEEDS = "needs"
"""Group of the parts that are the results of other stages."""

Parts = dict[str, dict[str, Any]]
"""What a stage is made from: group, such as `settings` or `task.json`, to name to value."""


@dataclass(frozen=True)
class Stage:
    """One call of a bundle.

    Attributes:
        name: of the stage, and of its output folder.
        title: what the reader sees.
        bundle: folder of the bundle.
        configs: names of its config files, later ones override.
        settings: overrides of config ids that decide the result.
        places: gives the overrides that say where things are, which decide nothing; `output_dir` is added.
        inputs: what it reads that no stage has written: group to name to value, such as hashes of cases.
        needs: names of the stages whose results it reads.
        results: patterns of the files that later stages read.
        grows: names among its inputs of which others only add to, or leave out of, what it has written.
    """

    name: str
    title: str
    bundle: Path
    configs: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    places: Callable[[], Mapping[str, Any]] = dict
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: Sequence[str] = ()
    results: Sequence[str] = ()
    grows: Sequence[str] = ()


class Pipeline:
    """Runs stages into a folder. A stage that was finished from the same parts is not run again.

    Args:
        output_dir: a folder for each stage is made in it.
        stages: in their order.
        restart: names of stages that may be run again where they were made from something else, and with them the
            stages that need them; what they wrote before is kept beside.
        keep: names of finished stages that are taken as they are, whatever they were made from.
    """

    def __init__(
        self, output_dir: Path, stages: Sequence[Stage], restart: Iterable[str] = (), keep: Iterable[str] = ()
    ) -> None:
        self.output_dir, self.stages = output_dir, list(stages)
        self.keep = set(keep)
        self.restart = self._with_dependents(set(restart))
        self.hashes = ContentHashes(private_file(output_dir, "content_hashes.json"))
        self.started = time.monotonic()

    def folder(self, name: str) -> Path:
        """Returns the output folder of a stage."""
        return self.output_dir / name

    def record(self, name: str) -> dict[str, Any]:
        """Returns the results in a training stage's record."""
        return dict(read_json(self.folder(name) / "record.json")["results"])

    def is_finished(self) -> bool:
        """Whether there is nothing to run."""
        return all(self._is_done(stage, self._parts(stage)) for stage in self.stages)

    def check(self) -> None:
        """Looks at every stage before the first is run.

        Raises:
            ValueError: when finished or begun stages were made from something else; says from what, and what to do.
        """
        self._require_same_parts(self.stages)
        self.hashes.save()

    def _require_same_parts(self, stages: Iterable[Stage]) -> None:
        found = {stage.name: differing for stage in stages if (differing := self._obstacles(stage))}
        if not found:
            return
        listing = "; ".join(f"{name}/ ({', '.join(differing)})" for name, differing in found.items())
        names = " ".join(found)
        raise ValueError(
            f"Expected what the stages in {self.output_dir.name}/ were made from, found a difference in {listing}. "
            f"Give --restart {names} to run them again (the old folders are kept as NAME.before-…), --keep {names} to "
            "take what they hold, the former settings, or another --output-dir."
        )

    def run(self) -> None:
        """Runs every stage that is not finished; one that was interrupted resumes.

        Raises:
            SystemExit: when a stage fails; what it has written stays for the next call.
            ValueError: as `check`.
        """
        self.check()
        for number, stage in enumerate(self.stages, start=1):
            elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self.started))
            logger.info("[%d/%d, %s elapsed] %s", number, len(self.stages), elapsed, stage.title)
            self._run(stage)
        self.hashes.save()

    def _run(self, stage: Stage) -> None:
        self._require_same_parts([stage])  # the results of the stages before it are known only now
        parts = self._parts(stage)
        state = self._state(stage.name)
        if self._is_done(stage, parts):
            logger.info("    finished before")
            self._note(stage, {**state, "parts": parts, "finished": True})
            return
        if state and self._obstacles(stage, permitted=False):
            self._set_aside(stage, state)
        self._note(stage, {"parts": parts, "finished": False})
        seconds = round(self._call(stage), 1)
        self._note(stage, {"parts": parts, "finished": True, "seconds": seconds})

    def _is_done(self, stage: Stage, parts: Parts) -> bool:
        """Whether a stage was finished, its results are there, and it was made from these parts or is kept."""
        state = self._state(stage.name)
        if not state.get("finished") or not self._result_files(stage):
            return False
        if stage.name in self.keep or "parts" not in state:
            if "parts" not in state:
                logger.warning("    %s/ was finished by an earlier version; it is taken as it is.", stage.name)
            return True
        return not differences(state["parts"], parts)

    def _obstacles(self, stage: Stage, permitted: bool = True) -> list[str]:
        """Returns in what a stage's parts differ from those it was made from; nothing where it may be run or kept.

        Args:
            stage: to look at.
            permitted: leave out what the user has permitted.
        """
        state = self._state(stage.name)
        if "parts" not in state or (permitted and stage.name in self.restart):
            return []
        if permitted and stage.name in self.keep:
            return [] if state.get("finished") else [f"--keep {stage.name}, which was never finished"]
        if not all(path.is_file() for path in _config_files(stage)):
            return []  # of a bundle that another stage has yet to write
        parts = self._parts(stage)
        known = set(state["parts"].get(NEEDS, {})) & set(parts[NEEDS])
        before, now = (
            {**all_parts, NEEDS: {name: all_parts[NEEDS][name] for name in known}}
            for all_parts in ({NEEDS: {}, **state["parts"]}, parts)
        )
        return differences(before, now, leave_out=stage.grows)

    def _parts(self, stage: Stage) -> Parts:
        """Returns what a stage would be made from now; of the stages it needs those that are finished."""
        settings: dict[str, Any] = {}
        for path in _config_files(stage):
            settings |= yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        needs = {name: digest for name in stage.needs if (digest := self._result_digest(name))}
        return _as_json({"settings": {**settings, **stage.settings}, **stage.inputs, NEEDS: needs})

    def _result_files(self, stage: Stage) -> list[Path]:
        folder = self.folder(stage.name)
        return sorted({path for pattern in stage.results for path in folder.glob(pattern) if path.is_file()})

    def _result_digest(self, name: str) -> str | None:
        """Returns the hash of a finished stage's results, by file name within its folder."""
        stage = next(stage for stage in self.stages if stage.name == name)
        files = self._result_files(stage)
        if not self._state(name).get("finished") or not files:
            return None
        rows = [f"{path.relative_to(self.folder(name)).as_posix()} {self.hashes.of(path)}" for path in files]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    def _with_dependents(self, names: set[str]) -> set[str]:
        known = [stage.name for stage in self.stages]
        unknown = sorted((names | self.keep) - set(known))
        if unknown:
            raise ValueError(f"Expected --restart and --keep with stages among {', '.join(known)}, found {unknown}.")
        for stage in self.stages:
            if names.intersection(stage.needs):
                names = names | {stage.name}
        return names - self.keep

    def _state(self, name: str) -> dict[str, Any]:
        path = self._state_file(name)
        return dict(read_json(path)) if path.is_file() else {}

    def _note(self, stage: Stage, state: Mapping[str, Any]) -> None:
        write_json(self._state_file(stage.name), {"format": STATE_FORMAT, **state})

    def _state_file(self, name: str) -> Path:
        return self.output_dir / "stages" / f"{name}.json"

    def _set_aside(self, stage: Stage, state: Mapping[str, Any]) -> None:
        """Keeps what a stage has written from other parts, under a name that says from which."""
        folder = self.folder(stage.name)
        if not folder.exists():
            return
        digest = hashlib.sha256(json.dumps(state["parts"], sort_keys=True).encode()).hexdigest()[:8]
        names = [f"{stage.name}.before-{digest}", *(f"{stage.name}.before-{digest}-{n}" for n in range(2, 1000))]
        aside = next(path for path in map(self.folder, names) if not path.exists())
        folder.rename(aside)
        logger.warning("    made from something else before, which is kept as %s", aside.name)

    def _call(self, stage: Stage) -> float:
        configs = [str(path) for path in _config_files(stage)]
        command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(stage.bundle)]
        command += ["--config_file", configs[0] if len(configs) == 1 else repr(configs)]
        options = {**stage.settings, **stage.places(), "output_dir": self.folder(stage.name)}
        command += [f"--{name}={plain_option(name, value)}" for name, value in options.items()]
        started = time.monotonic()
        # Progress bars and messages go to the terminal's standard error; the runner's banner is of no use there.
        process = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env={**QUIET_THREADS, **os.environ})
        if process.returncode:
            raise SystemExit(
                f"{stage.title} ended with exit code {process.returncode}; the first error above says why. "
                "Run the same command to resume."
            )
        return time.monotonic() - started


def differences(before: Parts, now: Parts, leave_out: Iterable[str] = ()) -> list[str]:
    """Returns in words each part that differs, such as `learning_rate is 0.002, was 0.001`.

    Args:
        before: what a stage was made from.
        now: what it would be made from.
        leave_out: names of parts that may differ.
    """
    found = []
    for group in dict.fromkeys([*before, *now]):
        old, new = before.get(group, {}), now.get(group, {})
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name) and name not in leave_out:
                found.append(_difference(group, name, old.get(name), new.get(name)))
    return found


def _difference(group: str, name: str, before: Any, now: Any) -> str:
    if group == NEEDS:
        return f"the files in {name}/ changed"
    where = "" if group in ("settings", "data") else f" ({group})"
    if group == "data" and isinstance(before, list) and isinstance(now, list):
        gone, come = len(set(before) - set(now)), len(set(now) - set(before))
        return f"{name}: {come} new, {gone} gone of {len(before)}" if gone or come else f"{name} changed"
    if all(len(str(value)) <= SHOWN_LENGTH and not isinstance(value, (dict, list)) for value in (before, now)):
        return f"{name} is {now}, was {before}{where}"
    return f"{name} changed{where}"


def _config_files(stage: Stage) -> list[Path]:
    return [stage.bundle / "configs" / name for name in stage.configs]


def _as_json(parts: Mapping[str, Mapping[str, Any]]) -> Parts:
    """Returns the parts as they come back from a JSON file, so that both compare."""
    return dict(json.loads(json.dumps(parts, default=str)))
