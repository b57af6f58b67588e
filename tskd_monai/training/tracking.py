"""Training curves for TensorBoard, and the writer of curves and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from tskd_monai.former_names import former_components
from tskd_monai.training.history import TrainingHistory

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CURVES = ("train_loss", "learning_rate")


class TensorBoardCurves:
    """Writes the history's training loss, learning rate and validation metric as TensorBoard scalars by epoch.

    Attach it after `Resume` and the history. A resumed run writes its earlier epochs again and purges them from older
    files, so that the curves have no gap and no duplicate. With several processes, the first one writes.

    Args:
        folder: folder of the event files, for `tensorboard --logdir`.
        history: history of the run.
        enabled: whether anything is written.

    Raises:
        TypeError: when `enabled` is a string, as the runner's command line parses `true` and `false`.
        ImportError: when enabled without TensorBoard installed.
    """

    def __init__(self, folder: str | Path, history: TrainingHistory, enabled: bool = True) -> None:
        self.folder, self.history, self.enabled = Path(folder), history, checked_switch(enabled)
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Writes the epochs of this trainer."""
        if not self.enabled:
            return
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_last)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        if idist.get_rank():
            return
        self._writer = open_writer(self.folder, first_step=0)
        for row in self.history.rows:
            self._write(row)

    def _write_last(self, engine: Engine) -> None:
        self._write(self.history.rows[-1])

    def _write(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name in (*CURVES, self.history.metric_name):
            if name in row:
                self._writer.add_scalar(name, row[name], row["epoch"])
        self._writer.flush()

    def _close(self, engine: Engine) -> None:
        if self._writer is not None:
            self._writer.close()


def checked_switch(enabled: bool) -> bool:
    """Returns whether TensorBoard files are written.

    Raises:
        TypeError: when `enabled` is a string, as the runner's command line parses `true` and `false`.
        ImportError: when enabled without TensorBoard installed.
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"Expected --tensorboard True or False, found the word {enabled!r}.")
    if enabled:
        _summary_writer()
    return enabled


def open_writer(folder: str | Path, first_step: int) -> SummaryWriter:
    """Returns a writer into a folder; in older files there, only steps before `first_step` count."""
    return _summary_writer()(str(folder), purge_step=first_step)


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "Expected the package tensorboard for --tensorboard True, found none. "
            "Install it with: pip install 'tskd-monai[tracking]'"
        ) from error
    return SummaryWriter


__getattr__ = former_components(__name__)
