"""Attacks by weights, caches and adapters."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from monai.handlers import CheckpointLoader
from peft import PeftModel
from safetensors.torch import load_file

from tests.attacks.attack import Attack, Payload, marker, no_op, peak_bytes
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.distillation import target_cache
from tskd_monai.distillation.target_cache import TargetCache
from tskd_monai.inference.handlers import existing_checkpoint
from tskd_monai.networks import weights_file
from tskd_monai.networks.adapter_folder import load_adapter, save_adapter
from tskd_monai.networks.lora import add_lora, lora_slot
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher_folder import noted_weights
from tskd_monai.networks.weights_file import read_weights
from tskd_monai.training.checkpoint import load_checkpoint

Monkey = pytest.MonkeyPatch
MEGABYTE = 1 << 20
TASK = Task(
    "tiny", (Label(0, "background"), Label(1, "liver")), 1, (32, 32), (1, 1), "PLS", Intensity("percentile", 1, 99)
)


def _pickle(name: str) -> Any:
    def plant(folder: Path) -> Path:
        torch.save({"weight": Payload()}, folder / name)
        return folder / name

    return plant


def _unpickled(path: Path, monkey: Monkey) -> bool:
    torch.load(path, weights_only=False)
    return marker().exists()


def _monai_loads(path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    loader = CheckpointLoader(existing_checkpoint(path), {"model": network}, map_location="cpu")
    loader(None)  # type: ignore[arg-type]  # an engine is of no use to it


def _packed(folder: Path) -> Path:
    """64 MB of zeros, deflated to kilobytes."""
    torch.save({"weight": torch.zeros(16 * MEGABYTE)}, folder / "whole.pt")
    path = folder / "model.pt"
    with zipfile.ZipFile(folder / "whole.pt") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, whole.read(part))
    (folder / "whole.pt").unlink()
    assert path.stat().st_size < MEGABYTE
    return path


def _unpacked(path: Path, monkey: Monkey) -> bool:
    monkey.setattr(weights_file, "check_not_packed", no_op)
    return read_weights(path)["weight"].nbytes > 100 * path.stat().st_size


def _torchscript(folder: Path) -> Path:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(folder / "model.pt"))
    return folder / "model.pt"


def _tar_weights(folder: Path) -> Path:
    """The format of the first torch versions, which is extracted while being read."""
    with tarfile.open(folder / "model.pt", "w:") as archive:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            info = tarfile.TarInfo(name)
            archive.addfile(info, io.BytesIO())
    return folder / "model.pt"


def _extracts(path: Path, monkey: Monkey) -> bool:
    extracted: list[str] = []
    monkey.setattr(tarfile.TarFile, "extract", lambda self, member, **options: extracted.append(str(member)))
    with pytest.raises(FileNotFoundError):  # what the stand-in did not extract
        torch.load(path, weights_only=False)
    return extracted == ["storages"]


def _lying_safetensors(folder: Path) -> Path:
    stated = {"weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(stated).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return folder / "model.safetensors"


def _lying_header_length(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**12) + bytes(16))
    return folder / "model.safetensors"


def _naive_safetensors(path: Path, monkey: Monkey) -> bool:
    """Reads as a reader would that trusts the header."""
    with pytest.raises(Exception, match="."):  # safetensors itself compares the header with the file
        load_file(path)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            return _takes_memory(length)
        stated = json.loads(file.read(length))["weight"]
    return _takes_memory(int(np.prod(stated["shape"])) * 4)


def _takes_memory(size: int) -> bool:
    with pytest.raises(MemoryError):
        np.ones(size, np.uint8)
    return True


IMAGE = torch.zeros(1, 32, 32)


def _ask_cache(folder: Path) -> None:
    """A damaged cached target is ignored: the teacher is run again."""
    if _cache_of_zeros(folder).read(IMAGE) is None:
        raise ValueError("refused: the teacher is run again")


def _cache_of_zeros(folder: Path) -> TargetCache:
    teacher = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(teacher.weight)
    torch.nn.init.zeros_(teacher.bias)
    return TargetCache(folder, teacher, TASK)  # type: ignore[arg-type]  # only its weights are asked for


def _target(folder: Path, foreground: bytes) -> Path:
    with zipfile.ZipFile(_cache_of_zeros(folder).path(IMAGE), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("foreground.npy", foreground)
        archive.writestr("features.npy", _npy((1, 1, 1), b"0"))
    return folder


def _npy(shape: tuple[int, ...], content: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def _pickled_array(folder: Path) -> Path:
    stream = io.BytesIO()
    np.save(stream, np.array([Payload()], dtype=object), allow_pickle=True)
    return _target(folder, stream.getvalue())


def _unpickled_array(folder: Path, monkey: Monkey) -> bool:
    with np.load(_cache_of_zeros(folder).path(IMAGE), allow_pickle=True) as content:
        return content["foreground"] is not None and marker().exists()


def _lying_array(folder: Path) -> Path:
    return _target(folder, _npy((10**6, 10**6), b"0"))


def _believed_array(folder: Path, monkey: Monkey) -> bool:
    with np.load(_cache_of_zeros(folder).path(IMAGE)) as content, pytest.raises(MemoryError):
        content["foreground"]
    return True


def _packed_array(folder: Path) -> Path:
    size = target_cache.MAX_TARGET_BYTES + 1
    return _target(folder, _npy((size,), bytes(size)))


def _unpacked_array(folder: Path, monkey: Monkey) -> bool:
    monkey.setattr(target_cache, "MAX_TARGET_BYTES", 1 << 40)
    return peak_bytes(lambda: _cache_of_zeros(folder).read(IMAGE)) > 100 * MEGABYTE


def _encoder() -> Any:
    return build_encoder("sam_demo", "random", 32)


def _importing_adapter(folder: Path) -> Path:
    """An adapter whose config names a module for peft to import; Python finds it in the working folder."""
    save_adapter(add_lora(_encoder(), rank=1), folder)
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), "megatron_config": {"a": 1}, "megatron_core": "megatron.planted"}
    path.write_text(json.dumps(config))
    (folder / "megatron").mkdir()
    (folder / "megatron" / "planted.py").write_text("import os; open(os.environ['TSKD_ATTACK_MARKER'], 'w').close()")
    return folder


def _imports(folder: Path, monkey: Monkey) -> bool:
    monkey.syspath_prepend(str(folder))
    encoder = _encoder()
    with pytest.raises(AttributeError):  # what peft needs from the module it has imported
        PeftModel.from_pretrained(encoder.get_submodule(lora_slot(encoder)), str(folder))
    return marker().exists()


def _downloads(folder: Path, monkey: Monkey) -> bool:
    """Without the guard the record's address is opened."""
    asked: list[str] = []

    def hub(hub_id: str, name: str, **options: bool) -> str:
        asked.append(hub_id)
        return str(folder)

    monkey.setattr(huggingface_hub, "hf_hub_download", hub)
    weights_file.locate_weights("somebody/planted")
    return asked == ["somebody/planted"]


