"""Lists the code that a bundle would run, by reading its files and never running them.

MONAI evaluates each string of a config that begins with `$`, calls what `_target_` names, and reads the file named by
a string that begins with `%`; Python imports modules from the bundle's folder. Each of these that is not on an
allow-list of exact strings is a finding. Patterns would not be safe: `tskd_monai.files.atomic.os.system` begins as our
own names do.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tskd_monai.files.json_files import read_json
from tskd_monai.training.checkpoint import load_checkpoint

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
WEIGHTS_SUFFIXES = (".pt", ".pth")
DATA_SUFFIXES = (
    *(".md", ".txt", ".png", ".jpg", ".svg", ".csv", ".jsonl"),
    ".ipynb",  # only the reader runs a notebook
    *(".safetensors", ".npz", ".onnx", ".xml", ".bin"),  # networks: numbers and operations of the engine
    *WEIGHTS_SUFFIXES,
)
"""File types that nothing here runs; pickled weights only because they are read with `weights_only`."""

ALLOW_LIST = Path(__file__).with_name("allow_list.json")
KNOWN_FILES = ("LICENSE", "NOTICE", ".gitignore")
LOGGING_FIELDS = ("class", "args", "kwargs")
MEANINGS = {"$": "expression", "%": "text of another file"}


@dataclass(frozen=True, order=True)
class Finding:
    """Something in a bundle that is run and is not on the allow-list.

    Attributes:
        file: path relative to the bundle.
        position: position within the file, such as `train#trainer`; empty where the finding is the file itself.
        kind: `expression`, `_target_`, `text of another file`, `code`, ...
        text: the string found there.
    """

    file: str
    position: str
    kind: str
    text: str


@dataclass(frozen=True)
class AllowList:
    """The strings that bundles may contain, each exact.

    Attributes:
        expressions: strings that begin with `$`.
        targets: values of `_target_`.
        logging: values of `class`, `args` and `kwargs` in a `logging.conf`.
    """

    expressions: frozenset[str]
    targets: frozenset[str]
    logging: frozenset[str]

    @classmethod
    def read(cls, path: str | Path) -> AllowList:
        """Returns the allow-list of a JSON file with one array for each field."""
        content = read_json(path)
        return cls(**{name: frozenset(content[name]) for name in ("expressions", "targets", "logging")})

    def has(self, finding: Finding) -> bool:
        """Returns whether the finding is on the list."""
        by_kind = {"expression": self.expressions, "_target_": self.targets, "logging": self.logging}
        return finding.text in by_kind.get(finding.kind, ())


def unlisted_code(bundle: str | Path, allowed: AllowList) -> list[Finding]:
    """Returns the code that a bundle would run and the allow-list lacks, ordered by file.

    Args:
        bundle: folder of the bundle.
        allowed: strings that it may contain.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    return sorted(finding for finding in bundle_code(bundle) if not allowed.has(finding))


def bundle_code(bundle: str | Path) -> Iterator[Finding]:
    """Yields everything in a bundle that would be run, once for each position.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    bundle = Path(bundle)
    if not bundle.is_dir():
        raise FileNotFoundError(f"Expected the folder of a bundle at {bundle}, found none.")
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_symlink():
            yield Finding(name, "", "link", str(path.readlink()))
        elif path.is_file():
            yield from _code_of_file(path, name)
        elif not path.is_dir():
            yield Finding(name, "", "device", "neither file nor folder")


def odd_weights(bundle: Path) -> Iterator[Finding]:
    """Yields the weights files that contain more than tensors and plain values, or expand beyond their size."""
    for path in sorted(file for file in bundle.rglob("*") if file.suffix.lower() in WEIGHTS_SUFFIXES):
        try:
            load_checkpoint(path)
        except ValueError as error:
            yield Finding(path.relative_to(bundle).as_posix(), "", "weights", str(error))


def write_allow_list(bundles: Iterable[Path], path: Path) -> None:
    """Writes all expressions, targets and logging fields of the bundles as the allow-list."""
    kinds = {"expression": "expressions", "_target_": "targets", "logging": "logging"}
    lists: dict[str, set[str]] = {name: set() for name in kinds.values()}
    for bundle in bundles:
        for finding in bundle_code(bundle):
            if finding.kind in kinds:
                lists[kinds[finding.kind]].add(finding.text)
    path.write_text(json.dumps({name: sorted(texts) for name, texts in lists.items()}, indent=2) + "\n")


def _code_of_file(path: Path, name: str) -> Iterator[Finding]:
    suffix = path.suffix.lower()
    try:
        if suffix in CONFIG_SUFFIXES:
            yield from _code_of_config(_read_config(path), name, "")
        elif suffix == ".conf":
            yield from _code_of_logging(path, name)
        elif suffix not in DATA_SUFFIXES and path.name not in KNOWN_FILES:
            yield Finding(name, "", "code", f"a file of the kind {suffix or path.name!r}, which may be run or imported")
    except (ValueError, RecursionError, yaml.YAMLError, configparser.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding(name, "", "unreadable", reason)


class Pairs(list[tuple[Any, Any]]):
    """An object of a config with all its keys, including duplicates."""


class _PairLoader(yaml.SafeLoader):
    """Reads mappings as `Pairs`."""


def _construct_pairs(loader: _PairLoader, node: yaml.MappingNode) -> Pairs:
    loader.flatten_mapping(node)
    return Pairs(
        (loader.construct_object(key, deep=True), loader.construct_object(value, deep=True))
        for key, value in node.value
    )


_PairLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_pairs)


def _read_config(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        return json.loads(text, object_pairs_hook=Pairs)
    return yaml.load(text, _PairLoader)  # noqa: S506  # a SafeLoader


def _code_of_config(content: Any, file: str, position: str) -> Iterator[Finding]:
    if isinstance(content, Pairs):
        for key, value in content:
            below = f"{position}#{key}" if position else str(key)
            yield from _code_of_text(key, file, below)
            if _is_target(key) and isinstance(value, str):
                yield Finding(file, position, "_target_", value)
            else:
                yield from _code_of_config(value, file, below)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _code_of_config(value, file, f"{position}#{number}" if position else str(number))
    else:
        yield from _code_of_text(content, file, position)


def _is_target(key: Any) -> bool:
    """Returns whether a key is `_target_`, or the path of one in another object, such as `network#_target_`."""
    return isinstance(key, str) and re.split("#|::", key)[-1].lstrip("+") == "_target_"


def _code_of_text(text: Any, file: str, position: str) -> Iterator[Finding]:
    if isinstance(text, str) and text[:1] in MEANINGS:
        yield Finding(file, position, MEANINGS[text[0]], text)


def _code_of_logging(path: Path, name: str) -> Iterator[Finding]:
    """Yields the fields that `logging.config.fileConfig` evaluates."""
    parser = configparser.RawConfigParser()
    parser.read_string(path.read_text(encoding="utf-8"))
    for section in parser.sections():
        for field in LOGGING_FIELDS:
            if parser.has_option(section, field):
                yield Finding(name, f"{section}#{field}", "logging", parser.get(section, field))
