"""The part of NVFlare's client process that runs a site's training; it needs the extra `federated`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from tskd_monai.federated.job import START, TASK_FILE, TRAIN, VALIDATE
from tskd_monai.federated.messages import MessageRecord
from tskd_monai.federated.settings import FederationSettings, site_settings
from tskd_monai.federated.site import SiteTraining
from tskd_monai.federated.site_log import keep_reasons_private
from tskd_monai.federated.update import SiteUpdate


class SiteExecutor(Executor):
    """Trains a round, or validates, when the server asks for it.

    The reason of a failure is written to `private/training.log` of the site's output folder; the server learns only
    that the task failed.

    Args:
        federation: fields of `FederationSettings`, from the job.
    """

    def __init__(self, federation: dict[str, Any]) -> None:
        super().__init__()
        self.federation = FederationSettings(**federation)
        self.training: SiteTraining | None = None
        self.record: MessageRecord | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Returns the site's message for a task."""
        try:
            training = self._prepared(fl_ctx)
            received = FLModelUtils.from_shareable(shareable)
            update = run_task(training, task_name, received.current_round or 0, received.params or {})
        except Exception as error:  # whatever it is, the server learns that the task failed
            logging.getLogger("tskd_monai").exception("The task %s failed.", task_name)  # to private/training.log
            reason = f"{task_name} failed ({type(error).__name__}); the site's private/training.log says why."
            self.log_error(fl_ctx, reason, fire_event=False)
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        model = FLModel(params=update.weights, metrics=update.numbers, current_round=received.current_round)
        reply = FLModelUtils.to_shareable(model)
        assert self.record is not None
        self.record.note(task_name, received.current_round or 0, received.params or {}, update, reply)
        return reply

    def finalize(self, fl_ctx: FLContext) -> None:
        """Releases the output folder at the end of the job."""
        if self.training is not None:
            self.training.close()
            self.training = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Ends with the job."""
        if event_type == EventType.END_RUN:
            self.finalize(fl_ctx)

    def _prepared(self, fl_ctx: FLContext) -> SiteTraining:
        if self.training is None:
            from tskd_monai.data.task import load_task

            own = site_settings(fl_ctx.get_identity_name())
            keep_reasons_private(Path(own["output_dir"]))
            config = fl_ctx.get_engine().get_workspace().get_app_config_dir(fl_ctx.get_job_id())
            self.training = SiteTraining(self.federation, own, load_task(Path(config) / TASK_FILE))
            self.record = MessageRecord(Path(own["output_dir"]))
        return self.training


def run_task(training: SiteTraining, name: str, number: int, weights: dict[str, Any]) -> SiteUpdate:
    """Returns the message of a site for a task of the server.

    Raises:
        ValueError: if the task is unknown.
    """
    if name == START:
        return training.start()
    if name == TRAIN:
        return training.train(number, weights)
    if name == VALIDATE:
        return training.validate(weights)
    raise ValueError(f"Expected a task {START}, {TRAIN} or {VALIDATE}, found {name}.")
