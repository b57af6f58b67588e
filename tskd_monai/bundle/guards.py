"""What is checked, seeded and locked before a training run starts, and given back at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tskd_monai.bundle.options import check_bundle_root, hold_output_dir, release_output_dir
from tskd_monai.files.folder_lock import FolderLock
from tskd_monai.training.determinism import seed_generators, use_deterministic_algorithms
from tskd_monai.training.distributed import start_process_group, stop_process_group


class RunGuards:
    """Holds the output folder and, of several processes, the process group, until `release`.

    Args:
        lock: of the output folder; None: it is not held.
        distributed: whether this process has joined a process group.
    """

    def __init__(self, lock: FolderLock | None, distributed: bool) -> None:
        self.lock, self.distributed = lock, distributed

    def release(self) -> None:
        """Gives the output folder back, then leaves the process group."""
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
    """Prepares a training run: a config's step in `initialize`, before a network or an image is needed.

    In this order it checks the bundle's folder and the paths, chooses deterministic algorithms, seeds every source of
    random numbers, joins the process group, and locks the output folder.

    Args:
        bundle_root: the option; must be a bundle's folder.
        output_dir: the option; locked against other processes that write there.
        seed: of Python, NumPy and torch.
        deterministic: see `use_deterministic_algorithms`.
        paths: values of other options that name files or folders, by the option's name.
        distributed: whether this is one of several processes started by torchrun.
        hold_output: False: nothing is written, as in a dry run, and the folder is not locked.

    Raises:
        FileNotFoundError: when `bundle_root` is no bundle.
        SystemExit: when another process writes to the output folder.
        TypeError: when `deterministic` is a word.
        ValueError: when a path is no text.
        RuntimeError: when `distributed` and the process was not started by torchrun.
        OSError: when the output folder takes no file.
    """
    check_bundle_root(bundle_root, paths)
    use_deterministic_algorithms(deterministic)
    seed_generators(seed)
    if distributed:
        start_process_group()
    return RunGuards(hold_output_dir(output_dir) if hold_output else None, distributed)
