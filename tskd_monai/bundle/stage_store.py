"""A folder of stages: each is one run of a bundle and is not repeated once it has finished.

What a stage was made from is recorded in `stages/NAME.json`: its settings, the content of the bundle's config files,
the task, hashes of the data and of the results of the stages it depends on. Only this decides whether it is still
valid, not the device, paths or the order of cases. A stage that was made from other inputs is never removed: the store
refuses to run and states the differences or, if the user asked for it, keeps the previous folder beside the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tskd_monai.bundle.run import BundleRun, BundleRunError, append_command, config_files
from tskd_monai.bundle.time_left import TimeLeft, about, clock
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file

logger = logging.getLogger(__name__)
LOGS = "logs"
STATE_FORMAT = 2
SHOWN_LENGTH = 40
NEEDS = "needs"
"""Group of the parts that are results of other stages."""

Parts = dict[str, dict[str, Any]]
"""What a stage is made from: group, such as `settings` or `task.json`, to name to value."""

Runner = Callable[[BundleRun], Mapping[str, Any]]
"""Runs a stage and returns what is recorded of it besides its duration; raises if it fails."""


@dataclass(frozen=True)
class Stage:
    """One run of a bundle.

    Attributes:
        name: name of the stage and of its output folder.
        title: for display.
        bundle: folder of the bundle.
        configs: names of its config files; later ones override earlier ones.
        settings: overrides of config ids that determine the result.
        paths: returns the overrides that set paths or the device and do not affect the result; `output_dir` is added.
        inputs: inputs that no stage has written: group to name to value, such as hashes of cases.
        needs: names of the stages whose results it reads.
        results: glob patterns of the files that later stages read.
        incremental: names of inputs to which it adapts within the same output folder when entries are added or removed.
    """

    name: str
    title: str
    bundle: Path
    configs: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    paths: Callable[[], Mapping[str, Any]] = dict
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: Sequence[str] = ()
    results: Sequence[str] = ()
    incremental: Sequence[str] = ()


def log_file(folder: Path) -> Path:
    """Returns the log of the stage that writes to a folder."""
    return folder.parent / LOGS / f"{folder.name}.log"


class StageStore:
    """Runs stages into a folder, skipping those that have already finished from the same parts.

    Args:
        output_dir: a folder for each stage is created in it.
        stages: the stages, in the order in which they run.
        restart: names of stages that may be run again if they were made from other parts, together with the stages that
            depend on them; their previous results are kept.
        keep: names of finished stages that are used as they are, whatever they were made from.
        runner: runs one stage; None: in a child process, with warnings and a progress bar on the terminal and all
            output in `logs/STAGE.log`.
    """

    def __init__(
        self,
        output_dir: Path,
        stages: Sequence[Stage],
        restart: Iterable[str] = (),
        keep: Iterable[str] = (),
        runner: Runner | None = None,
    ) -> None:
        self.output_dir, self.stages = output_dir, list(stages)
        self.runner = runner or self._run_in_child
        self.keep = set(keep)
        self.restart = self._with_dependents(set(restart))
        self.hashes = ContentHashes(private_file(output_dir, "content_hashes.json"))
        self.times = TimeLeft({})
        self.waiting: list[str] = []

    def folder(self, name: str) -> Path:
        """Returns the output folder of a stage."""
        return self.output_dir / name

    def record(self, name: str) -> dict[str, Any]:
        """Returns the results in the record of a training stage."""
        return dict(read_json(self.folder(name) / "record.json")["results"])

    def state(self, name: str) -> dict[str, Any]:
        """Returns the record of a stage: `parts`, `finished`, `seconds` and the runner's additions; empty before."""
        path = self._state_file(name)
        return dict(read_json(path)) if path.is_file() else {}

    def is_finished(self) -> bool:
        """Returns whether every stage has finished."""
        return not self.unfinished()

    def unfinished(self) -> list[str]:
        """Returns the names of the stages that a run would run or resume, in order."""
        return [stage.name for stage in self.stages if not self._is_done(stage, self._parts(stage))]

    def check(self) -> None:
        """Checks every stage before the first is run.

        Raises:
            ValueError: if stages that have finished or started were made from other parts; states the differences and
                the options.
        """
        self._require_same_parts(self.stages)
        self.hashes.save()

    def run(self, expected: Mapping[str, float] | None = None) -> None:
        """Runs every stage that has not finished; an interrupted one resumes.

        Args:
            expected: see `TimeLeft`; None: no estimate of the time left.

        Raises:
            SystemExit: if a stage fails; what it has written is kept for the next call.
            ValueError: see `check`.
        """
        self.check()
        self.waiting = self.unfinished()
        finished = {stage.name for stage in self.stages} - set(self.waiting)
        self.times = TimeLeft(expected or {}, self._earlier_seconds(finished))
        for stage in self.stages:
            self.run_stage(stage)

    def run_stage(self, stage: Stage) -> None:
        """Runs one stage, unless it has finished; the stages it depends on must have finished.

        Raises:
            SystemExit, ValueError: see `run`.
        """
        self._require_same_parts([stage])  # the results of earlier stages are known only now
        parts = self._parts(stage)
        state = self.state(stage.name)
        title = f"[{self.stages.index(stage) + 1}/{len(self.stages)}] {stage.title}"
        if self._is_done(stage, parts):
            logger.info("%s: already finished", title)
            if "parts" not in state:
                logger.warning("    %s/ was finished by an earlier version; using it as it is.", stage.name)
            self._note(stage, {**state, "parts": parts, "finished": True})
        else:
            logger.info("%s (%s)", title, self._times())
            if state and self._obstacles(stage, permitted=False):
                self._set_aside(stage, state)
                state = {}
            self._note(stage, {"parts": parts, "finished": False})
            self._note(stage, {"parts": parts, "finished": True, **self._call(stage, resumes=bool(state))})
        self.hashes.save()

    def _call(self, stage: Stage, resumes: bool) -> Mapping[str, Any]:
        """Runs a stage; returns its duration and what the runner records of it."""
        overrides = {**stage.settings, **stage.paths(), "output_dir": self.folder(stage.name)}
        run = BundleRun(stage.bundle, stage.configs, overrides)
        append_command(self.output_dir, run.shell_line())
        logger.info("    $ %s", run.short_line())
        self.waiting = [name for name in self.waiting if name != stage.name]
        started = time.monotonic()
        try:
            notes = self.runner(run)
        except BundleRunError as error:
            log = log_file(self.folder(stage.name))
            place = f" The log is {LOGS}/{log.name}." if log.is_file() else ""
            raise SystemExit(f"{stage.title} {error}{place} Run the same command to resume.") from None
        seconds = round(time.monotonic() - started, 1)
        if resumes:  # the duration of a part says nothing about the speed of the machine
            return {"seconds": seconds, "resumed": True, **notes}
        self.times.measure(stage.name, seconds)
        return {"seconds": seconds, **notes}

    def _run_in_child(self, run: BundleRun) -> Mapping[str, Any]:
        started = time.monotonic()

        def described(bar: str) -> str:
            left = self.times.left_with(bar, run.output_dir.name, time.monotonic() - started, self.waiting)
            return bar if left is None else f"{about(left)} left in all; {bar}"

        run.run(log_file(run.output_dir), shown=sys.stderr, described=described)
        return {}

    def _times(self) -> str:
        """Returns the time since the start and the time left, such as `1:05 elapsed, about 12 min left`."""
        left = self.times.left(self.waiting)
        elapsed = f"{clock(self.times.elapsed())} elapsed"
        return elapsed if left is None else f"{elapsed}, {about(left)} left"

    def _earlier_seconds(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the durations of finished stages that were not interrupted."""
        states = {name: self.state(name) for name in names}
        return {
            name: state["seconds"]
            for name, state in states.items()
            if state.keys() & {"seconds", "resumed"} == {"seconds"}
        }

    def _require_same_parts(self, stages: Iterable[Stage]) -> None:
        found = {stage.name: differing for stage in stages if (differing := self._obstacles(stage))}
        if not found:
            return
        listing = "; ".join(f"{name}/ ({', '.join(differing)})" for name, differing in found.items())
        names = " ".join(found)
        raise ValueError(
            f"Expected what the stages in {self.output_dir.name}/ were made from, found a difference in {listing}. "
            f"Give --restart {names} to run them again (the old folders are kept as NAME.before-…), --keep {names} to "
            "use their results as they are, the previous settings, or another --output-dir."
        )

    def _is_done(self, stage: Stage, parts: Parts) -> bool:
        """Returns whether a stage has finished, its results exist, and it was made from these parts or is kept."""
        state = self.state(stage.name)
        if not state.get("finished") or not self._result_files(stage):
            return False
        if stage.name in self.keep or "parts" not in state:
            return True
        return not differences(state["parts"], parts)

    def _obstacles(self, stage: Stage, permitted: bool = True) -> list[str]:
        """Returns how a stage's parts differ from those it was made from; empty if it may be run or kept.

        Args:
            stage: the stage to check.
            permitted: whether to leave out the differences that the user has permitted.
        """
        state = self.state(stage.name)
        if "parts" not in state or (permitted and stage.name in self.restart):
            return []
        if permitted and stage.name in self.keep:
            return [] if state.get("finished") else [f"--keep {stage.name}, which has never finished"]
        if not all(path.is_file() for path in config_files(stage.bundle, stage.configs)):
            return []  # another stage has yet to write its bundle
        parts = self._parts(stage)
        known = set(state["parts"].get(NEEDS, {})) & set(parts[NEEDS])
        before, now = (
            {**all_parts, NEEDS: {name: all_parts[NEEDS][name] for name in known}}
            for all_parts in ({NEEDS: {}, **state["parts"]}, parts)
        )
        return differences(before, now, leave_out=stage.incremental)

    def _parts(self, stage: Stage) -> Parts:
        """Returns what a stage would be made from now, with the results of its finished dependencies only."""
        settings: dict[str, Any] = {}
        for path in config_files(stage.bundle, stage.configs):
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
        if not self.state(name).get("finished") or not files:
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

    def _note(self, stage: Stage, state: Mapping[str, Any]) -> None:
        write_json(self._state_file(stage.name), {"format": STATE_FORMAT, **state})

    def _state_file(self, name: str) -> Path:
        return self.output_dir / "stages" / f"{name}.json"

    def _set_aside(self, stage: Stage, state: Mapping[str, Any]) -> None:
        """Keeps what a stage has written from other parts, under a name that states which."""
        folder = self.folder(stage.name)
        if not folder.exists():
            return
        digest = hashlib.sha256(json.dumps(state["parts"], sort_keys=True).encode()).hexdigest()[:8]
        names = [f"{stage.name}.before-{digest}", *(f"{stage.name}.before-{digest}-{n}" for n in range(2, 1000))]
        aside = next(path for path in map(self.folder, names) if not path.exists())
        folder.rename(aside)
        logger.warning("    the previous result, made from other inputs, is kept as %s", aside.name)


def differences(before: Parts, now: Parts, leave_out: Iterable[str] = ()) -> list[str]:
    """Returns each part that differs in words, such as `learning_rate is 0.002, was 0.001`.

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


def _as_json(parts: Mapping[str, Mapping[str, Any]]) -> Parts:
    """Returns the parts as a JSON file would return them, so that both can be compared."""
    return dict(json.loads(json.dumps(parts, default=str)))
