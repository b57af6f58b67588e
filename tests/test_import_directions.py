"""Imports between the parts of the package go one way, and importing the package alone costs nothing.

The order, from the top: training, distillation, synthesis, inference, evaluation -> losses, transforms, data,
networks -> torch, monai. The four at the bottom do not know each other; distillation and synthesis may use training.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

GROUND = frozenset({"networks", "losses", "transforms", "data"})
ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(GROUND, frozenset()),
    "training": GROUND,
    "inference": GROUND,
    "evaluation": GROUND,
    "distillation": GROUND | {"training"},
    "synthesis": GROUND | {"training"},
}
OUTSIDE = frozenset({"bundles", "scripts", "tests"})


def imported_names(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) for each import in a module, wherever it stands.

    Args:
        source: text of the module.
        module: its dotted name, against which relative imports are resolved.
        is_package: whether it is an `__init__.py`.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(package: Path) -> list[str]:
    """Return one line for each import in `package` that goes against the order, or for a part it does not know."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package.parent).with_suffix("")
        is_package = inside.name == "__init__"
        parts = inside.parts[:-1] if is_package else inside.parts
        own = parts[1] if len(parts) > 1 else ""
        if len(inside.parts) > 2 and own not in ALLOWED:
            found.append(f"{own}: a part that ALLOWED in {Path(__file__).name} does not name")
        for line, name in imported_names(path.read_text(encoding="utf-8"), ".".join(parts), is_package):
            top, part = (name.split(".") + [""])[:2]
            if top in OUTSIDE:
                found.append(f"{path.name}:{line}: the package imports {name}")
            elif top == package.name and part in ALLOWED and part not in ALLOWED.get(own, frozenset()) | {own}:
                found.append(f"{path.name}:{line}: {own or package.name} imports {name}")
    return found


def test_imports_of_the_package_go_one_way() -> None:
    assert violations(ROOT / "tskd_monai") == []


@pytest.mark.parametrize(
    ("part", "statement", "expected"),
    [
        ("losses", "import tskd_monai.data.task", "losses imports tskd_monai.data.task"),
        ("losses", "from tskd_monai import data", "losses imports tskd_monai.data"),
        ("transforms", "from ..data.task import Task", "transforms imports tskd_monai.data.task.Task"),
        ("networks", "from .. import losses", "networks imports tskd_monai.losses"),
        ("data", "def f():\n    from tskd_monai.training import resume", "data imports tskd_monai.training.resume"),
        ("training", "from tskd_monai.distillation import targets", "training imports tskd_monai.distillation.targets"),
        ("inference", "import tskd_monai.evaluation", "inference imports tskd_monai.evaluation"),
        ("data", "import importlib\nimportlib.import_module('tskd_monai.losses')", "data imports tskd_monai.losses"),
        ("evaluation", "import scripts.plan_task", "the package imports scripts.plan_task"),
        ("helpers", "import math", "helpers: a part that ALLOWED"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, part: str, statement: str, expected: str) -> None:
    folder = tmp_path / "tskd_monai" / part
    folder.mkdir(parents=True)
    (folder / "planted.py").write_text(statement + "\n", encoding="utf-8")
    found = violations(tmp_path / "tskd_monai")
    assert len(found) == 1
    assert expected in found[0]


def test_a_heavy_root_module_is_found(tmp_path: Path) -> None:
    package = tmp_path / "tskd_monai"
    package.mkdir()
    (package / "__init__.py").write_text("from .networks import lora\n", encoding="utf-8")
    assert violations(package) == ["__init__.py:1: tskd_monai imports tskd_monai.networks.lora"]


@pytest.mark.parametrize(
    ("part", "statement"),
    [
        ("distillation", "from tskd_monai.training import resume"),
        ("synthesis", "from ..training.resume import Resume"),
        ("inference", "from tskd_monai.data.task import Task"),
        ("losses", "from .logit_distillation import class_kl\nimport torch"),
    ],
)
def test_an_allowed_import_is_not_reported(tmp_path: Path, part: str, statement: str) -> None:
    folder = tmp_path / "tskd_monai" / part
    folder.mkdir(parents=True)
    (folder / "planted.py").write_text(statement + "\n", encoding="utf-8")
    assert violations(tmp_path / "tskd_monai") == []


def test_importing_the_package_loads_the_standard_library_only() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import tskd_monai; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) - set(sys.stdlib_module_names) == {"tskd_monai"}
