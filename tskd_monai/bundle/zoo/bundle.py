"""The exported bundle: a folder with weights, configs, code and documents, and a zip of it."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tskd_monai
from tskd_monai.bundle.student import TEMPLATE_FILES
from tskd_monai.bundle.zoo.cards import Card, load_card, readme
from tskd_monai.bundle.zoo.configs import export_config
from tskd_monai.bundle.zoo.contents import BUNDLES, PLACERS, Contents, Trained
from tskd_monai.bundle.zoo.documents import write_documents
from tskd_monai.bundle.zoo.large_files import write_large_files
from tskd_monai.bundle.zoo.names import ZOO_NAMES
from tskd_monai.bundle.zoo.pins import load_pins
from tskd_monai.bundle.zoo.vendored_code import needed_modules, vendor
from tskd_monai.data.transfer_set import refuse_variations
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.shipped import ROOT
from tskd_monai.networks.students import NETWORK_OF_TASK, student_modules

SOURCE = Path(tskd_monai.__file__).parent
UNIT_TESTS = Path(__file__).parent / "unit_tests"
MODEL_CARD = "model_card.md"
USAGE = Path("docs") / "usage.md"
"""Only exports have it: the project's own document, beside a README in the zoo's template."""
FITTING = "fit_quality.json"
"""Config that needs the code of students; an exported student has no quality file."""
BORROWED = {"distillation": ("evaluate.json", "inference.json")}
"""Configs of `segmentation` that `distillation` also gets: it segments with a student it holds."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""One timestamp for every file, so that the same bundle gives the same zip."""


@dataclass(frozen=True)
class Export:
    """What to export.

    Attributes:
        bundle: name of one of the project's four bundles.
        name: name in the zoo.
        trained: weights and task to include.
        card: YAML file with what only those who trained the model know; None: not stated.
        metrics: `metrics.json` of an evaluation, for the README.
        urls: download addresses of files above 25 MB, by path relative to the bundle.
    """

    bundle: str
    name: str
    trained: Trained
    card: Path | None = None
    metrics: Path | None = None
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def shipped(self) -> bool:
        """Whether this is the student that the project ships, which its model card describes."""
        return self.bundle == "segmentation" and self.trained.weights is None


def export_bundle(export: Export, output: Path) -> tuple[Path, Path, list[str]]:
    """Writes `output/<name>/`, `output/<name>_v<version>.zip` and the unit test, replacing a previous export.

    Returns:
        The folder, the zip, and the files that are too large for the zoo's repository.

    Raises:
        FileNotFoundError: if something to be exported is missing.
        ValueError: if the name, weights, task, card or an address is not as required, or the trained folder contains
            variations of patients' images.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", export.name):
        raise ValueError(f"Expected a name of lower-case letters, digits and _, as in the zoo, found {export.name!r}.")
    if export.trained.weights is not None:
        refuse_variations(export.trained.weights)
    card = load_card(export.card) if export.card else None
    folder, draft = output / export.name, output / f".{export.name}.draft"
    _check_replaceable(folder, export.trained.weights)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        contents = PLACERS[export.bundle](export.trained, draft)
        metadata, optional = fill_bundle(export.bundle, export.name, contents, draft, card)
        model_card = BUNDLES / export.bundle / "docs" / MODEL_CARD if export.shipped else None
        text = readme(export.name, export.bundle, metadata, optional, contents.task, card, export.metrics, model_card)
        _write_documents(export, text, card, draft)
        large = write_large_files(draft, export.urls)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    test = (UNIT_TESTS / f"{export.bundle}.py").read_text(encoding="utf-8")
    (output / f"test_{export.name}.py").write_text(test.replace(ZOO_NAMES[export.bundle], export.name))
    return folder, write_zip(folder, output / f"{export.name}_v{metadata['version']}.zip"), large


def fill_bundle(
    bundle: str, name: str, contents: Contents, folder: Path, card: Card | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Writes the configs, code, licence and metadata of a bundle.

    Returns:
        The metadata, and the versions of packages imported only where they are used. These are not in the metadata:
        MONAI treats `optional_packages_version` as an alias of `required_packages_version`, which it would replace.

    Raises:
        ValueError: if the changelog lacks the current version.
    """
    metadata = contents.metadata
    if metadata["version"] not in metadata["changelog"]:
        raise ValueError(f"Expected a changelog entry for version {metadata['version']} of {bundle}, found none.")
    pins = load_pins(ROOT / "scripts" / "constraints.txt", ROOT / "setup.cfg")
    student = contents.settings.get("inference.json", {}).get("student") if bundle == "segmentation" else None
    sources = config_sources(bundle, student)
    for source in sources:
        settings = contents.settings.get(source.name, {})
        export_config(source, folder / "configs" / source.name, name, pins.extras, settings)
    texts = [source.read_text(encoding="utf-8") for source in sources]
    modules = needed_code([*texts, json.dumps(contents.settings)], student)
    vendor(SOURCE, modules, folder, pins.extras)
    for file in ("LICENSE", "configs/logging.conf"):
        shutil.copyfile(BUNDLES / bundle / file, folder / file)
    metadata = {**metadata, **pins.core(), "required_packages_version": pins.required(modules)}
    if card is not None:
        metadata |= {"data_source": card.data.strip(), "tags": list(card.tags)}
        metadata |= {"weights_license": card.license, "non_commercial": card.non_commercial}
        metadata |= {key: text for key in ("authors", "copyright") if (text := getattr(card, key)) is not None}
    write_json(folder / "configs" / "metadata.json", metadata)
    if bundle in BORROWED:
        _write_template(name, contents, folder / "segmentation")
    return metadata, pins.optional(modules)


