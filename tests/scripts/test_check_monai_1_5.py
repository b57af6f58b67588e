"""The segmentation bundle in the environment that MONAI Label serves it from, where that environment is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(os.environ.get("MONAI_LABEL_VENV", ROOT / "build/monai_label/venv")) / "bin" / "python"


def test_the_contract_holds_under_monai_1_5_and_numpy_1_26() -> None:
    if not PYTHON.is_file():
        pytest.skip("needs the environment that scripts/setup_monai_label.sh makes (2.5 GB)")
    versions = "import monai, numpy; print(monai.__version__, numpy.__version__)"
    found = subprocess.run([PYTHON, "-c", versions], capture_output=True, text=True, check=True).stdout.split()
    assert found[0].startswith("1.5.") and found[1].startswith("1.26.")
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/bundles/test_monai_label.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