ROWS = [
    Attack("pickle in .pt", _pickle("model.pt"), read_weights, "Expected weights in", _unpickled),
    Attack("pickle in .pth", _pickle("sam.pth"), read_weights, "Expected weights in", _unpickled),
    Attack("pickle in .bin", _pickle("pytorch_model.bin"), read_weights, "Expected weights in", _unpickled),
    Attack("pickle in a checkpoint", _pickle("last.pt"), load_checkpoint, "readable checkpoint", _unpickled),
    Attack("pickle in model.pt for MONAI's loader", _pickle("model.pt"), _monai_loads, ".", _unpickled, (Exception,)),
    Attack("packed .pt", _packed, read_weights, "found .* compressed parts", _unpacked),
    Attack("packed checkpoint", _packed, load_checkpoint, "found .* compressed parts", _unpacked),
    Attack("packed model.pt for MONAI's loader", _packed, _monai_loads, "found .* compressed parts", _unpacked),
    Attack(
        "program in model.pt", _torchscript, read_weights, "Expected model.pt as", lambda p, m: torch.jit.load(str(p))
    ),
    Attack("tar in model.pt", _tar_weights, read_weights, "Expected weights in", _extracts),
    Attack("safetensors of 10^12 values", _lying_safetensors, read_weights, "Expected weights in", _naive_safetensors),
    Attack("safetensors header of 10^12 bytes", _lying_header_length, read_weights, "weights in", _naive_safetensors),
    Attack("pickle in .npy of the cache", _pickled_array, _ask_cache, "refused", _unpickled_array),
    Attack(".npy of 10^12 values in the cache", _lying_array, _ask_cache, "refused", _believed_array),
    Attack("packed .npz in the cache", _packed_array, _ask_cache, "refused", _unpacked_array),
    Attack(
        "adapter that names a module to import",
        _importing_adapter,
        lambda folder: load_adapter(_encoder(), folder),
        "Expected plain LoRA in",
        _imports,
    ),
    Attack(
        "teacher record with a stranger's address",
        lambda folder: folder,
        lambda folder: noted_weights(folder, "sam_vit_base", "somebody/planted"),
        "names somebody/planted for the weights of sam_vit_base",
        _downloads,
    ),
]
