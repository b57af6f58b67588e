"""Segments thousands of phantom studies with two processes that are killed, and checks that nothing is lost or grows.

Every study has its own voxels in its own files: three of four are NIfTI files, the fourth is a DICOM series. One
process segments all of them without interruption: the reference, of which memory and CPU seconds are sampled. Then two
shards do, in one output folder; now and then one of them is killed (SIGKILL) at a random moment and started again. At
the end every study must be done exactly once, every result and table must be that of the reference byte for byte,
memory must be flat, and a study of the many must take the CPU seconds of one of a few.

    python -m tests.reliability.many_studies --studies 2000 --kills 5
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tskd_monai.data.nifti import write_nifti
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.training.record import package_versions

logger = logging.getLogger("many_studies")
RESULTS = Path(__file__).with_name("results") / "many_studies.json"
SHAPE, SPACING = (48, 48, 4), (6.0, 6.0, 40.0)
PATIENTS = 20
"""Anatomies; studies of one differ in their noise."""
FEW = 40
SECONDS_BETWEEN_SAMPLES = 0.5
FLAT_MB_PER_1000 = 5.0
SAME_TIME = 0.10
TABLES = ("volumes.csv", "qc.csv")


@dataclass(frozen=True)
class Sample:
    """State of a process: studies done in its output folder, resident memory, and CPU seconds since its start."""

    done: int
    megabytes: float
    cpu_seconds: float


@dataclass
class Tally:
    """What happened to the studies.

    Attributes:
        studies: number of studies.
        kills: studies that were done at each kill.
        missing: studies without a result at the end.
        redone: studies that were done before a kill and segmented again after it.
        differing: results and tables that differ from those of the reference.
        left_over: temporary files and locks in the output folder.
        cpu_seconds_start: CPU seconds of a call with one study.
        cpu_seconds_of_few: CPU seconds of a study, from calls with one and with 41 studies.
        cpu_seconds_of_many: CPU seconds of a study in the reference, after the start.
        megabytes_per_1000: slope of the resident memory over the reference, without its first tenth.
        memory: a twentieth of the samples of the reference.
    """

    studies: int
    kills: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    cpu_seconds_start: float = 0.0
    cpu_seconds_of_few: float = 0.0
    cpu_seconds_of_many: float = 0.0
    megabytes_per_1000: float = 0.0
    memory: list[Sample] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether every study was done once, with the results of the reference."""
        return not (self.missing or self.redone or self.differing or self.left_over)

    @property
    def scales(self) -> bool:
        """Whether memory is flat and a study takes as long among many as among a few."""
        slower = self.cpu_seconds_of_many > (1 + SAME_TIME) * self.cpu_seconds_of_few
        return self.megabytes_per_1000 < FLAT_MB_PER_1000 and not slower


def write_studies(folder: Path, number: int) -> None:
    """Writes phantom studies, each with noise of its own, as NIfTI files and (every fourth) DICOM series."""
    grid = make_grid(SHAPE, SPACING, "LAS")
    affine = np.array(grid.affine)
    volumes = [render(sample_anatomy(seed), grid, seed)[0].astype(np.int32) for seed in range(min(number, PATIENTS))]
    folder.mkdir(parents=True)
    for index in range(number):
        noise = np.random.default_rng(index).integers(0, 30, SHAPE)
        voxels = (volumes[index % PATIENTS] + noise).clip(0, 65535).astype(np.uint16)
        if index % 4 == 3:
            write_dicom_series(folder / f"{index:05d}", voxels, affine, seed=index)
        else:
            write_nifti(folder / f"study{index:05d}.nii.gz", voxels.astype(np.int16), affine)


