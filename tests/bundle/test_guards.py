from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.paths import ROOT
from tskd_monai.bundle import guards
from tskd_monai.bundle.guards import guard_run

BUNDLE = ROOT / "bundles" / "distillation"


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_every_source_of_random_numbers_is_seeded(tmp_path: Path) -> None:
    found = []
    for seed in (5, 5, 6):
        guard_run(BUNDLE, tmp_path, seed).release()
        found.append(drawn())
    assert found[0] == found[1]
    assert all(first != other for first, other in zip(found[0], found[2], strict=True))


def test_the_folder_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    output = tmp_path / "output"
    held = guard_run(BUNDLE, output, 0)
    assert list(output.iterdir())  # `tests/bundles/test_one_owner.py` starts a second process
    held.release()
    assert not output.exists()  # nothing was written to it
    held.release()


def test_a_dry_run_checks_and_holds_nothing(tmp_path: Path) -> None:
    guard_run(BUNDLE, tmp_path / "output", 0, hold_output=False).release()
    assert not (tmp_path / "output").exists()
    with pytest.raises(FileNotFoundError, match="Give --bundle_root"):
        guard_run(tmp_path, tmp_path / "output", 0, hold_output=False)


def test_nothing_is_locked_before_everything_is_checked(tmp_path: Path) -> None:
    for options, error in (({"paths": {"teacher_dir": 7}}, ValueError), ({"deterministic": "yes"}, TypeError)):
        with pytest.raises(error):
            guard_run(BUNDLE, tmp_path / "output", 0, **options)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="Expected several processes under torchrun"):
        guard_run(BUNDLE, tmp_path / "output", 0, distributed=True)
    assert not (tmp_path / "output").exists()


def test_the_process_group_is_joined_before_the_folder_is_taken_and_left_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first process locks the folder, which no process knew before; the others must not find it free early."""
    calls: list[str] = []
    for name in ("check_bundle_root", "use_deterministic_algorithms", "seed_generators", "start_process_group",
                 "hold_output_dir", "release_output_dir", "stop_process_group"):  # fmt: skip
        monkeypatch.setattr(guards, name, lambda *_args, _name=name, **_options: calls.append(_name))
    held: Any = guard_run(BUNDLE, tmp_path, 0, distributed=True)
    held.release()
    held.release()
    assert calls == [
        "check_bundle_root", "use_deterministic_algorithms", "seed_generators", "start_process_group",
        "hold_output_dir", "release_output_dir", "stop_process_group", "release_output_dir",
    ]  # fmt: skip
