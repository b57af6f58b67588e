"""Building a teacher from the numbers in a config, and the folder a trained teacher lives in.

``adapter/`` (peft), ``decoder.safetensors`` and ``teacher.json``. The encoder's own weights are not copied: the record
says which they were, by name, path and sha256, and loading refuses any others. Only full fine-tuning, which changes
them, writes ``encoder.safetensors`` in the adapter's place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn

from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.lora import (
    ADAPTER_FILES,
    add_lora,
    base_encoder_sha256,
    has_lora,
    load_adapter,
    save_adapter,
)
from tskd_monai.networks.plain_vit import PlainVitEncoder
from tskd_monai.networks.pretrained import RANDOM, SHIPPED, build_encoder, weights_path
from tskd_monai.networks.sam_encoder import SamEncoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder, has_decoder_entries, initialise_from_sam
from tskd_monai.networks.segmenter import VfmSegmenter
from tskd_monai.networks.weights_file import file_sha256, load_strictly, read_weights

logger = logging.getLogger(__name__)

DECODERS = ("light", "sam")
TUNINGS = ("lora", "full", "decoder")
ADAPTER_FOLDER = "adapter"
DECODER_FILE = "decoder.safetensors"
ENCODER_FILE = "encoder.safetensors"
RECORD_FILE = "teacher.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TeacherSpec:
    """Everything a teacher is built from, as plain JSON values.

    Attributes:
        encoder: name in ``pretrained.ENCODERS``.
        encoder_weights: path or hub id, ``"shipped"`` or ``"random"``.
        weights_sha256: of the weights file; ``None`` for random weights.
        image_size: ``(H, W)`` in pixels.
        num_classes: background included.
        decoder: ``"light"`` or ``"sam"``.
        tuning: ``"lora"``, ``"full"`` or ``"decoder"``.
        rank: of LoRA.
        alpha: LoRA's scale is ``alpha / rank``.
        dropout: of LoRA.
        target_modules: LoRA's targets; ``None`` for the encoder's own.
        seed: of everything drawn at random while building.
    """

    encoder: str
    encoder_weights: str
    weights_sha256: str | None
    image_size: tuple[int, int]
    num_classes: int
    decoder: str
    tuning: str
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | None
    seed: int


def build_teacher(
    *,
    encoder: str,
    encoder_weights: str | Path | None,
    image_size: int | Sequence[int],
    num_classes: int,
    decoder: str = "light",
    tuning: str = "lora",
    rank: int = 4,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    seed: int = 0,
) -> VfmSegmenter:
    """Builds a teacher that is ready to be trained: a frozen encoder, fresh LoRA, a new decoder.

    Args:
        encoder: name in ``pretrained.ENCODERS``.
        encoder_weights: file, Hugging Face folder or hub id; ``None`` or ``"shipped"`` for the shipped file;
            ``"random"`` for the untrained control.
        image_size: the task's side or ``(H, W)`` in pixels, multiples of 16.
        num_classes: background included.
        decoder: ``"light"`` (multi-level, full-resolution stem) or ``"sam"`` (mask decoder, one token per class; it
            starts from SAM's own where the weights hold it).
        tuning: what is trained besides the decoder: ``"lora"`` (adapters in the frozen encoder), ``"full"`` (the whole
            encoder) or ``"decoder"`` (nothing).
        rank: of LoRA.
        alpha: LoRA's scale is ``alpha / rank``; ``2 * rank`` unless given.
        dropout: of LoRA.
        target_modules: LoRA's targets; the encoder's ``default_lora_targets`` unless given.
        seed: of a random encoder, the adapter and the decoder.

    Raises:
        ValueError: on a wrong name or number, or weights that do not fit.
        FileNotFoundError: if weights are missing.
    """
    if tuning not in TUNINGS:
        raise ValueError(f"Expected tuning to be one of {', '.join(TUNINGS)}, found {tuning!r}.")
    path = weights_path(encoder, encoder_weights)
    spec = TeacherSpec(
        encoder=encoder,
        encoder_weights=SHIPPED if encoder_weights is None else str(encoder_weights),
        weights_sha256=None if path is None else file_sha256(path),
        image_size=image_size_hw(image_size),
        num_classes=num_classes,
        decoder=decoder,
        tuning=tuning,
        rank=rank,
        alpha=2.0 * rank if alpha is None else float(alpha),
        dropout=dropout,
        target_modules=None if target_modules is None else tuple(target_modules),
        seed=seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = _build_frozen(spec, path)
        if tuning == "lora":
            add_lora(segmenter.encoder, rank=rank, alpha=spec.alpha, dropout=dropout, target_modules=target_modules)
        elif tuning == "full":
            segmenter.encoder.requires_grad_(True)
    if isinstance(segmenter.decoder, SamMaskDecoder) and path is not None:
        _start_from_sam(segmenter.decoder, path)
    return segmenter


def _build_frozen(spec: TeacherSpec, path: Path | None) -> VfmSegmenter:
    """Builds the untrained segmenter without LoRA."""
    encoder = build_encoder(spec.encoder, RANDOM if path is None else path, spec.image_size, seed=spec.seed)
    encoder.requires_grad_(False)
    return VfmSegmenter(encoder, _build_decoder(spec, encoder), spec)


def _build_decoder(spec: TeacherSpec, encoder: SamEncoder | PlainVitEncoder) -> LightDecoder | SamMaskDecoder:
    if spec.decoder == "light":
        return LightDecoder(encoder.feature_channels, encoder.embed_dim, spec.num_classes)
    if spec.decoder == "sam":
        return SamMaskDecoder(encoder.embed_dim, spec.num_classes)
    raise ValueError(f"Expected decoder to be one of {', '.join(DECODERS)}, found {spec.decoder!r}.")


def _start_from_sam(decoder: SamMaskDecoder, path: Path) -> None:
    state = read_weights(path)
    if has_decoder_entries(state):
        initialise_from_sam(decoder, state, path)
        logger.info("The mask decoder starts from the one in %s.", path.name)
    else:
        logger.info("%s holds no mask decoder; the decoder starts from random weights.", path.name)


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
    if has_lora(segmenter.encoder) != (spec.tuning == "lora"):
        raise ValueError("Expected the teacher's LoRA in its encoder, found it merged; save before merging.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if spec.tuning == "lora":
        save_adapter(segmenter.encoder, folder / ADAPTER_FOLDER)
    elif spec.tuning == "full":
        _write_weights(segmenter.encoder.backbone, folder / ENCODER_FILE)
    _write_weights(segmenter.decoder, folder / DECODER_FILE)
    content = {
        "format_version": FORMAT_VERSION,
        "task_hash": task_hash,
        "spec": asdict(spec),
        "base_encoder_sha256": base_encoder_sha256(segmenter.encoder),
        "files": {name: file_sha256(folder / name) for name in _files(spec)},
        "record": dict(record or {}),
    }
    temporary = folder / f".{RECORD_FILE}.writing"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RECORD_FILE)


def _write_weights(module: nn.Module, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(to_safetensors(state))
    temporary.replace(path)


def _files(spec: TeacherSpec) -> list[str]:
    adapter = [f"{ADAPTER_FOLDER}/{name}" for name in ADAPTER_FILES]
    return [*{"lora": adapter, "full": [ENCODER_FILE], "decoder": []}[spec.tuning], DECODER_FILE]


def read_teacher_record(folder: str | Path) -> dict[str, Any]:
    """Returns the content of ``teacher.json``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its format is another.
    """
    path = Path(folder) / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"Expected {RECORD_FILE} in the teacher folder {folder}, found none; train one first.")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {path}, found {content.get('format_version')}; "
            "train the teacher again with this version."
        )
    return content


def load_teacher(
    folder: str | Path,
    encoder_weights: str | Path | None = None,
    *,
    task_hash: str | None = None,
    trainable: bool = False,
) -> VfmSegmenter:
    """Loads a trained teacher, in evaluation mode and frozen unless ``trainable``.

    Args:
        folder: written by :func:`save_teacher`.
        encoder_weights: where the encoder's weights are now, if they have moved.
        task_hash: of the task at hand; a teacher of another task is refused.
        trainable: whether LoRA and decoder require a gradient.

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
    spec = _spec_from_json(content["spec"])
    _check_files(folder, content["files"])
    path = _recorded_weights(spec, encoder_weights, folder)
    if encoder_weights is not None:
        spec = replace(spec, encoder_weights=str(encoder_weights))
    with torch.random.fork_rng(devices=[]):
        segmenter = _build_frozen(spec, path)
        if spec.tuning == "lora":
            load_adapter(segmenter.encoder, folder / ADAPTER_FOLDER, trainable=trainable)
        elif spec.tuning == "full":
            load_strictly(segmenter.encoder.backbone, load_file(folder / ENCODER_FILE), folder / ENCODER_FILE)
    if (found := base_encoder_sha256(segmenter.encoder)) != content["base_encoder_sha256"]:
        raise ValueError(
            f"The encoder rebuilt for {folder} differs from the one trained on (sha256 {found[:12]}, expected "
            f"{content['base_encoder_sha256'][:12]}); use the same weights and, for random or resized ones, the same "
            "torch version."
        )
    load_strictly(segmenter.decoder, load_file(folder / DECODER_FILE), folder / DECODER_FILE)
    if not trainable:
        segmenter.requires_grad_(False)
    elif spec.tuning == "full":
        segmenter.encoder.requires_grad_(True)
    return segmenter.eval()


def _spec_from_json(values: Mapping[str, Any]) -> TeacherSpec:
    targets = values["target_modules"]
    sequences = {
        "image_size": tuple(values["image_size"]),
        "target_modules": None if targets is None else tuple(targets),
    }
    return TeacherSpec(**{**values, **sequences})


def _check_files(folder: Path, recorded: Mapping[str, str]) -> None:
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"Expected {name} in the teacher folder {folder}, found none.")
        if (found := file_sha256(path)) != expected:
            raise ValueError(
                f"{path} has sha256 {found[:12]}, {RECORD_FILE} says {expected[:12]}: the files are not of one "
                "saving; copy the folder again or repeat the last step of training."
            )


def _recorded_weights(spec: TeacherSpec, encoder_weights: str | Path | None, folder: Path) -> Path | None:
    """Returns the weights file the teacher was trained on, checked by sha256; ``None`` for random weights."""
    try:
        path = weights_path(spec.encoder, spec.encoder_weights if encoder_weights is None else encoder_weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The teacher in {folder} needs the {spec.encoder} weights {spec.encoder_weights}, which are not there; "
            f"pass encoder_weights. ({error})"
        ) from error
    found = None if path is None else file_sha256(path)
    if found != spec.weights_sha256:
        raise ValueError(
            f"The teacher in {folder} was trained on {spec.encoder} weights with sha256 {spec.weights_sha256}, found "
            f"{found} ({path}); pass encoder_weights with the path of the right file."
        )
    return path
