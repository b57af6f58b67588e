"""Kills one process of a distributed training run and checks that the others end and a restart resumes.

Two processes train a bundle under torchrun on CPUs. As soon as its second epoch is saved, one of the two is killed
(SIGKILL): the whole job must end within a minute with an error that names the signal, and leave no process. The same
command must then resume after the last saved epoch and end with the weights, bit for bit, of an undisturbed run; and a
single process must resume from a copy, to its own end.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.reliability.output_files import digests, saved_epoch, unreadable_files
from tests.reliability.stage_runs import STAGES, Workplace
from tskd_monai.bundle.run import BundleRun
from tskd_monai.files.json_files import write_json
from tskd_monai.training.record import package_versions

logger = logging.getLogger("kill_rank")
RESULTS = Path(__file__).with_name("results") / "kill_rank.json"
STAGES_BY_SEVERAL = ("teacher", "diffusion", "distilled")
EPOCHS = 12
KILLED_AFTER = 2
LONGEST_END = 60
LONGEST_RUN = 1200
LOOK_EVERY = 0.2
TOLD = re.compile(r"Signal 9 \(SIGKILL\) received by PID")
RESUMED = re.compile(r"after epoch (\d+), from")


@dataclass(frozen=True)
class Finding:
    """The effect of killing one process.

    Attributes:
        stage: name of the training stage.
        rank: rank of the killed process.
        saved: last epoch in the checkpoint at that time.
        code: exit code of the job.
        seconds_to_end: from the kill to the end of the job.
        told: whether the end of the log names the signal.
        left_running: number of the job's processes that were still running.
        readable: whether every file was readable.
        equal: whether the restart with two processes ended with the files of the uninterrupted run.
        alone: epoch after which a single process resumed; None if it failed.
    """

    stage: str
    rank: int
    saved: int
    code: int
    seconds_to_end: float
    told: bool
    left_running: int
    readable: bool
    equal: bool
    alone: int | None

    @property
    def passed(self) -> bool:
        """Whether the job ended in time and stated the reason, and nothing was lost."""
        ended = self.code != 0 and self.seconds_to_end < LONGEST_END and self.told and not self.left_running
        return ended and self.readable and self.equal and self.alone == self.saved


def command(run: BundleRun, processes: int) -> list[str]:
    """Returns the documented command that runs a bundle in several processes, or in one."""
    if processes == 1:
        return run.command()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={processes}"]
    return replace(run, configs=[*run.configs, "multi_gpu_train.yaml"]).command(launcher)


def finish(run: BundleRun, processes: int, log: Path) -> tuple[int, str]:
    """Runs a bundle to its end; returns the exit code and the log."""
    with log.open("wb") as file:
        done = subprocess.run(command(run, processes), stdout=file, stderr=file, timeout=LONGEST_RUN, check=False)
    return done.returncode, log.read_text(errors="replace")


def processes_of(launcher: int) -> dict[int, int]:
    """Returns the processes of a launcher by rank."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        entries = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [int(entry[len(b"RANK=") :]) for entry in entries if entry.startswith(b"RANK=")]
        found.update(dict.fromkeys(ranks, int(child)))
    return found


def kill_one(run: BundleRun, rank: int, log: Path) -> tuple[int, float, int, int]:
    """Kills a process of a job in mid-training; returns exit code, seconds until the end, epoch saved, processes left.

    Raises:
        RuntimeError: if the job ended before it could be killed.
    """
    with log.open("wb") as file:
        job = subprocess.Popen(command(run, 2), stdout=file, stderr=file)
    while saved_epoch(run.output_dir) < KILLED_AFTER:
        if job.poll() is not None:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"Expected a training run to kill, it ended with {job.returncode}: {said}")
        time.sleep(LOOK_EVERY)
    processes = processes_of(job.pid)
    os.kill(processes[rank], signal.SIGKILL)
    killed = time.monotonic()
    code = job.wait(LONGEST_RUN)
    seconds = time.monotonic() - killed
    left = sum(Path(f"/proc/{process}").exists() for process in processes.values())
    return code, round(seconds, 1), saved_epoch(run.output_dir), left


def try_stage(workplace: Workplace, name: str, rank: int) -> Finding:
    """Returns the effect of killing one process of a stage's training run."""
    stage = next(stage for stage in STAGES if stage.name == name)
    for needed in STAGES:
        if needed.name in stage.inputs.values():
            workplace.run_reference(needed)
    folder, log = workplace.folder / "by_several" / name, workplace.log(f"{name} by several")
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    whole, killed, alone = (
        workplace.bundle_run(stage, folder / part, max_epochs=EPOCHS, num_workers=0)
        for part in ("whole", "killed", "alone")
    )
    code, said = finish(whole, 2, log)
    if code:
        raise RuntimeError(f"Expected {name} to be trained by two processes, it ended with {code}: {said[-2000:]}")
    code, seconds, saved, left = kill_one(killed, rank, log)
    told, readable = bool(TOLD.search(log.read_text(errors="replace"))), not unreadable_files(killed.output_dir)
    shutil.copytree(killed.output_dir, alone.output_dir)
    again, _ = finish(killed, 2, log)
    equal = again == 0 and digests(killed.output_dir) == digests(whole.output_dir)
    single, said = finish(alone, 1, log)
    resumed = RESUMED.search(said)
    after = int(resumed[1]) if single == 0 and resumed and saved_epoch(alone.output_dir) == EPOCHS else None
    return Finding(name, rank, saved, code, seconds, told, left, readable, equal, after)


def main() -> None:
    """Reads the command line, kills, and ends with an error if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=STAGES_BY_SEVERAL, help="default: all")
    parser.add_argument("--work-dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as temporary:
        workplace = Workplace(args.work_dir or Path(temporary))
        for number, name in enumerate(args.stage or STAGES_BY_SEVERAL):
            findings.append(try_stage(workplace, name, rank=(number + 1) % 2))
            logger.info("%s: %s", "passed" if findings[-1].passed else "FAILED", findings[-1])
            content = {"jobs": [asdict(finding) for finding in findings], "versions": package_versions()}
            write_json(args.results, content)
    if not all(finding.passed for finding in findings):
        raise SystemExit(f"Something was lost in {[finding.stage for finding in findings if not finding.passed]}.")


if __name__ == "__main__":
    main()
