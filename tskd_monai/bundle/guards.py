"""Checks, seeds and locks of a training run: made before it starts, released at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tskd_monai.bundle.options import check_bundle_root, hold_output_dir, release_output_dir
from tskd_monai.files.folder_lock import FolderLock
from tskd_monai.training.determinism import seed_generators, use_deterministic_algorithms
from tskd_monai.training.distributed import start_process_group, stop_process_group


class RunGuards:
    """Holds the lock of the output folder and the membership of the process group until `release`.

    Args:
        lock: lock of the output folder; None: the folder is not locked.
        distributed: whether this process has joined a process group.
    """

    def __init__(self, lock: FolderLock | None, distributed: bool) -> None:
        self.lock, self.distributed = lock, distributed

    def release(self) -> None:
        """Unlocks the output folder, then leaves the process group."""
        release_output_dir(self.lock)
        self.lock = None
        if self.distributed:
            self.distributed = False
            stop_process_group()


def guard_run(
    bundle_root: str | Path,
    output_dir: str | Path,
    seed: int,
    deterministic: bool = False,
    paths: Mapping[str, str | Path | None] | None = None,
    distributed: bool = False,
    hold_output: bool = True,
) -> RunGuards:
    """Prepares a training run; called by a config's `initialize`, before any network or image is loaded.

    In this order: checks the bundle's folder and the paths, selects deterministic algorithms, seeds every random number
    generator, joins the process group, and locks the output folder.

    Args:
        bundle_root: value of the option; must be a bundle's folder.
        output_dir: value of the option; locked against other processes that write to it.
        seed: seed of Python, NumPy and torch.
        deterministic: see `use_deterministic_algorithms`.
        paths: values of other options that name files or folders, by the option's name.
        distributed: whether this is one of several processes started by torchrun.
        hold_output: False: nothing is written, as in a dry run, and the folder is not locked.

    Raises:
        FileNotFoundError: if `bundle_root` is not a bundle.
        SystemExit: if another process writes to the output folder.
        TypeError: if `deterministic` is a string.
        ValueError: if a path is not a string.
        RuntimeError: if `distributed` is set and the process was not started by torchrun.
        OSError: if the output folder is not writable.
    """
    check_bundle_root(bundle_root, paths)
    use_deterministic_algorithms(deterministic)
    seed_generators(seed)
    if distributed:
        start_process_group()
    return RunGuards(hold_output_dir(output_dir) if hold_output else None, distributed)
