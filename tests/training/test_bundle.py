from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tskd_monai.training.bundle import check_bundle_root, dataset_dir, default_device

BUNDLES = Path(__file__).parent.parent.parent / "bundles"


@pytest.mark.parametrize("name", ["teacher_lora", "diffusion_synthesis", "distillation", "segmentation"])
def test_each_bundle_is_one(name: str) -> None:
    check_bundle_root(BUNDLES / name)


def test_another_folder_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"bundle at elsewhere/, found no configs/metadata\.json.*--bundle_root"
    ):
        check_bundle_root(".")


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda:0"), (False, "cpu")])
def test_the_first_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(expected)


def test_paths_are_relative_to_the_datalist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_dir("study/datalist.json") == str((tmp_path / "study").resolve())
    assert Path(dataset_dir(None)).is_absolute()