class Segmentation:
    """A call of `tskd segment` in a process of its own.

    Args:
        images: studies, or the folder of a tree.
        output_dir: output folder.
        options: further options.
    """

    def __init__(self, images: Sequence[Path], output_dir: Path, *options: str) -> None:
        self.output_dir = output_dir
        command = [sys.executable, "-m", "tskd_monai", "segment", "shipped", *map(str, images), "--force"]
        self.process = subprocess.Popen(
            [*command, "--output-dir", str(output_dir), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def sample(self) -> Sample | None:
        """Returns the state of the process; None once it has ended."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return None
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return Sample(len(records(self.output_dir)), pages * resource.getpagesize() / 1e6, seconds)

    def watch(self, sampled: Callable[[Sample], None]) -> float:
        """Samples the process until it ends, and returns its CPU seconds.

        Raises:
            RuntimeError: if it fails.
        """
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        while self.process.poll() is None:
            if (found := self.sample()) is not None:
                sampled(found)
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        if self.process.returncode:
            raise RuntimeError(f"Expected every study to be segmented, see log.txt in {self.output_dir}.")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def records(output_dir: Path) -> dict[str, int]:
    """Returns the records in an output folder, with the time at which each was written."""
    folder = output_dir / "records"
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if not entry.name.startswith(".")}


def segment_few(tree: Path, work_dir: Path, tally: Tally) -> None:
    """Measures the start of a call, and a study of a few."""
    images = sorted(tree.iterdir())
    nifti, dicom = images[-(3 * FEW // 4 + 1) :], images[: FEW - 3 * FEW // 4]  # in the proportion of all
    one = Segmentation(nifti[:1], work_dir / "one").watch(lambda sample: None)
    few = Segmentation([*nifti, *dicom], work_dir / "few").watch(lambda sample: None)
    tally.cpu_seconds_start = round(one, 2)
    tally.cpu_seconds_of_few = round((few - one) / FEW, 4)


def segment_reference(tree: Path, output_dir: Path, tally: Tally) -> None:
    """Segments all studies without interruption, and measures memory and CPU seconds."""
    samples: list[Sample] = []
    seconds = Segmentation([tree], output_dir, "--tree").watch(samples.append)
    tally.cpu_seconds_of_many = round((seconds - tally.cpu_seconds_start) / (tally.studies - 1), 4)
    settled = [sample for sample in samples if tally.studies / 10 < sample.done < tally.studies]
    slope = np.polyfit([sample.done for sample in settled], [sample.megabytes for sample in settled], 1)[0]
    tally.megabytes_per_1000 = round(1000 * float(slope), 2)
    tally.memory = settled[:: max(1, len(settled) // 20)]


def segment_killed(tree: Path, output_dir: Path, kills: int, seed: int, tally: Tally) -> None:
    """Segments all studies in two shards, and kills one of them again and again at random moments."""
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.02, 0.9) * tally.studies for _ in range(kills))
    options = [("--tree", "--shard", f"{number}/2") for number in (1, 2)]
    shards = [Segmentation([tree], output_dir, *given) for given in options]
    done: dict[str, int] = {}
    while any(shard.process.poll() is None for shard in shards):
        time.sleep(chance.uniform(0.05, 0.5))
        running = [index for index, shard in enumerate(shards) if shard.process.poll() is None]
        if moments and running and len(records(output_dir)) >= moments[0]:
            moments.pop(0)
            index = chance.choice(running)
            shards[index].process.kill()
            shards[index].process.wait()
            found = records(output_dir)
            tally.redone += [name for name, written in done.items() if found.get(name) != written]
            tally.kills.append(len(found))
            done = found
            shards[index] = Segmentation([tree], output_dir, *options[index])
    found = records(output_dir)
    tally.redone += [name for name, written in done.items() if found.get(name) != written]
    if any(shard.process.returncode for shard in shards) or moments:
        raise RuntimeError(f"Expected both shards to end after {kills} kills; see the logs in {output_dir}.")


def compare(reference: Path, killed: Path, tally: Tally) -> None:
    """Compares results and tables with those of the reference."""
    expected, found = _digests(reference), _digests(killed)
    tally.missing = sorted(expected.keys() - found.keys())
    tally.differing = sorted(name for name in found if found[name] != expected.get(name))
    summary = read_json(killed / "summary.json")
    if (summary["done"], len(summary["studies"])) != (tally.studies, tally.studies):
        tally.missing.append(f"summary.json: {summary['done']} done of {len(summary['studies'])}")
    tally.left_over = sorted(path.name for path in killed.rglob(".*"))


def _digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*_seg.*"), *(folder / name for name in TABLES if (folder / name).exists())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main() -> None:
    """Reads the command line, segments and kills, and ends with an error if anything was lost or grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work-dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tally = Tally(args.studies)
    with tempfile.TemporaryDirectory() as temporary:
        work_dir = (args.work_dir or Path(temporary)).resolve()
        tree = work_dir / "studies"
        write_studies(tree, args.studies)
        logger.info("%d studies are written.", args.studies)
        segment_few(tree, work_dir, tally)
        segment_reference(tree, work_dir / "reference", tally)
        logger.info("Reference: %.3f CPU s a study, of a few %.3f; %.2f MB per 1000 studies.",
                    tally.cpu_seconds_of_many, tally.cpu_seconds_of_few, tally.megabytes_per_1000)  # fmt: skip
        segment_killed(tree, work_dir / "killed", args.kills, args.seed, tally)
        compare(work_dir / "reference", work_dir / "killed", tally)
    content = {"exact": tally.exact, "scales": tally.scales, **asdict(tally)}
    write_json(args.results, {**content, "versions": package_versions()})
    if not (tally.exact and tally.scales):
        raise SystemExit(f"Studies were lost or done again, or time or memory grew; see {args.results}.")


if __name__ == "__main__":
    main()
