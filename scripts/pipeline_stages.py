"""Stages of the pipeline: each is one call of the stock bundle runner, finished once and not run again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tskd_monai.data.atomic import read_json, write_json
from tskd_monai.training.bundle import plain_option

logger = logging.getLogger("run_pipeline")
# OpenMP threads that wait by spinning cost a factor of thirty as soon as anything else wants one of the cores.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


@dataclass(frozen=True)
class Stage:
    """One call of a bundle.

    Attributes:
        name: of the stage, and of its output folder.
        title: what the reader sees.
        bundle: folder of the bundle.
        configs: names of its config files, later ones override.
        overrides: of config ids; `output_dir` is added.
        needs: names of the stages whose output it reads.
    """

    name: str
    title: str
    bundle: Path
    configs: Sequence[str]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()


class Pipeline:
    """Runs stages into a folder. A stage that was finished with the same settings and inputs is not run again.

    Args:
        output_dir: a folder for each stage is made in it.
        total: number of stages, for the progress display.
    """

    def __init__(self, output_dir: Path, total: int) -> None:
        self.output_dir, self.total = output_dir, total
        self.number, self.started = 0, time.monotonic()
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def folder(self, name: str) -> Path:
        """Returns the output folder of a stage."""
        return self.output_dir / name

    def record(self, name: str) -> dict[str, Any]:
        """Returns the results in a training stage's record."""
        return dict(read_json(self.folder(name) / "record.json")["results"])

    def run(self, stage: Stage) -> None:
        """Runs a stage unless it is finished.

        A stage that was interrupted goes on from its checkpoint; one that was begun with other settings starts anew.

        Raises:
            SystemExit: when the stage fails; what it has written stays for the next call.
        """
        self.number += 1
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self.started))
        logger.info("[%d/%d, %s elapsed] %s", self.number, self.total, elapsed, stage.title)
        key = self.keys[stage.name] = self._key(stage)
        state_file = self.output_dir / "stages" / f"{stage.name}.json"
        state = read_json(state_file) if state_file.is_file() else {}
        if state.get("key") == key and state.get("finished"):
            self.seconds[stage.name] = state["seconds"]
            logger.info("    finished before")
            return
        if state and state.get("key") != key:
            logger.info("    begun with other settings: starting anew")
            shutil.rmtree(self.folder(stage.name), ignore_errors=True)
        write_json(state_file, {"key": key, "finished": False})
        seconds = self._call(stage)
        self.seconds[stage.name] = seconds
        write_json(state_file, {"key": key, "finished": True, "seconds": round(seconds, 1)})

    def _key(self, stage: Stage) -> str:
        """Hash of what a stage's output depends on."""
        parts = [str(stage.bundle.name), *stage.configs, json.dumps(dict(stage.overrides), sort_keys=True, default=str)]
        return hashlib.sha256("\n".join(parts + [self.keys[name] for name in stage.needs]).encode()).hexdigest()

    def _call(self, stage: Stage) -> float:
        configs = [str(stage.bundle / "configs" / name) for name in stage.configs]
        command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(stage.bundle)]
        command += ["--config_file", configs[0] if len(configs) == 1 else repr(configs)]
        for name, value in {**stage.overrides, "output_dir": self.folder(stage.name)}.items():
            command.append(f"--{name}={plain_option(name, value)}")
        started = time.monotonic()
        # Progress bars and messages go to the terminal's standard error; the runner's banner is of no use there.
        process = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env={**QUIET_THREADS, **os.environ})
        if process.returncode:
            raise SystemExit(
                f"{stage.title} ended with exit code {process.returncode}; the first error above says why. "
                "Run the same command to go on from here."
            )
        return time.monotonic() - started
