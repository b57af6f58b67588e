"""The options of a bundle: checks when its config starts, output folder and device, and quoting of values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite.distributed as idist
import torch
from fire.parser import DefaultParseValue

from tskd_monai.files.folder_lock import FolderInUseError, FolderLock, hold_folder, hold_shard
from tskd_monai.files.option_path import text_path
from tskd_monai.files.shard import parse_shard

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]
NONE = "$None"
"""How None is passed as an option: MONAI ignores a plain None."""
CODE_MARKS = ("$", "@", "%")
"""MONAI evaluates an option that begins with `$`, resolves `@name` in the config and reads the file of `%file`."""

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def end_with_the_reason() -> None:
    """Makes a command that fails end with the user's error; the first expression of a config.

    MONAI wraps the errors of a config's components in a `RuntimeError`, which comes last in the traceback.
    """
    if getattr(sys.excepthook, "func", None) is not _report:
        sys.excepthook = partial(_report, sys.excepthook)


def user_error(error: BaseException | None) -> BaseException | None:
    """Returns the first error of a chain that states what the user can do, or None if there is none: a bug of ours."""
    while error is not None and not isinstance(error, USER_ERRORS):
        error = error.__cause__ or error.__context__
    return error


def _report(hook: ExceptHook, kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    hook(kind, error, frames)
    cause = user_error(error)
    if cause is not None and cause is not error:
        sys.stderr.write(f"{type(cause).__name__}: {cause}\n")


def check_bundle_root(bundle_root: str | Path, paths: Mapping[str, str | Path | None] | None = None) -> None:
    """Raises FileNotFoundError naming `--bundle_root` if this is not a bundle's folder.

    Args:
        bundle_root: value of the option.
        paths: values of other options that name files or folders, by option; None values are skipped.

    Raises:
        ValueError: if a value is not a string: the command line has parsed a name as a number.
    """
    for option, path in (paths or {}).items():
        if path is not None:
            text_path(path, option)
    if not (text_path(bundle_root, "bundle_root") / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"Expected a bundle at {Path(bundle_root).resolve().name}/, found no configs/metadata.json there. "
            "Give --bundle_root with the folder that holds configs/."
        )


def hold_output_dir(output_dir: str | Path, shard: str | None = None) -> FolderLock | None:
    """Locks the output folder for this run, on rank 0 only.

    The config keeps the returned lock, as `lock`, until `release_output_dir` at its end.

    Args:
        output_dir: value of the option.
        shard: value of the option; None: nobody else may write to the folder.

    Raises:
        SystemExit: with one line that names the other process writing to it.
        ValueError: if an option is malformed.
        OSError: if the folder is not writable.
    """
    if idist.get_rank():
        return None
    folder, part = text_path(output_dir, "output_dir"), parse_shard(shard)
    try:
        return hold_folder(folder) if part is None else hold_shard(folder, part)
    except FolderInUseError as error:
        raise SystemExit(str(error)) from None


def release_output_dir(lock: FolderLock | None) -> None:
    """Lets other processes write to the output folder."""
    if lock is not None:
        lock.release()


def default_device() -> torch.device:
    """Returns the first GPU if there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def dataset_dir(datalist: str | Path | list[Any] | None) -> str:
    """Returns the folder that a datalist's paths are relative to: for a list of images, the working directory."""
    if isinstance(datalist, list):
        return str(Path.cwd())
    return str(text_path(datalist or ".", "datalist").resolve().parent)


def plain_option(name: str, value: Any) -> str:
    """Returns the string that the bundle runner's command line parses back as this value, always data and never code.

    A value from a command line, a file name or a datalist must never be evaluated.

    Args:
        name: name of the option.
        value: a path, string, number, truth value, None, list or dictionary. Strings are passed as they are. A path is
            always a name: one that the command line would parse otherwise is prefixed with `./`. `$None`, which sets an
            option to None, is the only expression accepted.

    Raises:
        ValueError: if MONAI would evaluate the value or a part of it.
    """
    if isinstance(value, Path):
        text = str(value)
        return f"./{text}" if _first_code(text) or DefaultParseValue(text) != text else text
    if value != NONE and (code := _first_code(value)):
        raise ValueError(
            f"Expected a plain value for --{name}, found {code!r}, which MONAI would evaluate; "
            "write ./ in front of a file's name that begins so."
        )
    return value if isinstance(value, str) else repr(value)


def _first_code(value: Any) -> str | None:
    """Returns the first part of a value, as the runner's command line parses it, that MONAI would evaluate."""
    if isinstance(value, str):
        read = DefaultParseValue(value)
        return value if isinstance(read, str) and read.startswith(CODE_MARKS) else _code_within(read)
    return _code_within(value)


def _code_within(value: Any) -> str | None:
    if isinstance(value, dict) and "_target_" in value:
        return f"_target_: {value['_target_']}"
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    found = (_first_code(part) for part in parts) if isinstance(parts, (dict, list, tuple, set)) else ()
    return next((code for code in found if code), None)
