"""Trains over several simulated hospitals on this machine, with NVFlare: a student, or the adapter of a teacher.

bash scripts/federated.sh
bash scripts/federated.sh --data study/datalist.json --sites 5 --rounds 12 --steps 50 --output-dir federated_output

Without --data it writes the embedded phantom. If interrupted, the same command resumes at the round it was in.
For real hospitals, see bundles/distillation/docs/federated.md.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue

from tskd_monai.federated.job import write_job
from tskd_monai.federated.kits import SERVER, write_kits
from tskd_monai.federated.processes import Party, connected_sites, job_status, simulate, submit, wait_until
from tskd_monai.federated.settings import KINDS, SERVER_FOLDER, FederationSettings
from tskd_monai.federated.state import FederationState
from tskd_monai.federated.weights import TRANSPORT

logger = logging.getLogger("federated")

PHANTOM = ("--training", "6", "--validation", "3", "--test", "2", "--shape", "64", "64", "16")
PHANTOM_SPACING = ("--spacing", "5.4", "5.4", "10.8")
PARTIES, PLAN = "parties", "plan"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, runs the rounds and writes the result."""
    args = _arguments(argv)
    logging.basicConfig(format="%(message)s")  # warnings of NVFlare
    logger.setLevel(logging.INFO)
    try:
        settings = FederationSettings(
            args.kind, args.rounds, args.steps, args.seed, args.val_interval, args.transport, _pairs(args.option)
        )
        _run(args, settings)
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("federated: error: %s", error)
        return 2
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "federated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--kind", choices=tuple(KINDS), default="student", help="what is trained (default: student)")
    add("--data", type=Path, metavar="DATALIST", help="datalist whose patients are dealt to the sites")
    add("--task", type=Path, help="common task.json (default: planned from the data of site-1 only)")
    add("--image-size", type=int, help="rows and columns of the network input, for planning")
    add("--output-dir", type=Path, default=Path("federated_output"), metavar="DIR", help="default: federated_output/")
    add("--sites", type=int, default=3, help="number of sites (default: 3)")
    add("--rounds", type=int, default=4, help="number of rounds (default: 4)")
    add("--steps", type=int, default=30, help="steps of the optimiser in a round (default: 30)")
    add("--seed", type=int, default=0, help="seed of all sites (default: 0)")
    add("--val-interval", type=int, default=1, help="rounds between validations (default: 1)")
    add("--transport", choices=tuple(TRANSPORT), default="float32", help="numbers on the way (default: float32)")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the bundle, for all sites")
    add("--site-option", action="append", default=[], metavar="NAME=VALUE", help="setting that stays at each site")
    add("--min-sites", type=int, help="sites without which a round is not complete (default: all)")
    add("--wait-seconds", type=int, default=600, help="wait for further sites once these have answered (default: 600)")
    add("--simulator", action="store_true", help="NVFlare's simulator, not processes that talk over mutual TLS")
    add("--port", type=int, default=18102, help="port of the server; the next one is used too")
    return parser.parse_args(argv)


def _run(args: argparse.Namespace, settings: FederationSettings) -> None:
    from tskd_monai.data.task import load_task  # MONAI takes seconds to import
    from tskd_monai.federated.result import write_result
    from tskd_monai.federated.split import split_datalist, write_sites

    folder: Path = args.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parties, own = folder / PARTIES, _pairs(args.site_option)
    lists = split_datalist(args.data or _phantom(folder, args.seed), args.sites)
    write_sites(lists, parties, own)
    task = load_task(args.task or _planned(folder, next(iter(lists)), args.image_size))
    write_job(folder / "job", settings, task, args.min_sites or args.sites, args.wait_seconds)

    def state() -> FederationState:
        return FederationState(parties / SERVER_FOLDER, settings.hash(task), settings.rounds)

    if not state().done:
        logger.info("%d rounds of %d steps at %d sites (%s)", settings.rounds, settings.steps, args.sites, args.kind)
        if args.simulator:
            simulate(folder / "job", folder / "simulator", parties, list(lists), folder / "simulator.txt")
        else:
            _with_processes(folder, list(lists), args.port, state)
    if not state().done:
        raise RuntimeError(
            f"Expected {settings.rounds} complete rounds, found {state().round}; the output of the processes is below "
            f"{folder}. Run the same command to continue."
        )
    for row in state().rows:
        logger.info(_line(row))
    write_result(state(), settings, task, folder / "result", own)
    logger.info("Best common weights: before round %d. Result: %s", state().best_round, folder / "result")


def _with_processes(folder: Path, sites: Sequence[str], port: int, state: Callable[[], FederationState]) -> None:
    """Starts a server and the sites, submits the job until its rounds are complete, and ends them."""
    kits = write_kits(folder / "network", sites, port)
    running = [Party(kits / name, folder / PARTIES) for name in (SERVER, *sites)]
    try:
        for party in running:
            party.start()
        wait_until(lambda: connected_sites(kits) == set(sites), f"{len(sites)} connected sites")
        while not state().done:
            before, job = state().round, submit(kits, folder / "job")
            while not job_status(kits, job).startswith("FINISHED"):
                time.sleep(5)
            if state().round == before:
                raise RuntimeError(f"Expected progress in job {job}, found none; see console.txt in {kits}.")
    finally:
        for party in running:
            party.kill()


def _phantom(folder: Path, seed: int) -> Path:
    study = folder / "study"
    _tskd("phantom", "--output-dir", str(study), *PHANTOM, *PHANTOM_SPACING, "--seed", str(seed))
    return study / "datalist.json"


def _planned(folder: Path, site: str, image_size: int | None) -> Path:
    """Returns the task planned from the data of one site, as in a hospital that cannot see the others' images."""
    size = [] if image_size is None else ["--image-size", str(image_size)]
    _tskd("plan", str(folder / PARTIES / site / "datalist.json"), "--output-dir", str(folder / PLAN), *size)
    return folder / PLAN / "task.json"


def _tskd(*arguments: str) -> None:
    if subprocess.run([sys.executable, "-m", "tskd_monai", *arguments], check=False).returncode:
        raise RuntimeError(f"tskd {arguments[0]} failed, for the reason above.")


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Returns options given as `name=value`, parsed as the bundle runner does."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise ValueError(f"Expected an option as NAME=VALUE, found {name}.")
    return {name: DefaultParseValue(value) for name, _, value in pairs}


def _line(row: dict[str, Any]) -> str:
    dice = "" if row.get("val_mean_dice") is None else f"  Dice before it {row['val_mean_dice']:.3f}"
    loss = "" if "train_loss" not in row else f"  loss {row['train_loss']:.3f}"
    mb = (row["bytes_to_site"] + row["bytes_from_site"]) / 1e6
    return f"round {row['round']:3d}  {len(row['sites'])} sites{loss}{dice}  {mb:.2f} MB a site"


if __name__ == "__main__":
    sys.exit(main())
