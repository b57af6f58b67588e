"""Checks the teacher and the preset named by the options, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tskd_monai.commands.command_parser import nearest
from tskd_monai.commands.train.command import STRIDE
from tskd_monai.files.shipped import BUNDLES
from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.pretrained import encoder_of, named_weights

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PRESETS = Path(__file__).with_name("presets.yaml")
STAGE_CONFIGS = {
    "teacher": "teacher_lora/configs/train.yaml",
    "diffusion": "diffusion_synthesis/configs/train.yaml",
    "sampling": "diffusion_synthesis/configs/inference.yaml",
    "distillation": "distillation/configs/train.yaml",
    "fine_tuning": "distillation/configs/fine_tune.yaml",
    "scratch": "distillation/configs/fine_tune.yaml",
}
"""Stage of a preset -> the config file whose ids it overrides."""

GENERAL: Mapping[str, tuple[type, ...]] = {
    "image_size": (int,),
    "labelled_slices": (int, type(None)),
    "compare": (bool,),
    "synthesis": (bool, type(None)),
}
OPTIONAL = ("labelled_slices", "compare", "synthesis", "scratch")
SET_BY_THE_PIPELINE = (
    "bundle_root", "datalist", "task", "fold", "output_dir", "teacher_dir", "transfer_set", "diffusion_dir",
    "initial_student", "encoder", "encoder_weights", "student", "seed", "device", "dataset_dir", "title",
)  # fmt: skip
COMPUTED = {"scratch": ("max_epochs",)}
NON_NEGATIVE = ("num_workers",)


def parse_teacher(teacher: str) -> tuple[str, str]:
    """Returns encoder name and weights of `NAME`, `NAME=WEIGHTS`, a file or folder, or an id as `facebook/dinov2-base`.

    Raises:
        ValueError: if the encoder is unknown, or its weights are neither shipped nor given.
        FileNotFoundError: if a folder has no weights file.
    """
    name, _, weights = teacher.partition("=")
    published = [record for record in ENCODERS.values() if record.shipped is None]
    hub = {str(record.source): record.name for record in published if HUB_ID.fullmatch(str(record.source))}
    if teacher in hub:
        return hub[teacher], teacher
    if name not in ENCODERS and Path(teacher).exists():
        return encoder_of(teacher), teacher
    if name not in ENCODERS:
        other = (
            "; of another model's weights, name the architecture, as in sam_vit_base=owner/model, and of another "
            "architecture, see 'Another foundation model' in bundles/teacher_lora/docs/README.md."
        )
        raise ValueError(
            f"Expected --teacher NAME, NAME=WEIGHTS or a hub id, with a name among {', '.join(sorted(ENCODERS))}, "
            f"found {teacher}{nearest(name, [*ENCODERS, *hub]) or (other if HUB_ID.fullmatch(teacher) else '.')}"
        )
    record = ENCODERS[name]
    if not weights and record.shipped is None and record.packaged is None:
        download = f", or --teacher {record.source} to download them" if record.source in hub else ""
        sources = " or ".join(filter(None, (record.source, record.url)))
        raise ValueError(
            f"Expected weights of {name}, found none; give --teacher {name}=FILE{download}. They are published as "
            f"{sources}."
        )
    return name, weights or named_weights(name, None)


def load_preset(name: str) -> dict[str, Any]:
    """Returns a preset by name, or that of a YAML file, checked; optional keys are filled in.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if no preset has that name, or it has a wrong key or value; states which.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        preset, where = _only_preset(Path(name)), Path(name).name
    else:
        presets = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))
        if name not in presets:
            known = ", ".join(sorted(presets))
            raise ValueError(
                f"Expected --preset with one of {known}, or the path of a YAML file, found {name}"
                f"{nearest(name, presets) or '.'}"
            )
        preset, where = presets[name], f"preset {name}"
    _check_keys(preset, where)
    for stage, config in STAGE_CONFIGS.items():
        if stage in preset:
            _check_stage(preset[stage], stage, config, where)
    return {"labelled_slices": None, "compare": False, "synthesis": None, "scratch": {}, **preset}


def stage_options(preset: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Returns the options of a stage: those of the preset, else of the bundle's config."""
    return {**config_defaults(STAGE_CONFIGS[stage]), **preset[stage]}


def config_defaults(config: str) -> dict[str, Any]:
    """Returns the values of a config by id; `config` is its path within the folder of the bundles."""
    return dict(yaml.safe_load((BUNDLES / config).read_text(encoding="utf-8")))


def _only_preset(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a YAML file of a preset at {path}, found none; check --preset.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected YAML in {path}: {' '.join(str(error).split())}.") from error
    names = sorted(content) if isinstance(content, dict) else []
    flat = set(names) & {*GENERAL, *STAGE_CONFIGS}
    if flat:
        raise ValueError(
            f"Expected a preset under a name in {path}, such as `mine: {{image_size: 96, …}}`, found its keys "
            f"{sorted(flat)} at the top; indent them under a name."
        )
    if len(names) != 1:
        raise ValueError(f"Expected one preset in {path}, found {names or type(content).__name__}.")
    return content[names[0]]


def _check_keys(preset: Any, where: str) -> None:
    known = {*GENERAL, *STAGE_CONFIGS}
    if not isinstance(preset, dict):
        raise ValueError(f"Expected the keys {sorted(known)} in {where}, found {type(preset).__name__}.")
    unknown = sorted(set(map(str, preset)) - known)
    missing = sorted(known - set(preset) - set(OPTIONAL))
    if unknown or missing:
        found = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"no {', '.join(missing)}"] * bool(missing)
        raise ValueError(f"Expected the keys {sorted(known)} in {where}, found {' and '.join(found)}.")
    for name, kinds in GENERAL.items():
        value = preset.get(name)
        if name in preset and (type(value) not in kinds or (type(value) is int and value < 1)):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"Expected a positive {wanted} as {name} in {where}, found {value!r}.")
    if preset["image_size"] % STRIDE:
        raise ValueError(f"Expected a multiple of {STRIDE} as image_size in {where}, found {preset['image_size']}.")


def _check_stage(settings: Any, stage: str, config: str, where: str) -> None:
    """Raises ValueError unless each setting is an id of the stage's config and of the same type as its value there."""
    defaults = config_defaults(config)
    given = {*SET_BY_THE_PIPELINE, *COMPUTED.get(stage, ())}
    allowed = sorted(
        name for name, value in defaults.items() if name not in given and not isinstance(value, (dict, list))
    )
    if not isinstance(settings, dict):
        raise ValueError(f"Expected settings of {stage} in {where}, found {type(settings).__name__}.")
    for name, value in settings.items():
        if name not in defaults or name in given:
            reason = ", which the pipeline sets" if name in given else ""
            raise ValueError(f"Expected settings among {allowed} for {stage} in {where}, found {name}{reason}.")
        default = defaults[name]
        kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        fits = default is None or type(value) in kinds
        if fits and type(default) is int:
            fits = value >= (0 if name in NON_NEGATIVE else 1)
        if not fits:
            raise ValueError(f"Expected a value like {default!r} for {name} of {stage} in {where}, found {value!r}.")
