"""Exact versions of what a bundle needs, from the project's constraints."""

from __future__ import annotations

from collections.abc import Iterable
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ZOO_PYTHON = "3.10"
"""The zoo's continuous integration runs on it; where two pins differ by Python, that of this one is taken."""


def load_pins(constraints: Path, python: str = ZOO_PYTHON) -> dict[str, str]:
    """Returns the version of each distribution that a constraints file pins for a Python.

    Args:
        constraints: lines such as `numpy==2.2.6; python_version < "3.11"`.
        python: for example `3.10`.

    Raises:
        ValueError: when a line pins no exact version.
    """
    pins = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        versions = list(requirement.specifier)
        if len(versions) != 1 or versions[0].operator != "==":
            raise ValueError(f"Expected one exact version (==) in {constraints}, found {line!r}.")
        pins[canonicalize_name(requirement.name)] = versions[0].version
    return pins


def load_extras(setup_cfg: Path, pins: dict[str, str]) -> dict[str, str]:
    """Returns, for each extra of the package, its distributions as pip takes them: `highdicom==0.28.2 …`."""
    parser = ConfigParser(interpolation=None)
    parser.read(setup_cfg, encoding="utf-8")
    extras = {}
    for extra, lines in parser["options.extras_require"].items():
        names = [canonicalize_name(Requirement(line).name) for line in lines.split("\n") if line.strip()]
        extras[extra] = " ".join(f"{name}=={pins[name]}" for name in names if name in pins)
    return extras


def pinned(modules: Iterable[str], pins: dict[str, str], constraints: Path) -> dict[str, str]:
    """Returns the pinned version of the distribution that each imported package comes from.

    Args:
        modules: names that are imported, such as `PIL`.
        pins: from `load_pins`.
        constraints: named in the error.

    Raises:
        ValueError: when a distribution has no pin.
    """
    known = packages_distributions()
    versions = {}
    for module in sorted(modules):
        names = [canonicalize_name(name) for name in known.get(module, [module])]
        name = next((name for name in names if name in pins), None)
        if name is None:
            raise ValueError(f"Expected a pin for {' or '.join(names)} in {constraints}, found none; add its version.")
        versions[name] = pins[name]
    return versions
