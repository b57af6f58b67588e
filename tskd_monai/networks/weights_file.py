"""Weights files: reading from disk or the Hugging Face hub, strict loading, writing."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.file_kind import AGAIN, damaged_part, refuse_other_kinds

HUB_ID = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")
FILES_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
WRAPPERS = ("model", "teacher")
"""Keys under which training programs save a state dict, as those of SAM 2 and DINOv2 do."""
MAX_NAMES_IN_ERROR = 8


def locate_weights(weights: str | Path, published: Iterable[str] = ()) -> Path:
    """Returns the local weights file for a file, a Hugging Face model folder or a hub id.

    Args:
        weights: a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file; a folder with ``model.safetensors`` or
            ``pytorch_model.bin``; or a hub id such as ``facebook/sam-vit-base``, which is downloaded (and cached)
            with ``huggingface_hub``.
        published: further names of a weights file in a folder or repository, taken if it holds none of those.

    Raises:
        FileNotFoundError: if the file does not exist, or a folder or hub repository has no weights file.
    """
    path = Path(weights)
    names = (*FILES_IN_A_FOLDER, *published)
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"Expected {' or '.join(names)} in {path}, found none; pass the path of the file.")
    if HUB_ID.match(str(weights)) and path.suffix.lower() not in {".pth", ".pt", ".bin", ".safetensors"}:
        return _download(str(weights), names)
    raise FileNotFoundError(
        f"Weights {weights} not found; give an existing file, a Hugging Face model folder or a hub id (owner/name)."
    )


def _download(hub_id: str, names: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    unreachable: LocalEntryNotFoundError | None = None
    try:
        for name in names:
            try:
                return Path(hf_hub_download(hub_id, name, local_files_only=unreachable is not None))
            except LocalEntryNotFoundError as error:  # no network: the cache may hold another of the files
                unreachable = unreachable or error
            except EntryNotFoundError:
                continue
        if unreachable is not None:
            raise unreachable
    except (OSError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(
            f"Weights {hub_id} are no local path and could not be fetched from the Hugging Face hub "
            f"({' '.join(str(error).split())}); check the spelling, the network and whether the publisher asks for a "
            "registration, or download the file and pass its path."
        ) from error
    raise FileNotFoundError(
        f"Expected {' or '.join(names)} in hub repository {hub_id}, found none; download the file and pass its path."
    )


def check_not_packed(path: str | Path) -> None:
    """Refuses a compressed torch file, which could unpack to any size.

    ``torch.save`` stores tensors uncompressed, but ``torch.load`` also unpacks compressed ones: a file of kilobytes
    could exhaust memory.

    Args:
        path: path of a file for ``torch.load``; formats other than zip are not checked.

    Raises:
        ValueError: if a part is compressed, or the parts are larger than the file.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError):  # torch reports the fault
        return
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError(
            f"Expected {path.name} as torch.save writes it, found {len(packed)} compressed parts that unpack to more "
            "than the file; get it from a source you trust, or save it again."
        )


def check_weights_file(path: Path) -> None:
    """Refuses a file that is not suitable for `torch.load` or safetensors.

    Raises:
        ValueError: when it is of another kind, truncated, damaged, or compressed; names the fault and what to do.
    """
    refuse_other_kinds(path)
    check_not_packed(path)
    if path.suffix != ".safetensors" and (part := damaged_part(path)) is not None:
        raise ValueError(f"Expected weights in {path}, found a file that is damaged (in {part}); {AGAIN}.")


def load_torch_file(path: Path) -> Any:
    """Returns the content of a file that `torch.save` wrote, on the CPU: tensors and plain containers.

    torch's own message for a file it refuses explains how to load it unsafely, so it is not shown.

    Raises:
        ValueError: when it cannot be read, or contains other objects.
    """
    check_weights_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError:
        reason = "that is damaged, truncated or holds more than tensors, which could run code and is not loaded"
    except Exception:  # torch raises many types for damaged bytes and documents few
        reason = "that is damaged, truncated or of another kind"
    raise ValueError(f"Expected weights in {path}, found a file {reason}; {AGAIN}, from a source you trust.")


def load_safetensors_file(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name, on the CPU.

    Raises:
        ValueError: when it cannot be read.
    """
    check_weights_file(path)
    try:
        return load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # safetensors raises several types for damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"Expected weights in {path}, found a file that is damaged, truncated or of another kind ({reason}); "
            f"{AGAIN}."
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a weights file by name, on the CPU; a pickle is read with ``weights_only=True``.

    A state dict under the key ``model`` or ``teacher`` of a checkpoint is read as one.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be read or does not contain a mapping from names to tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected weights at {path}, found none.")
    if path.suffix == ".safetensors":
        return load_safetensors_file(path)
    content = load_torch_file(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected a mapping from names to tensors in {path}, found {type(content).__name__}.")
    content = _unwrapped(content)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"Expected a mapping from names to tensors in {path}, found {name!r} with a {type(value).__name__}; "
                "save only the model's state dict."
            )
    return dict(content)


def _unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Returns the state dict inside a checkpoint; content with tensors of its own is returned unchanged."""
    wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
    is_checkpoint = len(wrapped) == 1 and not any(isinstance(value, Tensor) for value in content.values())
    return wrapped[0] if is_checkpoint else content


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors as a safetensors file, atomically.

    Args:
        path: path of the file; its folder is created if missing.
        state: tensors by name.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_safetensors(tensors, metadata={"format": "pt"}))


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads a state dict, converting to the module's dtype.

    Args:
        module: module that receives the values.
        state: exactly the module's entries.
        source: path of the weights, for error messages.

    Raises:
        ValueError: if entries are missing, unexpected or of the wrong shape; names them.
    """
    own = module.state_dict()
    problems = []
    if missing := sorted(own.keys() - state.keys()):
        problems.append(f"missing {_shorten(missing)}")
    if unexpected := sorted(state.keys() - own.keys()):
        problems.append(f"unexpected {_shorten(unexpected)}")
    wrong = [
        f"{name} (expected {tuple(own[name].shape)}, found {tuple(state[name].shape)})"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if wrong:
        problems.append(f"wrong shape {_shorten(wrong)}")
    if problems:
        raise ValueError(f"Weights in {source} do not fit {type(module).__name__}: {'; '.join(problems)}.")
    module.load_state_dict(state, strict=True)


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_IN_ERROR])
    more = len(names) - MAX_NAMES_IN_ERROR
    return f"{shown} and {more} more" if more > 0 else shown
