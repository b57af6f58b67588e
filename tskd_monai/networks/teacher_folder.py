"""The folder a trained teacher lives in.

``adapter/`` and ``decoder_adapter/`` (LoRA in peft's format), ``decoder.safetensors`` and ``teacher.json``. The
encoder's own weights are not copied: the record says which they were, by name and sha256, and loading refuses any
others; where they are stands in ``private/`` alone. Only full fine-tuning, which changes them, writes
``encoder.safetensors`` in the adapter's place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from tskd_monai.files.file_kind import refuse_other_kinds
from tskd_monai.networks.adapter_folder import ADAPTER_FILES, load_adapter, save_adapter
from tskd_monai.networks.lora import base_encoder_sha256, base_state_dict, has_lora, merge_lora
from tskd_monai.networks.pretrained import weights_path
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder
from tskd_monai.networks.segmenter import VfmSegmenter
from tskd_monai.networks.teacher_build import TeacherSpec, build_frozen, build_teacher
from tskd_monai.networks.teacher_networks import state_sha256
from tskd_monai.networks.teacher_record import FORMAT_VERSION, RECORD_FILE, read_teacher_record, spec_from_json
from tskd_monai.networks.teacher_weights import note_weights, noted_weights
from tskd_monai.networks.weights_file import file_sha256, load_strictly, read_weights

__all__ = ["TeacherSpec", "build_teacher", "load_teacher", "read_teacher_record", "save_teacher"]

ADAPTER_FOLDER = "adapter"
DECODER_ADAPTER_FOLDER = "decoder_adapter"
DECODER_FILE = "decoder.safetensors"
ENCODER_FILE = "encoder.safetensors"
WEIGHTS_SUFFIX = ".safetensors"


def save_teacher(
    segmenter: VfmSegmenter, folder: str | Path, *, task_hash: str, record: Mapping[str, Any] | None = None
) -> None:
    """Writes a teacher folder; ``teacher.json``, which seals the other files by sha256, comes last.

    Args:
        segmenter: from :func:`build_teacher` or :func:`load_teacher`.
        folder: created if missing.
        task_hash: sha256 of the task the teacher was trained for.
        record: further JSON values to keep (metrics, versions), under ``"record"``.

    Raises:
        ValueError: if the segmenter does not know what it was built from, or its LoRA was merged.
    """
    spec = segmenter.spec
    if not isinstance(spec, TeacherSpec):
        raise ValueError("Expected a segmenter from build_teacher or load_teacher, found one without a spec.")
    if has_lora(segmenter.encoder) != (spec.tuning == "lora") or has_lora(segmenter.decoder) != spec.decoder_lora:
        raise ValueError("Expected the teacher's LoRA in its place, found it merged; save before merging.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_networks(segmenter, spec, folder)
    content = {
        "format_version": FORMAT_VERSION,
        "task_hash": task_hash,
        "spec": {**asdict(spec), "encoder_weights": note_weights(folder, spec.encoder_weights)},
        "base_encoder_sha256": base_encoder_sha256(segmenter.encoder),
        "files": {name: file_sha256(folder / name) for name in _files(spec)},
        "record": dict(record or {}),
    }
    temporary = folder / f".{RECORD_FILE}.writing"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RECORD_FILE)


def _write_networks(segmenter: VfmSegmenter, spec: TeacherSpec, folder: Path) -> None:
    if spec.tuning == "lora":
        save_adapter(segmenter.encoder, folder / ADAPTER_FOLDER)
    elif spec.tuning == "full":
        _write_weights(segmenter.encoder.backbone, folder / ENCODER_FILE)
    if isinstance(segmenter.decoder, SamMaskDecoder) and spec.decoder_lora:
        save_adapter(segmenter.decoder, folder / DECODER_ADAPTER_FOLDER)
    _write_weights(segmenter.decoder, folder / DECODER_FILE)


def _write_weights(module: nn.Module, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in base_state_dict(module).items()}
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(to_safetensors(state))
    temporary.replace(path)


def _files(spec: TeacherSpec) -> list[str]:
    names = {"lora": _adapter_files(ADAPTER_FOLDER), "full": [ENCODER_FILE], "decoder": []}[spec.tuning]
    return [*names, *(_adapter_files(DECODER_ADAPTER_FOLDER) if spec.decoder_lora else []), DECODER_FILE]


def _adapter_files(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in ADAPTER_FILES]


def load_teacher(
    folder: str | Path,
    encoder_weights: str | Path | None = None,
    *,
    task_hash: str | None = None,
    trainable: bool = False,
) -> VfmSegmenter:
    """Loads a trained teacher in evaluation mode: frozen, its LoRA merged into the weights, unless ``trainable``.

    Args:
        folder: written by :func:`save_teacher`.
        encoder_weights: where the encoder's weights are now, if they have moved.
        task_hash: of the task at hand; a teacher of another task is refused.
        trainable: whether LoRA and decoder require a gradient; LoRA then stays apart.

    Raises:
        FileNotFoundError: if a file of the folder or the encoder's weights are missing.
        ValueError: if a file, the weights or the task differ from the record.
    """
    folder = Path(folder)
    content = read_teacher_record(folder)
    if task_hash is not None and content["task_hash"] != task_hash:
        raise ValueError(
            f"The teacher in {folder} was trained for task {content['task_hash'][:12]}, this is task "
            f"{task_hash[:12]}; train a teacher for it or pass its own task file."
        )
    spec = spec_from_json(content["spec"], folder / RECORD_FILE)
    _check_files(folder, content["files"], _files(spec))
    place = noted_weights(folder, spec.encoder, spec.encoder_weights) if encoder_weights is None else encoder_weights
    spec = replace(spec, encoder_weights=str(place))
    path = _recorded_weights(spec, folder)
    with torch.random.fork_rng(devices=[]):
        segmenter = build_frozen(spec, path)
        _read_encoder(segmenter, spec, folder, trainable)
        _read_decoder(segmenter, spec, folder, trainable)
    if (found := base_encoder_sha256(segmenter.encoder)) != content["base_encoder_sha256"]:
        raise ValueError(
            f"The encoder rebuilt for {folder} differs from the one trained on (sha256 {found[:12]}, expected "
            f"{content['base_encoder_sha256'][:12]}); use the same weights and, for random or resized ones, the same "
            "torch version."
        )
    return segmenter.eval() if trainable else _merged(segmenter)


def _merged(segmenter: VfmSegmenter) -> VfmSegmenter:
    """Returns the segmenter frozen, without the cost of LoRA; it keeps the sha256 of what was saved."""
    segmenter.saved_sha256 = state_sha256(segmenter)
    if has_lora(segmenter.encoder):
        merge_lora(segmenter.encoder)
    if isinstance(segmenter.decoder, SamMaskDecoder) and has_lora(segmenter.decoder):
        merge_lora(segmenter.decoder)
    return segmenter.requires_grad_(False).eval()


def _read_encoder(segmenter: VfmSegmenter, spec: TeacherSpec, folder: Path, trainable: bool) -> None:
    if spec.tuning == "lora":
        load_adapter(segmenter.encoder, folder / ADAPTER_FOLDER, trainable=trainable, qkv_parts=spec.qkv_parts)
    elif spec.tuning == "full":
        load_strictly(segmenter.encoder.backbone, read_weights(folder / ENCODER_FILE), folder / ENCODER_FILE)
        segmenter.encoder.requires_grad_(trainable)


def _read_decoder(segmenter: VfmSegmenter, spec: TeacherSpec, folder: Path, trainable: bool) -> None:
    load_strictly(segmenter.decoder, read_weights(folder / DECODER_FILE), folder / DECODER_FILE)
    if isinstance(segmenter.decoder, SamMaskDecoder) and spec.decoder_lora:
        load_adapter(segmenter.decoder, folder / DECODER_ADAPTER_FOLDER, trainable=trainable)
        segmenter.decoder.train_heads()


def _check_files(folder: Path, recorded: Mapping[str, str], names: Sequence[str]) -> None:
    if sorted(recorded) != sorted(names):
        raise ValueError(
            f"Expected the files {', '.join(sorted(names))} in {folder / RECORD_FILE}, found "
            f"{', '.join(sorted(recorded))}; copy the folder again."
        )
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"Expected {name} in the teacher folder {folder}, found none.")
        if path.suffix == WEIGHTS_SUFFIX:
            refuse_other_kinds(path)
        if (found := file_sha256(path)) != expected:
            raise ValueError(
                f"{path} has sha256 {found[:12]}, {RECORD_FILE} says {expected[:12]}: the files are not of one "
                "saving; copy the folder again or repeat the last step of training."
            )


def _recorded_weights(spec: TeacherSpec, folder: Path) -> Path | None:
    """Returns the weights file the teacher was trained on, checked by sha256; ``None`` for random weights."""
    try:
        path = weights_path(spec.encoder, spec.encoder_weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The teacher in {folder} needs the {spec.encoder} weights {spec.encoder_weights}, which are not there; "
            f"pass encoder_weights. ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(f"The teacher in {folder} needs weights that are not to be had: {error}") from error
    if path is not None:
        refuse_other_kinds(path)
    found = None if path is None else file_sha256(path)
    if found != spec.weights_sha256:
        raise ValueError(
            f"The teacher in {folder} was trained on {spec.encoder} weights with sha256 {spec.weights_sha256}, found "
            f"{found} ({path}); pass encoder_weights with the path of the right file."
        )
    return path
