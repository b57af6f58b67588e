"""The folder of a trained teacher: saving and loading it.

``adapter/`` and ``decoder_adapter/`` (LoRA in peft's format), ``decoder.safetensors`` and ``teacher.json``. The
encoder's own weights are not copied: the record states their name and sha256, and loading refuses any others; only
``private/`` holds their path. Full fine-tuning changes them and writes ``encoder.safetensors`` instead of the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.file_kind import refuse_other_kinds
from tskd_monai.files.json_files import Fields, check_fields, is_a, read_json, shown, write_json
from tskd_monai.files.private_files import FOLDER, private_file
from tskd_monai.networks.adapter_folder import ADAPTER_FILES, load_adapter, save_adapter
from tskd_monai.networks.encoder_records import ENCODERS, encoder_record
from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.lora import base_encoder_sha256, base_state_dict, checked_peft_options, has_lora, merge_lora
from tskd_monai.networks.pretrained import NAMED_WEIGHTS, weights_path
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder
from tskd_monai.networks.teacher import VfmSegmenter, state_sha256
from tskd_monai.networks.teacher_builder import TeacherSpec, build_frozen
from tskd_monai.networks.weights_file import load_strictly, read_weights, write_weights

RECORD_FILE = "teacher.json"
FORMAT_VERSION = 1
ADAPTER_FOLDER = "adapter"
DECODER_ADAPTER_FOLDER = "decoder_adapter"
DECODER_FILE = "decoder.safetensors"
ENCODER_FILE = "encoder.safetensors"
WEIGHTS_SUFFIX = ".safetensors"
PRIVATE_FILE = Path(FOLDER) / "encoder_weights.json"
RECORD_FIELDS: Fields = {
    "task_hash": (str,), "spec": (dict,), "base_encoder_sha256": (str,), "files": (dict,), "record": (dict,),
}  # fmt: skip
SPEC_FIELDS: Fields = {
    "encoder": (str,), "encoder_weights": (str,), "weights_sha256": (str, type(None)), "image_size": (list,),
    "num_classes": (int,), "decoder": (str,), "decoder_lora": (bool,), "refine": (bool,), "tuning": (str,),
    "rank": (int,), "alpha": (float,), "dropout": (float,), "target_modules": (list, type(None)),
    "qkv_parts": (str,), "peft_options": (dict,), "seed": (int,), "lora_depth": (int, type(None)),
}  # fmt: skip
ABSENT_FIELDS = {"lora_depth": None}
"""Fields that records of earlier versions lack, with the value that they stand for."""
COPY_AGAIN = "copy the folder again"
MAX_CLASSES = 256
"""Number of values of an 8-bit label map; a decoder for a billion classes in a record would take all memory."""


def save_teacher(
    segmenter: VfmSegmenter, folder: str | Path, *, task_hash: str, record: Mapping[str, Any] | None = None
) -> None:
    """Writes a teacher folder; ``teacher.json``, which seals the other files by sha256, comes last.

    Args:
        segmenter: segmenter from :func:`build_teacher` or :func:`load_teacher`.
        folder: folder of the teacher, created if missing.
        task_hash: sha256 of the task the teacher was trained for.
        record: further JSON values to save, such as metrics, under ``"record"``.

    Raises:
        ValueError: if the segmenter has no spec, or its LoRA was merged.
    """
    spec = segmenter.spec
    if not isinstance(spec, TeacherSpec):
        raise ValueError("Expected a segmenter from build_teacher or load_teacher, found one without a spec.")
    if has_lora(segmenter.encoder) != (spec.tuning == "lora") or has_lora(segmenter.decoder) != spec.decoder_lora:
        raise ValueError("Expected a teacher with its LoRA not merged, found it merged; save before merging.")
    folder = Path(folder)
    _write_networks(segmenter, spec, folder)
    content = {
        "format_version": FORMAT_VERSION,
        "task_hash": task_hash,
        "spec": {**asdict(spec), "encoder_weights": note_weights(folder, spec.encoder_weights)},
        "base_encoder_sha256": base_encoder_sha256(segmenter.encoder),
        "files": {name: file_sha256(folder / name) for name in _files(spec)},
        "record": dict(record or {}),
    }
    write_json(folder / RECORD_FILE, content)


def _write_networks(segmenter: VfmSegmenter, spec: TeacherSpec, folder: Path) -> None:
    if spec.tuning == "lora":
        save_adapter(segmenter.encoder, folder / ADAPTER_FOLDER)
    elif spec.tuning == "full":
        write_weights(folder / ENCODER_FILE, base_state_dict(segmenter.encoder.backbone))
    if isinstance(segmenter.decoder, SamMaskDecoder) and spec.decoder_lora:
        save_adapter(segmenter.decoder, folder / DECODER_ADAPTER_FOLDER)
    write_weights(folder / DECODER_FILE, base_state_dict(segmenter.decoder))


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
        encoder_weights: current path of the encoder's weights, if they have moved.
        task_hash: hash of the current task; a teacher of another task is refused.
        trainable: whether LoRA and decoder require a gradient; LoRA is then not merged.

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
    if encoder_weights is None:
        encoder_weights = noted_weights(folder, spec.encoder, spec.encoder_weights)
    spec = replace(spec, encoder_weights=str(encoder_weights))
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
    """Returns the segmenter frozen, with LoRA merged; it keeps the sha256 of the saved weights."""
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
                f"{path} has sha256 {found[:12]}, {RECORD_FILE} states {expected[:12]}: the files were not saved "
                "together; copy the folder again or repeat the end of the training run."
            )


def _recorded_weights(spec: TeacherSpec, folder: Path) -> Path | None:
    """Returns the weights file that the teacher was trained on, checked by sha256; ``None`` for random weights."""
    try:
        path = weights_path(spec.encoder, spec.encoder_weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The teacher in {folder} needs the {spec.encoder} weights {spec.encoder_weights}, which are missing; "
            f"pass encoder_weights. ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(f"The teacher in {folder} needs weights that are not available: {error}") from error
    if path is not None:
        refuse_other_kinds(path)
    found = None if path is None else file_sha256(path)
    if found != spec.weights_sha256:
        raise ValueError(
            f"The teacher in {folder} was trained on {spec.encoder} weights with sha256 {spec.weights_sha256}, found "
            f"{found} ({path}); pass encoder_weights with the path of the right file."
        )
    return path


def read_teacher_record(folder: str | Path) -> dict[str, Any]:
    """Returns the content of ``teacher.json``.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be read, has another format, or an entry is missing or of the wrong type.
    """
    path = Path(folder) / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"Expected {RECORD_FILE} in the teacher folder {folder}, found none; train one first.")
    content = _read_object(path, COPY_AGAIN)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {path}, found {shown(content.get('format_version'))}; "
            "train the teacher again with this version."
        )
    check_fields(content, RECORD_FIELDS, str(path), COPY_AGAIN)
    if not all(isinstance(digest, str) for digest in content["files"].values()):
        raise ValueError(f"Expected a sha256 of each of the files in {path}, found another; {COPY_AGAIN}.")
    return content


def _read_object(path: Path, advice: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {advice}.") from error
    check_fields(content, {}, str(path), advice)
    return dict(content)


def spec_from_json(values: Mapping[str, Any], path: Path) -> TeacherSpec:
    """Returns the spec of a teacher, checked before anything is built.

    Args:
        values: the record's ``spec``.
        path: path of the record, for error messages.

    Raises:
        ValueError: if a field is missing, unknown, of another type or out of range.
    """
    values = {**ABSENT_FIELDS, **values}
    expected = {field.name for field in fields(TeacherSpec)}
    if different := sorted(values.keys() ^ expected):
        state = "unknown" if different[0] in values else "missing"
        raise ValueError(
            f"The spec in {path} does not fit this version: {different[0]} is {state}, {len(different)} entries "
            "differ; train the teacher again, or use the version it was trained with."
        )
    try:
        _check_types(values)
        targets = values["target_modules"]
        encoder_record(values["encoder"])
        checked_peft_options(values["peft_options"])
        return TeacherSpec(
            **{
                **values,
                "image_size": image_size_hw(values["image_size"]),
                "target_modules": None if targets is None else tuple(targets),
            }
        )
    except ValueError as error:
        raise ValueError(f"The spec in {path} builds no teacher: {error} Copy the folder again.") from error


def _check_types(values: Mapping[str, Any]) -> None:
    for name, types in SPEC_FIELDS.items():
        if not is_a(values[name], *types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"Expected {name} to be {expected}, found {shown(values[name])}.")
    if not all(type(side) is int for side in values["image_size"]):
        raise ValueError(f"Expected image_size as two whole numbers, found {shown(values['image_size'])}.")
    if not all(isinstance(target, str) for target in values["target_modules"] or ()):
        raise ValueError(f"Expected target_modules to be names of layers, found {shown(values['target_modules'])}.")
    if not 2 <= values["num_classes"] <= MAX_CLASSES:
        raise ValueError(f"Expected num_classes of 2 to {MAX_CLASSES}, found {shown(values['num_classes'])}.")
    if not 0 <= values["seed"] < 2**63:
        raise ValueError(f"Expected a seed from 0 to 2^63 - 1, found {shown(values['seed'])}.")


def note_weights(folder: Path, weights: str) -> str:
    """Returns the weights' name for a record; the path of local ones is kept in a private file.

    Args:
        folder: folder of the teacher.
        weights: path or hub id, ``"shipped"``, ``"cached"`` or ``"random"``.
    """
    if weights in NAMED_WEIGHTS or not Path(weights).exists():
        return weights
    write_json(private_file(folder, PRIVATE_FILE.name), {"encoder_weights": str(Path(weights).absolute())})
    return Path(weights).name


def noted_weights(folder: Path, encoder: str, weights: str) -> str:
    """Returns the location of recorded weights: the path in the private file, else the name in the record.

    A record may be from somebody else, and a hub id is an address: only the encoder's own publisher is contacted.

    Args:
        folder: folder of the teacher.
        encoder: name in ``ENCODERS``.
        weights: name of the weights in the record.

    Raises:
        ValueError: if the record names a hub repository that is not the publisher's, or the private file is damaged.
    """
    if weights in NAMED_WEIGHTS:
        return weights
    private = folder / PRIVATE_FILE
    if private.is_file():
        advice = "remove it and pass encoder_weights"
        content = _read_object(private, advice)
        check_fields(content, {"encoder_weights": (str,)}, str(private), advice)
        return str(content["encoder_weights"])
    if Path(weights).exists() or "/" not in weights or weights == ENCODERS[encoder].source:
        return weights
    raise ValueError(
        f"The teacher in {folder} names {weights} for the weights of {encoder}, which are published at "
        f"{ENCODERS[encoder].source}; pass encoder_weights if you mean that other repository."
    )
