"""Finds the package's code that a bundle needs by following imports, and copies it into the bundle as `scripts/`."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "tskd_monai"
VENDORED = "scripts"
"""The zoo's name for a bundle's own code; MONAI Label unloads the module of this name between two bundles."""
NAME = re.compile(rf"\b{PACKAGE}(?:\.[A-Za-z_]\w*)+")
INSTALL_EXTRA = re.compile(r"(?:install the extra `\w+`: )?pip install 'tskd-monai\[(\w+)\]'")
BUNDLE_FILE = re.compile(r"bundles/\w+/(?=models/)")
INIT = "__init__.py"
FORMER_NAMES = re.compile(
    rf"\n+(?:from {PACKAGE}\.former_names import .*|__getattr__ = former_components\(__name__\))$", re.M
)


@dataclass
class Imports:
    """What a piece of code imports, as dotted names.

    Attributes:
        at_once: imported when the module is.
        later: imported inside a function, or where a failure is caught.
    """

    at_once: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)


def imports_of(source: str) -> Imports:
    """Returns what a module imports, except for type checkers only."""
    found = Imports()
    _collect(ast.parse(source).body, found.at_once, found.later)
    return found


def needed_modules(root: Path, configs: Iterable[str]) -> list[Path]:
    """Returns the files of the modules that configs name and of all modules these import, sorted.

    Args:
        root: folder of the package.
        configs: text of each config.

    Raises:
        ValueError: if a name belongs to no module of the package.
    """
    waiting = {name for text in configs for name in NAME.findall(text)}
    found: set[Path] = set()
    while waiting:
        path = _module_file(root, waiting.pop())
        if path in found:
            continue
        found.add(path)
        imports = imports_of(source_of(path))
        waiting |= {name for name in imports.at_once | imports.later if name.split(".")[0] == PACKAGE}
    return sorted(found)


def vendor(root: Path, modules: Iterable[Path], bundle: Path, extras: Mapping[str, str]) -> None:
    """Copies modules, their packages and the data files they name to `scripts/`, renamed for the bundle.

    Args:
        root: folder of the package.
        modules: files of the package.
        bundle: folder of the exported bundle.
        extras: for each extra of the package, the requirements that pip installs instead of it.
    """
    packages = {parent / INIT for path in modules for parent in path.parents if parent.is_relative_to(root)}
    for path in sorted({*modules, *packages, root / INIT}):
        copy = bundle / VENDORED / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        code = source_of(path)
        copy.write_text(rewritten(code, extras), encoding="utf-8")
        for file in path.parent.glob("*.*"):
            if file.suffix not in (".py", ".pyc") and f'"{file.name}"' in code:
                shutil.copyfile(file, copy.with_name(file.name))


def source_of(path: Path) -> str:
    """Returns a module's code without the lookup of previous names; for a package, its docstring and constants.

    The rest of a package looks up components by the names of earlier versions, which no exported config uses.
    """
    code = path.read_text(encoding="utf-8")
    if path.name != INIT:
        return FORMER_NAMES.sub("", code)
    kept = [node for node in ast.parse(code).body if _is_literal(node)]
    return "\n\n".join(filter(None, (ast.get_source_segment(code, node) for node in kept))) + "\n"


def rewritten(text: str, extras: Mapping[str, str]) -> str:
    """Returns code or a config rewritten for the bundle: `scripts` for the package, files relative to its root."""
    text = INSTALL_EXTRA.sub(lambda match: f"pip install {extras[match[1]]}", text)
    return BUNDLE_FILE.sub("", re.sub(rf"\b{PACKAGE}\b", VENDORED, text))


def outside_packages(modules: Iterable[Path]) -> Imports:
    """Returns the top-level packages that modules import, without this one and the standard library."""
    found = Imports()
    for path in modules:
        imports = imports_of(source_of(path))
        found.at_once |= _foreign(imports.at_once)
        found.later |= _foreign(imports.later)
    found.later -= found.at_once
    return found


def extras_named(modules: Iterable[Path]) -> set[str]:
    """Returns the extras of the package that the messages of modules tell a user to install."""
    return {extra for path in modules for extra in INSTALL_EXTRA.findall(path.read_text(encoding="utf-8"))}


def _foreign(names: Iterable[str]) -> set[str]:
    tops = {name.split(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {PACKAGE}


def _module_file(root: Path, name: str) -> Path:
    """Returns the file of the module that `name`, a module or a name in one, belongs to."""
    parts = name.split(".")[1:]
    for count in range(len(parts), 0, -1):
        path = root.joinpath(*parts[:count])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if path.is_dir():
            return path / INIT
    if not parts or len(parts) == 1:
        return root / INIT
    raise ValueError(f"Expected a module of {PACKAGE} for {name}, found none below {root}; correct the name.")


def _is_literal(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)


def _collect(body: Iterable[ast.stmt], at_once: set[str], later: set[str]) -> None:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            _collect(node.orelse, at_once, later)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            at_once.update(_names(node))
        else:
            later.update(name for inner in ast.walk(node) for name in _names(inner))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
