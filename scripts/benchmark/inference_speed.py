"""Measures the cost of a segmentation through the stock bundle runner, and how it is distributed.

Every run is a separate process with one engine; engines are interleaved. `zoo` is the same network with stock
transforms, `Invertd` of all logits at full resolution and torch. Wall time is meaningful only on an idle machine; CPU
time, summed over threads, also on a busy one. Results are medians over the rounds.

python scripts/benchmark/inference_speed.py FOLDER --scan ct --classes 5 --engines torch openvino-bf16 zoo
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ZOO_STYLE = Path(__file__).parent / "zoo_style.json"
ENGINES = ("torch", "onnxruntime", "openvino", "openvino-bf16", "zoo")
PARTS = ("imports", "read", "transforms", "network", "upsampling", "write", "other", "whole")


class Stopwatch:
    """Wall and CPU seconds by name; a call within another of the same name counts once."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function with its calls timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in self.running:
                return function(*args, **kwargs)
            self.running.add(name)
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.running.remove(name)
                self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
                self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

        return call


def run_once(bundle: str, scan: str, engine: str, output_dir: str) -> dict[str, Any]:
    """Returns the seconds of each part of one segmentation in this process, and its peak memory in MB."""
    started, started_cpu = time.perf_counter(), time.process_time()
    import torch
    from monai.data import ImageReader, ImageWriter
    from monai.inferers import Inferer
    from monai.transforms import Compose

    import tskd_monai.data.segmentation_writers
    import tskd_monai.data.volume_reader
    import tskd_monai.inference.label_map_inferer  # noqa: F401
    from tskd_monai.bundle.run import BundleRun

    watch = Stopwatch()
    watch.wall["imports"], watch.cpu["imports"] = time.perf_counter() - started, time.process_time() - started_cpu
    for reader in _subclasses(ImageReader):
        for method in ("read", "get_data"):
            _time_method(reader, method, "read", watch)
    for writer in _subclasses(ImageWriter):
        _time_method(writer, "write", "write", watch)
    for inferer in _subclasses(Inferer):
        _time_method(inferer, "__call__", "inferer", watch)
    _time_network(watch)
    _time_method(Compose, "__call__", "transforms", watch)
    configs = ["inference.json", *([str(ZOO_STYLE)] if engine == "zoo" else [])]
    name, _, precision = ("torch" if engine == "zoo" else engine).partition("-")
    # Repeats what an earlier measurement has already done.
    options = {"engine": name, "precision": precision or "fp32", "device": torch.device("cpu"), "resume": False}
    overrides = {"image": scan, "output_dir": output_dir, "logging_file": False, **options}
    BundleRun(Path(bundle), configs, overrides).run_here()
    whole = {"wall": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The bundle writes in a thread beside its transforms; the stock pipeline writes within them.
    parts = {clock: _parts(getattr(watch, clock), whole[clock], engine == "zoo") for clock in whole}
    return {**parts, "peak_mb": peak}


def _subclasses(base: type) -> set[type]:
    return {base, *(below for child in base.__subclasses__() for below in _subclasses(child))}


def _time_method(owner: type, method: str, name: str, watch: Stopwatch) -> None:
    if method in vars(owner):
        setattr(owner, method, watch.timed(name, vars(owner)[method]))


def _time_network(watch: Stopwatch) -> None:
    """Measures the forward passes of every engine, below the inferers."""
    from monai.networks.nets import UNet

    from tskd_monai.inference.engines import OnnxRuntimeEngine, OpenVinoEngine
    from tskd_monai.networks.vit_student import VitStudent

    for network in (UNet, VitStudent):
        _time_method(network, "forward", "network", watch)
    for engine in (OnnxRuntimeEngine, OpenVinoEngine):
        _time_method(engine, "_predict", "network", watch)


def _parts(measured: dict[str, float], whole: float, writes_in_transforms: bool) -> dict[str, float]:
    """Returns the seconds of PARTS, which add up to the total."""
    found = {name: measured.get(name, 0.0) for name in PARTS[:-2]}
    found["upsampling"] = measured.get("inferer", 0.0) - found["network"]
    found["transforms"] -= found["read"] + (found["write"] if writes_in_transforms else 0.0)
    return {**found, "other": whole - sum(found.values()), "whole": whole}


def measure(bundle: Path, scan: Path, engines: list[str], rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """Returns the medians of each engine over interleaved rounds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for number in range(rounds):
        for engine in engines:
            output = bundle.parent / "predictions" / f"{engine}-{number}"
            command = [sys.executable, __file__, "--child", str(bundle), str(scan), engine, str(output)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            runs[engine].append(json.loads(done.stdout.splitlines()[-1]))
    return {engine: _medians(of_one) for engine, of_one in runs.items()}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "peak_mb": round(median(run["peak_mb"] for run in runs)),
        **{
            clock: {name: round(median(run[clock][name] for run in runs), 2) for name in runs[0][clock]}
            for clock in ("wall", "cpu")
        },
    }


def table(measured: dict[str, dict[str, Any]], clocks: Sequence[str] = ("wall", "cpu")) -> str:
    """Returns the medians as a Markdown table, wall / CPU seconds or those of one clock."""
    lines = ["| engine | " + " | ".join(PARTS) + " | peak MB |", "|---" * (len(PARTS) + 2) + "|"]
    for engine, row in measured.items():
        cells = [" / ".join(f"{row[clock][name]:.2f}" for clock in clocks) for name in PARTS]
        lines.append(f"| {engine} | " + " | ".join(cells) + f" | {row['peak_mb']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the command line; measures all engines, or one in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of scans and bundles, created once")
    parser.add_argument("--scan", choices=("ct", "mr"), default="ct")
    parser.add_argument("--student", default="compact_unet_small")
    parser.add_argument("--classes", type=int, default=5, help="with background")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["torch", "zoo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    from speed_inputs import write_bundle, write_scan

    from tskd_monai.files.json_files import write_json
    from tskd_monai.inference.export import export_student

    args.folder.mkdir(parents=True, exist_ok=True)
    scan = write_scan(args.scan, args.folder)
    bundle = write_bundle(args.student, args.classes, args.image_size, args.scan, args.folder)
    exported = sorted({engine.partition("-")[0] for engine in args.engines} - {"torch", "zoo"})
    if exported and not (bundle / "models" / "export.json").is_file():
        export_student(bundle, exported)
    measured = measure(bundle, scan, args.engines, args.rounds, args.threads)
    write_json(args.folder / f"speed-{bundle.name}.json", {"rounds": args.rounds, "engines": measured})
    sys.stdout.write(table(measured))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run_once(*sys.argv[2:])))
    else:
        main()
