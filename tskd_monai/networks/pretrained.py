"""Pre-trained encoders, built at the image size of a task from checked weights.

Weights are never downloaded unless a hub id is passed; only those of the small demo encoder are shipped, and those of
LiteMedSAM are fetched by `tskd teachers get`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.file_kind import refuse_other_kinds
from tskd_monai.files.shipped import ROOT
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord, encoder_record
from tskd_monai.networks.encoders import ImageEncoder, image_size_hw
from tskd_monai.networks.vit_student import VitStudent
from tskd_monai.networks.weights_cache import cached_weights
from tskd_monai.networks.weights_file import load_strictly, locate_weights, read_weights

logger = logging.getLogger(__name__)

RANDOM = "random"
SHIPPED = "shipped"
CACHED = "cached"
NAMED_WEIGHTS = (RANDOM, SHIPPED, CACHED)
"""Weights named by a word; all others are a file, a folder or a hub id."""


def shipped_weights(name: str) -> Path:
    """Returns the path of the weights that are shipped with this project.

    Raises:
        ValueError: if the encoder's weights are not shipped; states what to pass instead.
        FileNotFoundError: if the file is missing, as in an installation without the bundles.
    """
    record = encoder_record(name)
    if record.shipped is None:
        published = " or ".join(source for source in (record.source, record.url) if source)
        raise ValueError(
            f"Weights of {name} are not shipped: pass encoder weights (a file, a Hugging Face folder or a hub id; "
            f"published at {published}), or 'random' for an untrained control."
        )
    path = ROOT / record.shipped
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the shipped weights of {name} at {path}, found none; install the project's wheel or "
            f"work in a checkout, or pass the path of {path.name}."
        )
    return path


def build_encoder(
    name: str,
    weights: str | Path | None,
    image_size: int | Sequence[int],
    *,
    seed: int = 0,
    weights_sha256: str | None = None,
) -> ImageEncoder:
    """Builds an encoder with its pre-trained weights at the image size of a task.

    Args:
        name: key of ``encoder_records.ENCODERS``.
        weights: file, Hugging Face folder or hub id; ``None`` or ``"shipped"`` for the shipped or else the cached
            file; ``"cached"`` for the file that ``tskd teachers get`` has fetched; ``"random"`` for an untrained
            encoder as a control.
        image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024; positions are interpolated to it.
        seed: seed of random weights; not used for loaded ones.
        weights_sha256: expected sha256 of the weights file; by default that of the record for a file of this name.

    Raises:
        ValueError: if the name is unknown, the weights do not fit strictly, cannot be read or have another sha256, the
            image size is invalid, or ``weights`` is ``None`` and none are shipped.
        FileNotFoundError: if the weights are missing.
    """
    record = encoder_record(name)
    size = image_size_hw(image_size)
    path = weights_path(name, weights)
    if path is not None:
        _check_file(record, path, weights_sha256)
    # Building draws random numbers in either case; the caller's generator is restored.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _build(record)
        if path is None:
            encoder.initialise_randomly()
    if path is not None:
        _load(encoder, record, path)
        logger.info("Loaded %s from %s.", name, path.name)
    encoder.resize_to(size)
    return encoder


def weights_path(name: str, weights: str | Path | None) -> Path | None:
    """Returns the weights file that :func:`build_encoder` would read, or ``None`` for random weights.

    Raises:
        ValueError: if ``weights`` is ``None`` or ``"shipped"`` and none are shipped, or ``"cached"`` and there is
            nothing to fetch.
        FileNotFoundError: if there is no such file.
    """
    source = named_weights(name, weights)
    if source == RANDOM:
        return None
    if source == CACHED:
        return cached_weights(encoder_record(name))
    return shipped_weights(name) if source == SHIPPED else locate_weights(source, encoder_record(name).files)


def named_weights(name: str, weights: str | Path | None) -> str:
    """Returns the weights under the name that a record keeps: ``None`` is what an encoder comes with.

    Args:
        name: key of ``encoder_records.ENCODERS``.
        weights: as in :func:`build_encoder`.

    Raises:
        ValueError: if the encoder is unknown.
    """
    if weights is None or weights == SHIPPED:
        return SHIPPED if encoder_record(name).packaged is None else CACHED
    return str(weights)


def encoder_of(weights: str | Path) -> str:
    """Returns the name of the encoder that a file or a Hugging Face folder holds the weights of.

    Args:
        weights: a file, or a folder with ``model.safetensors``, ``pytorch_model.bin`` or a published file.

    Raises:
        ValueError: if it fits no known encoder or several, which differ in the normalisation of images; names them.
        FileNotFoundError: if there is no such file.
    """
    published = {file: record.name for record in ENCODERS.values() for file in record.files}
    path = locate_weights(weights, published)
    if path.name in published:
        return published[path.name]
    fitting = _fitting_encoders(read_weights(path), path)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{weights} fits {', '.join(fitting)}: choose one, as in {fitting[0]}={weights}.")
    raise ValueError(
        f"Expected weights of a known encoder in {path}, found others; `tskd teachers` lists the known ones, and "
        "bundles/teacher_lora/docs/README.md says how to add another foundation model."
    )


def load_encoder_weights(student: nn.Module, weights: str | Path) -> None:
    """Loads published weights into a ViT student's encoder, strictly; positions are interpolated to its image size.

    Args:
        student: a ViT.
        weights: a file with timm's names, a Hugging Face folder or a hub id.

    Raises:
        ValueError: when the student is not a ViT, or the weights do not fit.
        FileNotFoundError: when the weights are missing.
    """
    if not isinstance(student, VitStudent):
        raise ValueError(
            f"Expected the student vit_tiny for --encoder_weights, found a {type(student).__name__}, which has no "
            "published weights; leave --encoder_weights out."
        )
    published = build_encoder(student.record, weights, student.encoder.image_size)
    load_strictly(student.encoder, published.state_dict(), weights)


def _build(record: EncoderRecord) -> ImageEncoder:
    return record.architecture.build(record.image_size, record.mean, record.std)


def _check_file(record: EncoderRecord, path: Path, weights_sha256: str | None) -> None:
    """Checks that a file does not have the name of another encoder's weights, and that it has the expected sha256.

    Two encoders may share an architecture and differ in the normalisation of images, which strict loading does not
    detect.
    """
    for other in ENCODERS.values():
        if path.name in other.files and path.name not in record.files:
            raise ValueError(
                f"Expected weights of {record.name}, found {path}, which has the name of the published file of "
                f"{other.name}; choose encoder {other.name}, or rename the file if it holds something else."
            )
    refuse_other_kinds(path)
    expected = weights_sha256 or record.files.get(path.name)
    if expected is not None and (found := file_sha256(path)) != expected:
        raise ValueError(
            f"Expected {path} to have sha256 {expected}, found {found}: the file is damaged or another one; "
            f"{_advice(record)}, or, if it is meant to differ, give it another name or pass its own sha256."
        )


def _load(encoder: ImageEncoder, record: EncoderRecord, path: Path) -> None:
    state = read_weights(path)
    try:
        load_strictly(encoder.backbone, record.architecture.backbone_entries(state, path), path)
    except ValueError as error:
        fitting = _fitting_encoders(state, path)
        if fitting:
            raise ValueError(
                f"Expected weights of {record.name} in {path}, found those of {' or '.join(fitting)}: choose that "
                "encoder, or another file."
            ) from error
        raise ValueError(f"{error} It fits no known encoder.") from error


def _advice(record: EncoderRecord) -> str:
    if record.packaged is not None:
        return f"run `tskd teachers get {record.name}`"
    return f"download it again from {record.url or record.source}"


def _fitting_encoders(state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Returns the names of the encoders whose entries a file contains, by name and shape."""
    fitting = []
    for record in ENCODERS.values():
        try:
            entries = record.architecture.backbone_entries(state, path)
        except ValueError:
            continue
        with torch.device("meta"):
            expected = {name: value.shape for name, value in _build(record).backbone.state_dict().items()}
        if {name: value.shape for name, value in entries.items()} == expected:
            fitting.append(record.name)
    return fitting
