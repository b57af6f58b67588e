"""Injects full disks, lost memory, vanished inputs and the like, and checks that nothing finished is lost.

A stage is killed midway, on a small disk of its own; then the fault is injected and the stage restarted. It must end
with an error that states what is wrong, or recover with a warning; every finished file must still be readable and every
item the same. Once the fault is fixed, the stage must resume and end with the files of an uninterrupted run. Mounting
the small disk requires root.

    python -m tests.reliability.starve_stages
"""

from __future__ import annotations

import argparse
import logging
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.reliability.faults import FAULTS, Fault, Scene
from tests.reliability.output_files import digests, finished_files, saved_epoch, unreadable_files
from tests.reliability.small_disk import small_disk
from tests.reliability.stage_runs import STAGES, StageRun, Workplace
from tests.reliability.warm_start import Moment, run_in_child
from tskd_monai.files.json_files import write_json
from tskd_monai.training.record import package_versions

logger = logging.getLogger("starve_stages")
RESULTS = Path(__file__).with_name("results") / "starve_stages.json"
ROOM_FOR_RUNS = 3
SMALLEST_DISK = 4 << 20
MESSAGE_LETTERS = 300
FIRST_PART = 3
"""A third of the file events of a training run occurs in its epochs, the others at its end."""


@dataclass(frozen=True)
class Finding:
    """The effect of a fault.

    Attributes:
        fault: name of the fault.
        stage: stage in which it was injected.
        code: exit code of the stage.
        message: message to the user; None if the expected message is missing.
        intact: whether everything that had finished still existed, readable and unchanged.
        went_on: whether the stage, once the fault was fixed, ended as if nothing had happened.
    """

    fault: str
    stage: str
    code: int
    message: str | None
    intact: bool
    went_on: bool

    @property
    def passed(self) -> bool:
        """Whether the fault was reported and did no harm."""
        return self.message is not None and self.intact and self.went_on


def starve(workplace: Workplace, fault: Fault, stage: StageRun, file_events: int, disk: Path) -> Finding:
    """Returns the effect of a fault.

    Args:
        workplace: folder with an uninterrupted run of the stage.
        fault: fault to inject.
        stage: stage in which it is injected.
        file_events: number in the uninterrupted run; the first part of the stage has a third of them.
        disk: empty disk, large enough for the stage.
    """
    scene, log = Scene(disk, disk / "output", workplace.folder / "study"), workplace.log(f"fault {fault.stage}")
    run = workplace.bundle_run(stage, scene.output)
    run_in_child(run, log, Moment(file_event=file_events // FIRST_PART))
    before, epoch = digests(scene.output), saved_epoch(scene.output)
    if not epoch and not any(scene.output.glob(str(stage.items))):
        raise RuntimeError(f"Expected {stage.name} to have finished something before the fault, found nothing.")
    fault.spoil(scene)
    try:
        ending = run_in_child(run, log, prepare=fault.in_child)
        intact = not unreadable_files(scene.output) and _kept(scene.output, before, stage, epoch)
    finally:
        fault.fix(scene)
    found = list(re.finditer(fault.message, ending.log))
    again = run_in_child(run, log)
    went_on = again.code == 0 and digests(scene.output) == digests(workplace.reference(stage.name))
    told = bool(found) and (ending.code == 0) == fault.ends_well
    message = _line(ending.log, found[-1]) if told else None
    return Finding(fault.name, stage.name, ending.code, message, intact, went_on)


def _kept(output: Path, before: dict[str, str], stage: StageRun, epoch: int) -> bool:
    """Returns whether the items or epochs that had finished still exist."""
    if stage.items is None:
        return saved_epoch(output) >= epoch
    now = digests(output)
    return all(now.get(name) == digest for name, digest in before.items() if Path(name).match(stage.items))


def _line(log: str, found: re.Match[str]) -> str:
    """Returns the line of the message, without the path of the disk."""
    line = log[log.rfind("\n", 0, found.start()) + 1 :].splitlines()[0]
    return re.sub(r"/\S*/", "", line)[:MESSAGE_LETTERS]


def main() -> None:
    """Reads the command line, injects the faults, and ends with an error if one did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", action="append", choices=[fault.name for fault in FAULTS], help="default: all")
    parser.add_argument("--work-dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    chosen = [fault for fault in FAULTS if args.fault is None or fault.name in args.fault]
    with tempfile.TemporaryDirectory() as temporary:
        findings = starve_all(Workplace(args.work_dir or Path(temporary)), chosen)
    passed = sum(finding.passed for finding in findings)
    content = {"passed": passed, "faults": [asdict(finding) for finding in findings], "versions": package_versions()}
    write_json(args.results, content)
    if passed < len(findings):
        wrong = ", ".join(finding.fault for finding in findings if not finding.passed)
        raise SystemExit(f"{passed} of {len(findings)} faults were reported and did no harm, not: {wrong}.")


def starve_all(workplace: Workplace, chosen: list[Fault]) -> list[Finding]:
    """Returns the effect of each fault; a stage runs once without any before."""
    stages = {stage.name: stage for stage in STAGES}
    findings: list[Finding] = []
    for fault in chosen:
        stage = stages[fault.stage]
        events = workplace.run_reference(stage).file_events
        size = sum(path.stat().st_size for path in finished_files(workplace.reference(stage.name)))
        with small_disk(workplace.folder / "disk", SMALLEST_DISK + ROOM_FOR_RUNS * size) as disk:
            findings.append(starve(workplace, fault, stage, events, disk))
        logger.info("%s: %s", "passed" if findings[-1].passed else "FAILED", findings[-1])
    return findings


if __name__ == "__main__":
    main()
