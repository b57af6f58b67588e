"""Where the components are now that student bundles written by 0.1 name in their configs.

A config names a component as `tskd_monai.inference.studies.find_studies`. Where there is no such module any more, the
lookup asks the package, `tskd_monai.inference`, for `studies`, and its `__getattr__` comes here. The names go with 0.3.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

FORMER = {
    "tskd_monai.evaluation.evaluation_report": "tskd_monai.evaluation.report.evaluation_page",
    "tskd_monai.inference.background_writing": "tskd_monai.inference.outputs",
    "tskd_monai.inference.dicom_output": "tskd_monai.inference.outputs",
    "tskd_monai.inference.postprocessing": "tskd_monai.inference.outputs",
    "tskd_monai.inference.prefetching": "tskd_monai.inference.cases",
    "tskd_monai.inference.preprocessing": "tskd_monai.transforms.pipelines",
    "tskd_monai.inference.slicewise": "tskd_monai.training.validation",
    "tskd_monai.inference.studies": "tskd_monai.inference.cases",
    "tskd_monai.inference.study_dataset": "tskd_monai.inference.cases",
    "tskd_monai.inference.study_report": "tskd_monai.inference.segmentation_run",
    "tskd_monai.training.bundle": "tskd_monai.bundle.options",
    "tskd_monai.training.trial_step": "tskd_monai.training.case_survey",
}
"""Former module: the module that holds its components now."""

FORMER_COMPONENTS = {
    "tskd_monai.inference.studies.find_studies": "tskd_monai.inference.cases.find_cases",
    "tskd_monai.inference.study_dataset.StudyDataset": "tskd_monai.inference.cases.CaseDataset",
    "tskd_monai.inference.study_report.StudyReport": "tskd_monai.former_names.study_report",
    "tskd_monai.training.checkpoint.Attach": "tskd_monai.former_names.Attach",
    "tskd_monai.training.dry_run.dry_run": "tskd_monai.training.dry_run.report_findings",
    "tskd_monai.training.optimisation.warmup_cosine": "tskd_monai.former_names.warmup_cosine",
    "tskd_monai.training.tracking.is_off": "tskd_monai.former_names.tensorboard_is_off",
}
"""Component that has another name now: where it is, or the adapter below of the former signature."""


def former_module(package: str, name: str) -> ModuleType:
    """Return the module that now holds what `package.name` held, its components under their former names too.

    Raises:
        AttributeError: when there never was such a module.
    """
    former = f"{package}.{name}"
    if former not in FORMER:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = import_module(FORMER[former])
    renamed = {path: now for path, now in FORMER_COMPONENTS.items() if path.rpartition(".")[0] == former}
    if not renamed:
        return module
    both = ModuleType(former)
    both.__dict__.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    both.__dict__.update({path.rpartition(".")[2]: _component(now) for path, now in renamed.items()})
    return both


def former_components(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that is still there and has lost components to another place or name."""

    def find(name: str) -> Any:
        former = f"{module}.{name}"
        if former not in FORMER_COMPONENTS:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _component(FORMER_COMPONENTS[former])

    return find


def _component(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def study_report(studies: Any, **options: Any) -> Any:
    """Return what 0.1 called `StudyReport`, whose cases were called studies."""
    run = _component("tskd_monai.inference.segmentation_run.SegmentationRun")
    return run(cases=studies, **options)


class Attach:
    """Attaches a handler that another part of the config builds: MONAI Label takes no references in `train#handlers`.

    Args:
        handler: with ignite's `attach`.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Any) -> None:
        """Attaches the handler to this engine."""
        self.handler.attach(engine)


def warmup_cosine(optimizer: Any, steps: int) -> Any:
    """Return `lr_schedule` with its half cosine."""
    return _component("tskd_monai.training.optimisation.lr_schedule")(optimizer, steps)


def tensorboard_is_off(enabled: bool) -> bool:
    """Return whether MONAI's own TensorBoard handlers are left out: not wanted, or of a process but the first."""
    checked = _component("tskd_monai.training.tracking.checked_switch")(enabled)
    return not checked or _component("ignite.distributed.get_rank")() > 0
