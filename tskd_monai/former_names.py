"""Where the components are now that student bundles written by 0.1 name in their configs.

A config names a component as `tskd_monai.inference.studies.find_studies`. Where there is no such module any more, the
lookup asks the package, `tskd_monai.inference`, for `studies`, and its `__getattr__` comes here. The names go with 0.3.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

FORMER = {
    "tskd_monai.evaluation.evaluation_report": "tskd_monai.evaluation.report.evaluation_report",
    "tskd_monai.inference.background_writing": "tskd_monai.inference.overlapped_io",
    "tskd_monai.inference.dicom_output": "tskd_monai.inference.outputs",
    "tskd_monai.inference.postprocessing": "tskd_monai.inference.outputs",
    "tskd_monai.inference.prefetching": "tskd_monai.inference.overlapped_io",
    "tskd_monai.inference.preprocessing": "tskd_monai.transforms.pipelines",
    "tskd_monai.inference.slicewise": "tskd_monai.training.validation",
    "tskd_monai.inference.studies": "tskd_monai.inference.cases",
    "tskd_monai.inference.study_dataset": "tskd_monai.inference.cases",
    "tskd_monai.inference.study_report": "tskd_monai.inference.segmentation_run",
    "tskd_monai.training.bundle": "tskd_monai.bundle.options",
}


def former_module(package: str, name: str) -> ModuleType:
    """Return the module that now holds what `package.name` held.

    Raises:
        AttributeError: when there never was such a module.
    """
    former = f"{package}.{name}"
    if former not in FORMER:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(FORMER[former])
