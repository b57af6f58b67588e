"""The segmentation bundle under the versions that MONAI Label's server has."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


def test_the_contract_holds_under_monai_1_5_and_numpy_1_26() -> None:
    command = ["bash", str(ROOT / "tests/interop/check_monai_1_5.sh")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert re.match(r"MONAI 1\.5\.\d+ numpy 1\.26\.\d+ pydicom 2\.", done.stdout)
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE) and "skipped" not in done.stdout
