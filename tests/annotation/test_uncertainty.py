from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.paths import BUNDLES
from tskd_monai.annotation.uncertainty import choose_next, main, mean_entropy
from tskd_monai.data.nifti import write_nifti


def test_the_entropy_is_that_of_possible_foreground_only() -> None:
    certain, even = torch.tensor([0.0, 1.0, 0.0]), torch.full((3,), 1 / 3)
    background = torch.tensor([1.0, 0.0, 0.0])
    image = torch.stack([background] * 6 + [certain, even], dim=1).view(1, 3, 2, 4)
    assert mean_entropy(image) == pytest.approx(0.5)
    assert mean_entropy(image[..., :2]) == 1  # nothing is found: the image to look at


def test_the_next_image_is_the_most_uncertain_unlabelled_one() -> None:
    scores = {"a": 0.9, "b": 0.2, "c": 0.4}
    assert choose_next(["b", "c", "d"], scores) == "c"
    assert choose_next(["d", "e"], scores, seed=0) in ("d", "e") and choose_next([], scores) is None
    assert {choose_next(list("abcd"), {}, seed=seed) for seed in range(30)} == set("abcd")


def test_a_student_is_less_certain_of_noise_than_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    write_nifti(tmp_path / "noise.nii.gz", rng.normal(size=(40, 40, 3)).astype(np.float32), np.diag([6.0, 6, 8, 1]))
    images = {"noise": str(tmp_path / "noise.nii.gz"), "missing": str(tmp_path / "missing.nii.gz")}
    (tmp_path / "images.json").write_text(json.dumps(images))
    arguments = [str(BUNDLES / "segmentation"), str(tmp_path / "images.json"), str(tmp_path / "scores.json")]
    monkeypatch.setattr(sys, "argv", ["uncertainty", *arguments])
    main()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["noise"] and 0 < scores["noise"] <= 1
