"""Compares few steps of DPM-Solver++ with many of DDIM on one diffusion model: images per second and kernel distance.

Both sample the same seeds, batch by batch in turn, and are compared with the same draws of validation images.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from tskd_monai.data.atomic import write_json
from tskd_monai.data.datalist import load_section, transfer_images
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import load_task
from tskd_monai.inference.preprocessing import training_preprocessing
from tskd_monai.synthesis.gate_networks import gate_encoder
from tskd_monai.synthesis.gates import BLANK_CONTRAST, KID_SUBSET_SIZE, KID_SUBSETS
from tskd_monai.synthesis.pipeline_folder import load_diffusion_pipeline
from tskd_monai.synthesis.realism import kernel_distances, spread
from tskd_monai.synthesis.sampling import ImageSampler

METHODS = {"dpmsolver++": 20, "ddim": 250}
BATCH_SIZE = 16


def main() -> None:
    """Reads the command line, samples, and writes the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("diffusion_dir", type=Path, help="output of the training, of an unconditional model")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--datalist", type=Path, required=True, help="with absolute paths, as plan_task.py writes it")
    parser.add_argument("--encoder", default="vit_tiny_patch16", help="whose features are compared")
    parser.add_argument("--encoder-weights", type=Path)
    parser.add_argument("--number", type=int, default=64, help="of images, seeds 0, 1, 2, ...")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args()

    task = load_task(args.task)
    model = load_diffusion_pipeline(args.diffusion_dir / "pipeline", task.hash)
    shape = (int(model.record["channels"]), *task.image_size)
    encoder = gate_encoder(task, None, args.encoder, args.encoder_weights)
    sections = {"training": transfer_images(args.datalist), "validation": load_section(args.datalist, "validation")}
    features = {}
    for section, entries in sections.items():
        slices = SliceDataset(entries, training_preprocessing(task, ["image"]), keys=["image"])
        shown = [image.float() for image in slices.arrays("image") if float(image.std()) >= BLANK_CONTRAST]
        features[section] = encoder.features(torch.stack(shown))
    scale = float(np.sqrt(np.mean(np.square(features["training"]))))

    samplers = {
        name: ImageSampler(model.unet, model.noise_scheduler, shape, BATCH_SIZE, steps, name)
        for name, steps in METHODS.items()
    }
    images: dict[str, list[torch.Tensor]] = {name: [] for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    for start in range(0, args.number, BATCH_SIZE):
        seeds = range(start, min(start + BATCH_SIZE, args.number))
        for name, sampler in samplers.items():
            started = time.perf_counter()
            images[name] += [sampled.image for sampled in sampler.sample(seeds)]
            seconds[name] += time.perf_counter() - started
            sys.stderr.write(f"{name}: {len(images[name])} of {args.number} images\n")

    draws = {
        name: kernel_distances(
            encoder.features(torch.stack(sampled)) / scale,
            features["validation"] / scale,
            KID_SUBSETS,
            KID_SUBSET_SIZE,
        )
        for name, sampled in images.items()
    }
    few, many = METHODS
    write_json(
        args.output,
        {
            "images": args.number,
            "threads": torch.get_num_threads(),
            "checkpoint_sha256": model.record["unet_sha256"],
            "methods": {
                name: {
                    "num_inference_steps": METHODS[name],
                    "images_per_second": round(args.number / seconds[name], 3),
                    "kid": asdict(spread(draws[name])),
                }
                for name in METHODS
            },
            "kid_difference": asdict(spread(draws[few] - draws[many])),
        },
    )


if __name__ == "__main__":
    main()
