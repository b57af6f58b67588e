"""What a bundle's config asks of the place it runs in."""

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

from tskd_monai.files.folder_lock import FolderInUseError, FolderLock, hold_folder
from tskd_monai.files.option_path import text_path

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]
NONE = "$None"
"""How None is written as an option: MONAI ignores a plain None."""
CODE_MARKS = ("$", "@", "%")
"""MONAI evaluates an option that begins with `$`, looks `@name` up in the config and reads the file of `%file`."""


USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def end_with_the_reason() -> None:
    """Has a command that fails end with what was wrong: a config's first step.

    MONAI wraps the errors of what a config names into a `RuntimeError` of its own, which comes last in a traceback.
    """
    if getattr(sys.excepthook, "func", None) is not _report:
        sys.excepthook = partial(_report, sys.excepthook)


def _report(former: ExceptHook, kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    former(kind, error, frames)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, USER_ERRORS):
        cause = cause.__cause__ or cause.__context__
    if cause is not None and cause is not error:
        sys.stderr.write(f"{type(cause).__name__}: {cause}\n")


def check_bundle_root(bundle_root: str | Path, paths: Mapping[str, str | Path | None] | None = None) -> None:
    """Raises FileNotFoundError naming `--bundle_root` when this is not a bundle's folder.

    Args:
        bundle_root: the option.
        paths: values of other options that name files or folders, or are None, by the option's name.

    Raises:
        ValueError: when one of them is no text: the command line has read a name as a number.
    """
    for option, path in (paths or {}).items():
        if path is not None:
            text_path(path, option)
    if not (text_path(bundle_root, "bundle_root") / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"Expected a bundle at {Path(bundle_root).resolve().name}/, found no configs/metadata.json there. "
            "Give --bundle_root with the folder that holds configs/."
        )


def hold_output_dir(output_dir: str | Path) -> FolderLock | None:
    """Takes the output folder for this run; of several processes the first one does.

    The config keeps what is returned, as `lock`, until `release_output_dir` at its end.

    Raises:
        SystemExit: with one line that says which other process writes there.
        ValueError: when the option is no text.
        OSError: when the folder takes no file.
    """
    if idist.get_rank():
        return None
    try:
        return hold_folder(text_path(output_dir, "output_dir"))
    except FolderInUseError as error:
        raise SystemExit(str(error)) from None


def release_output_dir(lock: FolderLock | None) -> None:
    """Lets other processes write to the output folder."""
    if lock is not None:
        lock.release()


def default_device() -> torch.device:
    """Returns the first GPU, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def dataset_dir(datalist: str | Path | None) -> str:
    """Returns the folder that a datalist's paths are relative to."""
    return str(text_path(datalist or ".", "datalist").resolve().parent)


def plain_option(name: str, value: Any) -> str:
    """Returns how the bundle runner's command line reads an option's value back, which is data and no code.

    A value that comes from a command line, a file's name or a datalist is not to run what somebody wrote into it.

    Args:
        name: of the option.
        value: a path, a string, taken as it is, or a number, truth value, None, list or dictionary. A path is a name
            whatever it looks like: `./` goes in front of one that the command line would read otherwise. `$None`,
            which sets an option to None, is the one expression that is not refused.

    Raises:
        ValueError: when MONAI would evaluate the value or a part of it.
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
    """Returns a part of a value, as the runner's command line reads it, that MONAI would evaluate."""
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
