"""Handlers and checks of an inference run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from tskd_monai.inference.failures import root_cause
from tskd_monai.networks.weights_file import load_torch_file


class RaiseRootCause:
    """Ends a failed run with its root cause instead of MONAI's `RuntimeError: applying transform …`."""

    def attach(self, engine: Engine) -> None:
        """Handles the errors of an engine."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: Engine, error: BaseException) -> None:
        """Raises the root cause of an error."""
        cause = root_cause(error)
        if cause is error:
            raise error
        raise cause from None


def existing_checkpoint(path: str | Path) -> str:
    """Returns the path of a checkpoint once it is known to exist and to be readable.

    Raises:
        FileNotFoundError: when there is no file; states what to do.
        ValueError: when it cannot be read; names the kind of file, unlike MONAI.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected the trained weights at {path}, found none. Give --bundle_root when the working directory is not "
            "the bundle; weights are written by the distillation bundle or come with a downloaded one."
        )
    load_torch_file(Path(path))
    return str(path)


def progress_bar(desc: str) -> Any:
    """Returns ignite's progress bar.

    Args:
        desc: label in front of the bar.
    """
    try:
        from ignite.handlers import ProgressBar
    except ImportError:  # ignite below 0.5, which MONAI 1.5 and therefore MONAI Label require
        from ignite.contrib.handlers import ProgressBar
    return ProgressBar(desc=desc)
