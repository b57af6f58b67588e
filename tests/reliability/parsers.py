"""Every parser under test, by name; only the module of the requested parser is imported."""

from __future__ import annotations

from importlib import import_module

from tests.reliability.subject import Subject

MODULES = {
    "json_parsers": (
        "datalist", "task", "transfer set", "gates", "export record", "training history", "metrics table",
        "study record", "any record",
    ),
    "label_parsers": ("DICOM label", "Slicer segmentation"),
    "image_parsers": ("NIfTI", "NRRD and MetaImage", "DICOM series", "2D image"),
    "model_parsers": (
        "target cache", "weights", "checkpoint", "teacher folder", "student bundle", "diffusion folder",
        "sampling progress",
    ),
}  # fmt: skip
NAMES = tuple(name for names in MODULES.values() for name in names)


def parser_named(name: str) -> Subject:
    """Returns a parser.

    Raises:
        ValueError: if there is none of that name.
    """
    module = next((module for module, names in MODULES.items() if name in names), None)
    if module is None:
        raise ValueError(f"Expected a parser among {NAMES}, found {name!r}.")
    return next(subject for subject in import_module(f"tests.reliability.{module}").SUBJECTS if subject.name == name)
