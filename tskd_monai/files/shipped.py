"""Where the files are that come with the package beside its code: the bundles with their weights, and the pins.

In a checkout they stand beside the package. A wheel installs them into `share/tskd_monai` of the environment, with the
same layout.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

DISTRIBUTION = "tskd-monai"
MARK = "share/tskd_monai/setup.cfg"


def shipped_root(package: Path) -> Path:
    """Returns the folder that holds `bundles/`: where it should be, when it is nowhere.

    Args:
        package: folder of the package's code.
    """
    if not (package.parent / "bundles").is_dir():
        for file in _installed_files():
            if file.as_posix().endswith(MARK):
                return Path(str(file.locate())).resolve().parent
    return package.parent


def _installed_files() -> list[metadata.PackagePath]:
    try:
        return metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # a copy of the code, such as an exported bundle has
        return []


ROOT = shipped_root(Path(__file__).resolve().parents[1])
BUNDLES = ROOT / "bundles"
