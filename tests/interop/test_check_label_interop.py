from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "interop" / "check_label_interop.sh"


def test_missing_tools_are_named_with_how_to_install_them(tmp_path: Path) -> None:
    dirname, bash = shutil.which("dirname"), shutil.which("bash")
    assert dirname is not None and bash is not None
    (tmp_path / "dirname").symlink_to(dirname)
    done = subprocess.run([bash, str(SCRIPT)], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2
    for tool, package in (("plastimatch", "pip install plastimatch dcmqi"), ("dciodvfy", "install dicom3tools")):
        assert any(tool in line and package in line for line in done.stderr.splitlines())


@pytest.mark.nightly
def test_the_whole_check_passes_where_its_tools_are_installed() -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    if done.returncode == 2:  # a tool is missing
        pytest.skip(done.stderr.strip().splitlines()[0])
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
