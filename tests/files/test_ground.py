"""The lowest layer is light: reading a checksum or a JSON file does not import torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import tskd_monai.files


def test_no_module_imports_torch_or_monai() -> None:
    names = [f"tskd_monai.files.{module.name}" for module in pkgutil.iter_modules(tskd_monai.files.__path__)]
    program = f"import sys, {', '.join(names)}; print(sorted({{'torch', 'monai', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert len(names) > 8 and done.stdout.strip() == "[]"
