"""The package as installed: fast to import, one version everywhere, and no training packages for inference."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import tskd_monai
from tests.support.paths import ROOT

MAX_IMPORT_SECONDS = 0.3


def test_import_is_cheap_and_does_not_import_torch() -> None:
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


def test_python_versions_are_the_same_everywhere() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    classifiers = config["metadata"]["classifiers"]
    named = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)$", classifiers, re.MULTILINE)]
    assert named == list(range(named[0], named[-1] + 1))
    assert config["options"]["python_requires"] == f">=3.{named[0]},<3.{named[-1] + 1}"
    assert f"Python 3.{named[0]} to 3.{named[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")
    setup = (ROOT / "scripts/setup_env.sh").read_text(encoding="utf-8")
    assert f"not (3, {named[0]}) <= sys.version_info[:2] <= (3, {named[-1]})" in setup


def test_installed_version_is_the_packages() -> None:
    assert metadata.version("tskd-monai") == tskd_monai.__version__, "run scripts/setup_env.sh"


def test_package_tested_is_the_one_of_this_checkout() -> None:
    assert tskd_monai.__file__ is not None
    assert Path(tskd_monai.__file__).parent == ROOT / "tskd_monai"


@pytest.mark.slow
def test_segmenting_needs_no_package_of_the_training_extra() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    training = re.findall(r"^[\w-]+", config["options.extras_require"]["training"].strip(), re.MULTILINE)
    assert "transformers" in training
    targets = (ROOT / "bundles/segmentation/configs/inference.json").read_text(encoding="utf-8")
    modules = sorted(set(re.findall(r'"(tskd_monai[\w.]*)\.\w+"', targets)) | {"tskd_monai.networks.students"})
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({training}))\n"  # None makes an import fail
        f"for module in {modules}: importlib.import_module(module)\n"
        "build = sys.modules['tskd_monai.networks.students'].build_student\n"
        "for name in ('compact_unet_small', 'vit_tiny'): build(name, 1, 2, (64, 64))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_loads_the_standard_library_only() -> None:
    code = (
        "import json, sys; before = set(sys.modules); import tskd_monai; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) - set(sys.stdlib_module_names) == {"tskd_monai"}


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package_and_its_command(tmp_path: Path) -> None:
    """Built from a copy: setuptools leaves folders beside the sources."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "tskd_monai", source / "tskd_monai", ignore=ignored)
    shutil.copytree(ROOT / "bundles", source / "bundles", ignore=shutil.ignore_patterns(".*"))
    (source / "scripts").mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "scripts/constraints.txt"):
        shutil.copyfile(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), "."], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        packed = {name for name in content.namelist() if name.startswith("tskd_monai/")}
        content.extractall(tmp_path / "installed")
    files = {path for path in (ROOT / "tskd_monai").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    (data,) = (tmp_path / "installed").glob("*.data/data/share/tskd_monai")
    shipped = subprocess.run(["git", "ls-files", "bundles"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in shipped.stdout.split() if not (data / name).is_file()] == []
    assert (data / "scripts/constraints.txt").is_file()
    command = [sys.executable, "-m", "tskd_monai", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True
    )
    assert done.stdout == f"tskd {tskd_monai.__version__}\n"
