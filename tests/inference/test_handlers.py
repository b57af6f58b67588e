from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Lambdad

from tskd_monai.data.task import Task
from tskd_monai.inference.handlers import RaiseRootCause, existing_checkpoint, progress_bar
from tskd_monai.transforms.pipelines import preprocessing


def run(item: dict[str, Any], transform: Compose, handlers: tuple[Any, ...] = (RaiseRootCause(),)) -> None:
    """Run an evaluator over one item."""
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([item], transform), batch_size=1),
        network=torch.nn.Identity(),
        val_handlers=list(handlers),
    ).run()


def failing(error: Exception) -> Compose:
    def fail(value: Any) -> Any:
        raise error

    return Compose([Lambdad("image", fail)])


@pytest.mark.parametrize("error", [ValueError("damaged: a.nii"), FileNotFoundError("gone: a.nii")])
def test_users_see_what_was_wrong_and_not_where_it_passed_through(error: Exception) -> None:
    with pytest.raises(type(error), match=r"^(damaged|gone): a\.nii$") as raised:
        run({"image": 0}, failing(error))
    assert raised.value is error


def test_without_the_handler_they_would_not() -> None:
    with pytest.raises(RuntimeError, match="applying transform"):
        run({"image": 0}, failing(ValueError("damaged: a.nii")), handlers=())


def test_other_errors_come_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="applying transform") as raised:
        run({"image": 0}, failing(KeyError("image")))
    assert isinstance(raised.value.__cause__, KeyError)


def test_damaged_file_is_named(
    make_task: Callable[..., Task], write_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_nifti("scan.nii.gz", np.ones((20, 20, 20), np.int16))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^Expected a complete NIfTI file, found scan\.nii\.gz truncated"):
        run({"image": str(path)}, preprocessing(make_task()))


def test_run_without_errors_continues() -> None:
    run({"image": torch.zeros(1, 4, 4), "label": torch.zeros(1, 4, 4)}, Compose([]))


def test_checkpoint_that_exists_is_returned(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
    assert existing_checkpoint(tmp_path / "model.pt") == str(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n",
            "a Git LFS pointer, .* `git lfs pull`",
        ),
        (b"<!DOCTYPE html><html>404</html>", "a web page, as left by a failed download"),
        (b"", "an empty file; copy or download it again"),
        (None, "a file that is damaged or truncated; copy or download it again"),
    ],
)
def test_what_is_no_checkpoint_is_named_for_what_it_is(tmp_path: Path, content: bytes | None, found: str) -> None:
    torch.save({"weight": torch.zeros(200)}, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=rf"Expected weights in .*model\.pt, found {found}"):
        existing_checkpoint(tmp_path / "model.pt")


def test_missing_checkpoint_states_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trained weights at .*model\.pt, found none\. Give --bundle_root"):
        existing_checkpoint(tmp_path / "model.pt")


def test_the_progress_bar_names_what_runs_and_counts(capfd: pytest.CaptureFixture[str]) -> None:
    run({"image": torch.zeros(1, 2)}, Compose([]), (progress_bar("Segmenting"),))
    assert "Segmenting" in capfd.readouterr().err
