"""Fixtures of every test: threads divided among the workers, no network, and the paths of real data.

The environment is set before the first import of torch, and reaches the processes that tests start.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tskd_monai.data.task import Intensity, Label, Task

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(max(1, (os.cpu_count() or 1) // _WORKERS))
os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", _THREADS)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run and no deadline, since a loaded machine is slow.
settings.register_profile(
    "tests", max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

LITE_MEDSAM = "lite_medsam.pth"
VIT_TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"


def _folder_from(variable: str) -> Path:
    """Returns the folder named by an environment variable; skips if it is unset, fails if it is wrong."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set; this test needs the folder it names")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} names {value}, which is not a folder")
    return folder


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restores global state that a test changes: a bundle's logging.conf sets the root logger's level."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level = root.level
    yield
    root.setLevel(level)
    logging.disable(disabled)


@pytest.fixture
def bfloat16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test compute in bfloat16 on a CPU that emulates it: the results are the same, and the tests are small."""
    monkeypatch.setattr("tskd_monai.networks.bfloat16.cpu_capabilities", lambda: {"avx512_bf16": True})


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real images, one subfolder and datalist.json per dataset."""
    return _folder_from("TSKD_REAL_DATA")


@pytest.fixture(scope="session")
def vit_tiny_weights() -> Path:
    """Return the file of pre-trained ViT-Tiny/16 weights (timm key names)."""
    path = _folder_from("TSKD_WEIGHTS") / VIT_TINY
    if not path.is_file():
        pytest.fail(f"TSKD_WEIGHTS holds no {VIT_TINY}")
    return path


@pytest.fixture(scope="session")
def lite_medsam_weights() -> Path:
    """Return the published file of LiteMedSAM."""
    path = _folder_from("TSKD_WEIGHTS") / LITE_MEDSAM
    if not path.is_file():
        pytest.skip(f"TSKD_WEIGHTS holds no {LITE_MEDSAM}")
    return path


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """Returns the function that builds a small task: two organs on grey volumes, with any field changed."""
    task = Task(
        name="tiny",
        labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
        channels=1,
        image_size=(32, 48),
        pixdim=(1.0, 1.0),
        axcodes="PLS",
        intensity=Intensity("percentile", 1.0, 99.0),
    )

    def make(**changes: Any) -> Task:
        return replace(task, **changes)

    return make


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limits files to 100 kB, as on a full disk or quota."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