def needed_code(configs: list[str], student: str | None) -> list[Path]:
    """Returns the files of the package that a bundle needs.

    Args:
        configs: text of each config.
        student: name of the bundle's student; None: any student of the project, if the configs build one.
    """
    modules = needed_modules(SOURCE, configs)
    if SOURCE / "networks" / "students.py" not in modules:
        return modules
    return needed_modules(SOURCE, [*configs, *student_modules(student)])


def config_sources(bundle: str, student: str | None = None) -> list[Path]:
    """Returns the configs of an exported bundle: its own, and those it borrows from `segmentation`.

    Args:
        bundle: name of one of the project's bundles.
        student: name of the exported student; None: the bundle is no student.
    """
    own = [path for path in sorted((BUNDLES / bundle / "configs").iterdir()) if path.suffix in (".json", ".yaml")]
    borrowed = [BUNDLES / "segmentation" / "configs" / name for name in BORROWED.get(bundle, ())]
    left_out = ("metadata.json", "task.json", *(() if student is None else (FITTING,)))
    return [path for path in own if path.name not in left_out] + borrowed


def write_zip(folder: Path, path: Path) -> Path:
    """Writes a folder as a reproducible zip, with the folder's name inside, and returns the zip's path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix(), ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    return path


def _check_replaceable(folder: Path, weights: Path | None) -> None:
    """Raises FileExistsError for a folder that is not an earlier export, or that is to be exported itself."""
    earlier = (folder / USAGE).is_file() and not (weights and folder.resolve() == weights.resolve())
    if folder.is_dir() and any(folder.iterdir()) and not earlier:
        raise FileExistsError(
            f"Expected a new folder or an earlier export at {folder}, found other files; give another --output-dir or "
            "--name."
        )


def _write_template(name: str, contents: Contents, folder: Path) -> None:
    """Writes the template of student bundles, with the code that is copied into each of them."""
    metadata = read_json(BUNDLES / "segmentation" / "configs" / "metadata.json")
    settings = {file: {"network_def": dict(NETWORK_OF_TASK)} for file in ("inference.json", "train.json")}
    filled = Contents(contents.task, metadata, settings)  # with the code of every student
    fill_bundle("segmentation", f"{name}/segmentation", filled, folder, card=None)
    documents = [BUNDLES / "segmentation" / file for file in TEMPLATE_FILES if file.startswith("docs/")]
    write_documents({document.name: document for document in documents}, folder, {})


def _write_documents(export: Export, readme_text: str, card: Card | None, folder: Path) -> None:
    """Writes the README in the zoo's template, the project's own as `usage.md`, and the licence of the data."""
    docs = folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "README.md").write_text(readme_text, encoding="utf-8")
    if card is not None:
        (docs / "data_license.txt").write_text(card.data_license.strip() + "\n", encoding="utf-8")
    own = sorted((BUNDLES / export.bundle / "docs").glob("*.md"))
    sources = {path.name.replace("README", "usage"): path for path in own if export.shipped or path.name != MODEL_CARD}
    replaced = {f"bundles/{export.bundle}": export.name, "study/student": export.name, "](README.md": "](usage.md"}
    write_documents(sources, folder, replaced)
