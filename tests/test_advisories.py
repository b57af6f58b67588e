"""The pinned and the oldest allowed versions have the security fixes that the project relies on."""

from __future__ import annotations

import configparser
import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.paths import ROOT

FIXED_IN = {
    "torch": "2.10.0",  # CVE-2026-24747: memory corruption in the unpickler of weights_only=True
    "monai": "1.6.1",  # GHSA-wvpx-5qmp-46g3 (eval in a bundle's logging.conf), GHSA-2wx3, GHSA-8f32
    "pydicom": "3.0.2",  # CVE-2026-32711: path traversal
}


def pins() -> dict[str, list[Version]]:
    """Returns the exact versions of `scripts/constraints.txt`, one for each Python."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(requirement.name.lower(), []).append(Version(str(requirement.specifier).lstrip("=")))
    return found


def oldest_allowed() -> dict[str, Version]:
    """Returns the lower bounds of `setup.cfg`."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = re.findall(r"^([\w-]+)>=([\d.]+)", setup["options"]["install_requires"], re.MULTILINE)
    return {name.lower(): Version(version) for name, version in bounds}


@pytest.mark.parametrize(("package", "fixed"), FIXED_IN.items())
def test_package_has_the_fix(package: str, fixed: str) -> None:
    assert min(pins()[package]) >= Version(fixed)
    assert oldest_allowed()[package] >= Version(fixed)
    assert Version(metadata.version(package)) >= Version(fixed)


def test_bounds_that_are_security_fixes_have_a_comment() -> None:
    text = (ROOT / "setup.cfg").read_text()
    assert all(name in text for name in ("CVE-2026-24747", "GHSA-wvpx", "CVE-2026-32711"))
