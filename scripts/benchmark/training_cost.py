"""Measures the cost of a training step of each of a suite's teachers: seconds and peak memory.

Every measurement is a separate process with one thread; methods are interleaved over several rounds. Only ratios of
times are meaningful, and only on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

from cells import COSTS, load_cells, suite_names, weights_file

ROUNDS = 3
WARM_UP_STEPS = 3
STEPS = 10
NUM_CLASSES = 5


def measure(settings: dict[str, Any], image_size: int) -> dict[str, float]:
    """Returns the median seconds of a step on random images, and the peak memory of the process in MB."""
    import torch
    from monai.losses import DiceCELoss

    from tskd_monai.networks.teacher_builder import build_teacher
    from tskd_monai.training.optimisation import trainable_parameters

    torch.set_num_threads(1)
    network = build_teacher(
        encoder=settings["encoder"],
        encoder_weights=weights_file(settings["encoder_weights"]),
        image_size=image_size,
        num_classes=NUM_CLASSES,
        tuning=settings["tuning"],
        rank=settings.get("lora_rank", 8),
    )
    optimizer = torch.optim.AdamW(trainable_parameters(network))
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    shape = (settings["batch_size"], 1, image_size, image_size)
    images, labels = torch.rand(shape), torch.randint(NUM_CLASSES, shape)
    seconds = []
    for _ in range(WARM_UP_STEPS + STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds_per_step": median(seconds[WARM_UP_STEPS:]), "peak_mb": peak_kib / 1024}


def main() -> None:
    """Reads the command line; measures all methods, or one in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=suite_names())
    parser.add_argument("--method", help="measure only this one, in this process, and print its numbers")
    args = parser.parse_args()
    cells = {cell.method: cell for cell in load_cells(args.suite)}
    if args.method:
        json.dump(measure(cells[args.method].stage.settings, cells[args.method].split.image_size), sys.stdout)
        return

    from tskd_monai.files.json_files import write_json

    measured: dict[str, list[dict[str, float]]] = {method: [] for method in cells}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(ROUNDS):
        for method in cells:
            command = [sys.executable, __file__, args.suite, "--method", method]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            measured[method].append(json.loads(done.stdout.splitlines()[-1]))
    methods = {
        method: {key: round(median(one[key] for one in of_method), 4) for key in of_method[0]}
        for method, of_method in measured.items()
    }
    write_json(COSTS / f"{args.suite}.json", {"rounds": ROUNDS, "steps": STEPS, "methods": methods})


if __name__ == "__main__":
    main()
