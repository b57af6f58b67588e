"""Runs the whole method on a study: teacher, synthesis, distillation, inference, and a report.

Every stage is a call of the stock bundle runner and can be repeated by hand. Stopped at any moment, the same command
goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import yaml
from pipeline_report import write_pipeline_report
from pipeline_stages import BUNDLES, Pipeline, Stage
from plan_task import plan_study

from tskd_monai.data.atomic import read_json
from tskd_monai.data.checksum import file_sha256
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.private_files import private_file
from tskd_monai.data.task import Task
from tskd_monai.networks.pretrained import ENCODERS, weights_path
from tskd_monai.networks.students import STUDENTS
from tskd_monai.training.bundle import plain_option

logger = logging.getLogger("run_pipeline")
PRESETS = Path(__file__).with_name("presets.yaml")
STAGES_IN_ALL = 10
STAND_IN_NOTE = (
    "The teacher's encoder ({encoder}) stands in for a real foundation model, which cannot be shipped with this "
    "project. --teacher facebook/sam-vit-base uses SAM instead."
)


def parse_teacher(teacher: str) -> tuple[str, str]:
    """Returns encoder name and weights of `NAME`, `NAME=WEIGHTS` or a hub id such as `facebook/sam-vit-base`.

    Raises:
        ValueError: when the encoder is not known.
    """
    name, _, weights = teacher.partition("=")
    if name in ENCODERS:
        return name, weights or "shipped"
    for record in ENCODERS.values():
        if teacher in str(record.source):
            return record.name, teacher
    raise ValueError(
        f"Expected --teacher NAME, NAME=WEIGHTS or a hub id, with a name among {sorted(ENCODERS)}, found {teacher}."
    )


def main() -> None:
    """Reads the command line and runs the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True, help="Decathlon-style JSON")
    parser.add_argument("--output-dir", type=Path, required=True, help="everything is written below it")
    parser.add_argument(
        "--teacher",
        default="sam_demo",
        help=f"encoder: one of {', '.join(ENCODERS)}, NAME=WEIGHTS (a file), or a hub id such as facebook/sam-vit-base",
    )
    parser.add_argument(
        "--preset", default="small", help="demo, small, full, or the path of a YAML file like presets.yaml"
    )
    parser.add_argument("--student", default="compact_unet_small", help=f"one of {', '.join(STUDENTS)}")
    parser.add_argument("--image-size", type=int, help="overrides the preset's")
    parser.add_argument("--labelled-slices", type=int, help="overrides the preset's")
    parser.add_argument("--fold", type=int, help="of the datalist's cross-validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="such as cpu or cuda:0; default: the GPU if there is one")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        preset = load_preset(args.preset)
        encoder, weights = parse_teacher(args.teacher)
        for name, value in {
            "preset": preset,
            "teacher": weights,
            "student": args.student,
            "device": args.device,
        }.items():
            plain_option(name, value)
        # A wrong datalist and missing weights end the run here, with one line and nothing written.
        load_datalist(args.datalist)
        weights_path(encoder, weights)
        datalist, task_file, task = plan_study(
            args.datalist,
            args.output_dir,
            args.image_size or preset["image_size"],
            labelled_slices=args.labelled_slices or preset["labelled_slices"],
            seed=args.seed,
            fold=args.fold,
            datalist_dir=private_file(args.output_dir, "datalist.json").parent,
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    shared: dict[str, Any] = {"datalist": datalist.resolve(), "task": task_file.resolve()}
    if args.device:
        shared["device"] = args.device
    pipeline = Pipeline(args.output_dir.resolve(), STAGES_IN_ALL)
    run_stages(pipeline, preset, shared, encoder, weights, args.student, args.seed, task)
    settings = {
        "preset": Path(args.preset).name,
        "teacher": args.teacher if "=" not in args.teacher else f"{encoder}, weights from a file",
        "student": args.student,
        "seed": str(args.seed),
        "image size": f"{task.image_size[0]} x {task.image_size[1]}",
    }
    notes = [] if encoder.startswith(("sam_vit", "medsam")) else [STAND_IN_NOTE.format(encoder=encoder)]
    path, table = write_pipeline_report(pipeline, datalist, task, settings, notes)
    written = args.output_dir / path.name, args.output_dir / "student"  # as the user writes them
    logger.info("\n%s\n\nReport: %s\nStudent bundle: %s", table, *written)


def load_preset(name: str) -> dict[str, Any]:
    """Returns a preset by its name, or the only one of a YAML file.

    Raises:
        ValueError: when there is none of that name.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        presets = yaml.safe_load(Path(name).read_text())
        return dict(next(iter(presets.values())))
    presets = yaml.safe_load(PRESETS.read_text())
    if name not in presets:
        raise ValueError(f"Expected a preset among {sorted(presets)} or a YAML file, found {name}.")
    return dict(presets[name])


def run_stages(
    pipeline: Pipeline,
    preset: dict[str, Any],
    shared: dict[str, Any],
    encoder: str,
    weights: str,
    student: str,
    seed: int,
    task: Task,
) -> None:
    """Runs the four bundles, and the student from scratch beside them.

    Args:
        pipeline: to run in.
        preset: of `presets.yaml`.
        shared: overrides that every stage takes.
        encoder: of the teacher.
        weights: of the encoder.
        student: name of the student.
        seed: of every training.
        task: of the study; a stage is run again when the task or the datalist has changed.
    """
    folder = pipeline.folder
    teacher, synthesis = BUNDLES / "teacher_lora", BUNDLES / "diffusion_synthesis"
    common = {**shared, "seed": seed}
    study = {key: value for key, value in shared.items() if key != "datalist"}
    pipeline.keys["study"] = task.hash + file_sha256(shared["datalist"])
    encoder_settings = {"encoder": encoder, "encoder_weights": weights}
    pipeline.run(
        Stage("teacher", f"Teacher: {encoder} with LoRA", teacher, ["train.yaml"],
              {**common, **encoder_settings, **preset["teacher"]}, ["study"])
    )  # fmt: skip
    pipeline.run(
        Stage("diffusion", "Diffusion model", synthesis, ["train.yaml"], {**common, **preset["diffusion"]}, ["study"])
    )
    pipeline.run(
        Stage("transfer_set", "Transfer set", synthesis, ["inference.yaml"],
              {**study, "seed": seed, "diffusion_dir": folder("diffusion"), **preset["sampling"]}, ["diffusion"])
    )  # fmt: skip
    pipeline.run(
        Stage("gates", "Gates of the transfer set", synthesis, ["gate.yaml"],
              {**common, "teacher_dir": folder("teacher"), "transfer_set": folder("transfer_set")},
              ["teacher", "transfer_set"])
    )  # fmt: skip
    run_student_stages(pipeline, preset, common, student)
    run_tests(pipeline, shared)


def run_student_stages(pipeline: Pipeline, preset: dict[str, Any], common: dict[str, Any], student: str) -> None:
    """Runs distillation and fine-tuning, and the student from scratch for as long.

    Args:
        pipeline: in which teacher and gates have run.
        preset: of `presets.yaml`.
        common: overrides that every training takes.
        student: name of the student.
    """
    folder, distillation = pipeline.folder, BUNDLES / "distillation"
    distilled = {"teacher_dir": folder("teacher"), "student": student}
    if accepted_images(pipeline):
        distilled["transfer_set"] = folder("transfer_set")
    pipeline.run(
        Stage("distilled", "Distillation", distillation, ["train.yaml"],
              {**common, **distilled, **preset["distillation"]}, ["teacher", "gates"])
    )  # fmt: skip
    pipeline.run(
        Stage("student", "Fine-tuning of the distilled student", distillation, ["fine_tune.yaml"],
              {**common, "initial_student": folder("distilled"), "student": student, **preset["fine_tuning"]},
              ["distilled"])
    )  # fmt: skip
    pipeline.run(
        Stage("scratch", "The same student from scratch, for as long", distillation, ["fine_tune.yaml", "scratch.yaml"],
              {**common, "student": student, **preset["scratch"], "max_epochs": scratch_epochs(pipeline, preset)},
              ["study"])
    )  # fmt: skip


def accepted_images(pipeline: Pipeline) -> int:
    """Returns how many synthetic images the gates accepted, and says so where there are none."""
    accepted = int(read_json(pipeline.folder("gates") / "gates.json")["counts"]["accepted"])
    if not accepted:
        logger.warning("    The gates rejected every synthetic image: the student learns from real images alone.")
    return accepted


def run_tests(pipeline: Pipeline, shared: dict[str, Any]) -> None:
    """Segments and scores the test section with the teacher and both students: the one time that it is read."""
    evaluation = {**shared, "section": "test"}
    pipeline.run(
        Stage("predictions_teacher", "Test: teacher", BUNDLES / "teacher_lora", ["inference.yaml", "evaluate.yaml"],
              {**evaluation, "teacher_dir": pipeline.folder("teacher")}, ["teacher"])
    )  # fmt: skip
    for name in ("student", "scratch"):
        pipeline.run(
            Stage(
                f"predictions_{name}",
                f"Test: {name}",
                pipeline.folder(name),
                ["inference.json", "evaluate.json"],
                evaluation,
                [name],
            )
        )


def scratch_epochs(pipeline: Pipeline, preset: dict[str, Any]) -> int:
    """Returns how many epochs from scratch take as long as distillation and fine-tuning did together.

    A step from scratch costs what a step of fine-tuning does: the same student on the same slices.
    """
    tuning, distillation = pipeline.record("student"), pipeline.record("distilled")
    seconds_per_step = tuning["seconds_per_epoch"] / preset["fine_tuning"]["epoch_length"]
    seconds_per_epoch = seconds_per_step * preset["scratch"]["epoch_length"]
    return math.ceil((tuning["seconds"] + distillation["seconds"]) / seconds_per_epoch)


if __name__ == "__main__":
    main()
