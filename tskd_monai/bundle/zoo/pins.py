"""Exact versions of the packages that a bundle needs, from the project's constraints."""

from __future__ import annotations

from collections.abc import Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tskd_monai.bundle.zoo.vendored_code import extras_named, outside_packages

ZOO_PYTHON = "3.10"
"""Python version of the zoo's continuous integration; where pins differ by Python, the one for this is used."""
CORE = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
"""Distributions with keys of their own in a bundle's metadata."""


@dataclass(frozen=True)
class Pins:
    """The project's constraints and extras.

    Attributes:
        constraints: name of the file, for messages.
        versions: version of each distribution, by canonical name.
        extras: for each extra of the package, its distributions as given to pip: `highdicom==0.28.2 …`.
    """

    constraints: Path
    versions: dict[str, str]
    extras: dict[str, str]

    def core(self) -> dict[str, str]:
        """Returns the versions with keys of their own in a bundle's metadata."""
        return {key: self.versions[name] for name, key in CORE.items()}

    def required(self, modules: Iterable[Path]) -> dict[str, str]:
        """Returns the versions of all other distributions that importing the modules requires.

        Raises:
            ValueError: if a distribution has no pin.
        """
        return self._of(outside_packages(modules).at_once)

    def optional(self, modules: Iterable[Path]) -> dict[str, str]:
        """Returns the versions of distributions that the modules import, or ask to install, only where they are used.

        Raises:
            ValueError: if a distribution has no pin.
        """
        modules = list(modules)
        packages = self._of(outside_packages(modules).later)
        for extra in extras_named(modules):
            packages |= dict(package.split("==") for package in self.extras[extra].split())
        return dict(sorted(packages.items()))

    def _of(self, imported: Iterable[str]) -> dict[str, str]:
        """Returns the version of the distribution that provides each imported package, such as `PIL`."""
        known = packages_distributions()
        versions: dict[str, str] = {}
        for module in sorted(set(imported) - set(CORE)):
            # a package may be spread over distributions, as itk over itk-core, itk-io and others: the pinned one counts
            names = list(dict.fromkeys(canonicalize_name(name) for name in [*known.get(module, []), module]))
            name = next((name for name in names if name in self.versions), None)
            if name is None:
                raise ValueError(
                    f"Expected a pin for {' or '.join(names)} in {self.constraints}, found none; add its version."
                )
            versions[name] = self.versions[name]
        return versions


def load_pins(constraints: Path, setup_cfg: Path) -> Pins:
    """Returns the pins that apply to the zoo's Python.

    Args:
        constraints: lines such as `numpy==2.2.6; python_version < "3.11"`.
        setup_cfg: file with the extras of the package.

    Raises:
        ValueError: if a line pins no exact version.
    """
    versions: dict[str, str] = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": ZOO_PYTHON}):
            continue
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==":
            raise ValueError(f"Expected one exact version (==) in {constraints}, found {line!r}.")
        versions[canonicalize_name(requirement.name)] = specifiers[0].version
    parser = ConfigParser(interpolation=None)
    parser.read(setup_cfg, encoding="utf-8")
    extras = {}
    for extra, lines in parser["options.extras_require"].items():
        names = [canonicalize_name(Requirement(line).name) for line in lines.split("\n") if line.strip()]
        extras[extra] = " ".join(f"{name}=={versions[name]}" for name in names if name in versions)
    return Pins(constraints, versions, extras)
