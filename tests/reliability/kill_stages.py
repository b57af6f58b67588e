"""Kills every stage of the method at random moments and checks that nothing is lost.

Each stage runs twice without interruption, which must give the same files. Then it runs again and again, killed with
all its processes (SIGKILL) and restarted until it ends: half of the kills come at a random second, half just before a
file in the output folder is opened, renamed or removed. After each kill every file must be readable; the next start
must resume after the last saved epoch and keep every finished item; at the end every file must be bit for bit that of
the uninterrupted run. Only durations may differ.

    python -m tests.reliability.kill_stages --kills 50
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.reliability.output_files import digests, epochs_in_history, saved_epoch, temporary_files, unreadable_files
from tests.reliability.stage_runs import STAGES, StageRun, Workplace
from tests.reliability.warm_start import Ending, Moment, run_in_child
from tskd_monai.files.json_files import write_json
from tskd_monai.training.record import package_versions

logger = logging.getLogger("kill_stages")
RESULTS = Path(__file__).with_name("results") / "kill_stages.json"
RESUMED = re.compile(r"after epoch (\d+), from")
ITEMS_IN_HAND = 1
"""Items that a kill may find on disk but not yet recorded as finished."""


@dataclass
class Tally:
    """The effect of killing a stage.

    Attributes:
        kills: number of SIGKILLs.
        kills_at_file_events: kills before a file event.
        kills_with_progress: kills when an epoch or item had been saved.
        runs: runs that were killed, restarted and finished.
        seconds_of_a_run: duration without interruption.
        repeated_equal: whether a second uninterrupted run gave the same files.
        epochs_lost_at_most: maximum lost by one kill, beyond the epoch in progress.
        items_redone_at_most: maximum after one kill.
        unreadable: files, with the reason.
        not_resumed: starts that did not resume where the last one ended.
        differing: files of finished runs that differ from those of the uninterrupted one.
        left_over: temporary files in the folders of finished runs.
    """

    kills: int = 0
    kills_at_file_events: int = 0
    kills_with_progress: int = 0
    runs: int = 0
    seconds_of_a_run: float = 0.0
    repeated_equal: bool = False
    epochs_lost_at_most: int = 0
    items_redone_at_most: int = 0
    unreadable: list[str] = field(default_factory=list)
    not_resumed: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def flawless(self) -> bool:
        """Whether nothing was lost, damaged or changed."""
        wrong = [*self.unreadable, *self.not_resumed, *self.differing, *self.left_over]
        return not wrong and self.repeated_equal and not self.epochs_lost_at_most


class StageKiller:
    """Runs one stage repeatedly, and kills it.

    Args:
        workplace: folder with the stages that it needs.
        stage: stage to kill.
        seed: seed of the moments.
    """

    def __init__(self, workplace: Workplace, stage: StageRun, seed: int) -> None:
        self.workplace, self.stage, self.tally = workplace, stage, Tally()
        self.random = random.Random(f"{seed} {stage.name}")
        self.log = workplace.log(stage.name)
        self.output = workplace.folder / "killed" / stage.name
        self._expected: dict[str, str] = {}
        self._file_events = 0

    def run(self, kills: int) -> Tally:
        """Returns the effect of the given number of kills."""
        extent = self.workplace.run_reference(self.stage)
        self.tally.seconds_of_a_run, self._file_events = extent.seconds, extent.file_events
        self._expected = digests(self.workplace.reference(self.stage.name))
        self.workplace.run_whole(self.stage, self.output)
        self.tally.repeated_equal = not self._differences()
        while self.tally.kills < kills:
            self._killed_run(kills)
            logger.info("%s: %d of %d kills, %d runs", self.stage.name, self.tally.kills, kills, self.tally.runs)
        shutil.rmtree(self.output)
        return self.tally

    def _killed_run(self, kills: int) -> None:
        """Starts a run, kills it and restarts it until it ends."""
        shutil.rmtree(self.output, ignore_errors=True)
        epoch, items = 0, {}
        while True:
            moment = self._moment() if self.tally.kills < kills else None
            ending = run_in_child(self.workplace.bundle_run(self.stage, self.output), self.log, moment)
            self._check_resume(ending, epoch, items)
            if not ending.killed:
                break
            self.tally.kills += 1
            self.tally.kills_at_file_events += moment is not None and moment.file_event is not None
            epoch, items = self._check_after_kill()
        if ending.code:
            self.tally.not_resumed.append(f"ended with {ending.code}: {ending.log[-500:]}")
        self.tally.runs += 1
        self.tally.differing += self._differences()
        self.tally.left_over += [str(path.relative_to(self.output)) for path in temporary_files(self.output)]

    def _moment(self) -> Moment:
        if self.random.random() < 0.5:
            return Moment(seconds=self.random.uniform(0, self.tally.seconds_of_a_run))
        return Moment(file_event=self.random.randint(1, max(1, self._file_events)))

    def _check_after_kill(self) -> tuple[int, dict[str, int]]:
        """Returns the saved epoch, and when each item was written."""
        wrong = unreadable_files(self.output)
        self.tally.unreadable += [f"{name}: {reason}" for name, reason in wrong.items()]
        if self.stage.items is not None:
            items = self._items()
            self.tally.kills_with_progress += bool(items)
            return 0, items
        epoch = 0 if "last.pt" in wrong else saved_epoch(self.output)
        lost = epochs_in_history(self.output) - epoch - 1
        self.tally.epochs_lost_at_most = max(self.tally.epochs_lost_at_most, lost)
        self.tally.kills_with_progress += epoch > 0
        return epoch, {}

    def _check_resume(self, ending: Ending, epoch: int, items: dict[str, int]) -> None:
        """Records a start that did not resume from the saved epoch or items."""
        found = [int(number) for number in RESUMED.findall(ending.log)]
        begun = ending.code == 0 or "Epoch" in ending.log
        if self.stage.items is None and found != [epoch] * bool(epoch) and begun:
            self.tally.not_resumed.append(f"expected to resume after epoch {epoch}, found {found}")
        now = self._items() if items else {}
        redone = sum(now.get(name) != written for name, written in items.items())
        self.tally.items_redone_at_most = max(self.tally.items_redone_at_most, redone)
        if redone > ITEMS_IN_HAND:
            self.tally.not_resumed.append(f"{redone} finished items were made again")

    def _items(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.output.glob(str(self.stage.items))}

    def _differences(self) -> list[str]:
        found = digests(self.output)
        names = sorted({*found, *self._expected})
        return [name for name in names if found.get(name) != self._expected.get(name)]


def main() -> None:
    """Reads the command line, kills, and ends with an error if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES], help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work-dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        workplace = Workplace(args.work_dir or Path(temporary))
        for stage in STAGES:
            if args.stage is None or stage.name in args.stage:
                tallies[stage.name] = StageKiller(workplace, stage, args.seed).run(args.kills)
                write_json(args.results, _report(args.seed, tallies))
    flawed = [name for name, tally in tallies.items() if not tally.flawless]
    if flawed:
        raise SystemExit(f"Something was lost in {', '.join(flawed)}; see {args.results}.")


def _report(seed: int, tallies: dict[str, Tally]) -> dict[str, object]:
    stages = {name: {"flawless": tally.flawless, **asdict(tally)} for name, tally in tallies.items()}
    kills = sum(tally.kills for tally in tallies.values())
    return {"seed": seed, "kills": kills, "stages": stages, "versions": package_versions()}


if __name__ == "__main__":
    main()
