"""A file that is not a weights file is recognised as what it is, by every loader of a network."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher
from tskd_monai.networks.weights_file import read_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 830000\n"
STATE = {"weight": torch.arange(4000.0).reshape(40, 100)}
KINDS = {
    "lfs": (POINTER, r"a Git LFS pointer, which stands for the file; fetch the file itself with `git lfs pull`\."),
    "annex": (b"/annex/objects/SHA256E-s8--00.pt\n", "a git-annex pointer.*`git annex get`"),
    "html": (b"\n <!DOCTYPE html><html>404</html>", "a web page, as left by a failed download; download it again"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "text": (b"Repository not found\n", "a text file; copy or download it again"),
    "json": (b'{"error": "Repository not found"}', "a text file"),
    "empty": (b"", "an empty file; copy or download it again"),
    "gzip": (gzip.compress(bytes(100)), "a gzip archive; unpack it"),
}


@pytest.mark.parametrize("name", ["model.pt", "w.pth", "w.bin", "w.safetensors"])
@pytest.mark.parametrize(("content", "found"), KINDS.values(), ids=KINDS)
def test_each_kind_is_named(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"Expected weights in .*{name}, found {found}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["model.pt", "w.safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_cut_file_is_named(tmp_path: Path, name: str, kept: float) -> None:
    (torch.save if name == "model.pt" else save_file)(STATE, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"Expected weights in .*{name}, found a file that is damaged.* truncated"):
        read_weights(tmp_path / name)


def test_one_changed_byte_of_a_weight_is_found(tmp_path: Path) -> None:
    """Torch loads such a file, with a changed number in it."""
    torch.save(STATE, tmp_path / "model.pt")
    whole = bytearray((tmp_path / "model.pt").read_bytes())
    position = whole.find(STATE["weight"].numpy().tobytes()[:200])
    whole[position + 100] ^= 0xFF
    (tmp_path / "model.pt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"model\.pt, found a file that is damaged \(in model/data/0\)"):
        read_weights(tmp_path / "model.pt")


def test_a_format_under_the_others_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(save(STATE))
    torch.save(STATE, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.pt, found a safetensors file under another name; .*\.safetensors"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.safetensors, found a file of torch under another name"):
        read_weights(tmp_path / "w.safetensors")


def test_a_zip_of_something_else_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("model.pt", bytes(100))
    with pytest.raises(ValueError, match="found a zip archive that torch did not write; unpack it"):
        read_weights(tmp_path / "w.pt")


def test_published_weights_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    for name in ("model.safetensors", "sam_vit_b_01ec64.pth"):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(ValueError, match=rf"Expected weights in .*{name}, found a Git LFS pointer"):
            build_encoder("sam_vit_base", tmp_path / name, 32)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "decoder.safetensors", "encoder"])
def test_a_teacher_whose_weights_were_not_fetched_is_named(tmp_path: Path, name: str) -> None:
    backbone = build_encoder("sam_demo", "random", 128).backbone
    weights = tmp_path / "encoder.safetensors"
    save_file({f"vision_encoder.{key}": value for key, value in backbone.state_dict().items()}, weights)
    teacher = build_teacher(encoder="sam_demo", encoder_weights=weights, image_size=32, num_classes=2, rank=2)
    save_teacher(teacher, tmp_path / "teacher", task_hash="a" * 64)
    (weights if name == "encoder" else tmp_path / "teacher" / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=rf"Expected weights in .*{Path(name).stem}.*, found a Git LFS pointer"):
        load_teacher(tmp_path / "teacher")
