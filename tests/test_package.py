"""The package as installed: cheap to import, and one version everywhere."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import tskd_monai

ROOT = Path(__file__).parent.parent
MAX_IMPORT_SECONDS = 0.3


def test_import_is_cheap_and_leaves_torch_alone() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import tskd_monai; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        elapsed, has_torch = run.stdout.split()
        assert has_torch == "False"
        seconds.append(float(elapsed))
    assert min(seconds) < MAX_IMPORT_SECONDS


def test_setup_cfg_takes_the_version_from_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["metadata"]["version"] == "attr: tskd_monai.__version__"


def test_installed_version_is_the_packages() -> None:
    assert metadata.version("tskd-monai") == tskd_monai.__version__, "run scripts/setup_env.sh"


def test_package_tested_is_the_one_of_this_checkout() -> None:
    assert tskd_monai.__file__ is not None
    assert Path(tskd_monai.__file__).parent == ROOT / "tskd_monai"
