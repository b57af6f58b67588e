from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import ImageWriter, MetaTensor
from monai.transforms import Compose, SaveImaged

from tskd_monai.inference.failures import describe, root_cause


def caught(raise_it: Any) -> BaseException:
    with pytest.raises(BaseException, match=".") as raised:
        raise_it()
    return raised.value


def wrapped(error: BaseException) -> BaseException:
    def fail(data: Any) -> None:
        raise error

    return caught(lambda: Compose([fail])({"image": 0}))


def test_message_for_users_is_unchanged() -> None:
    error = ValueError("Expected a volume in a.nii, found none; export it again.")
    assert root_cause(wrapped(error)) is error
    assert describe(wrapped(error)) == str(error)


def test_other_messages_come_with_their_type() -> None:
    assert describe(wrapped(MemoryError("9 GB"))) == "MemoryError: 9 GB"
    assert describe(RuntimeError("out of memory")) == "RuntimeError: out of memory"


def test_writers_error_is_found_in_the_message_of_save_image(tmp_path: Path) -> None:
    class FullDiskWriter(ImageWriter):
        def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, "Expected room, found none: free some.")

    save = SaveImaged("pred", tmp_path, output_ext=".nii", writer=FullDiskWriter, print_log=False)
    pred = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "a.nii"})
    assert describe(caught(lambda: Compose([save])({"pred": pred}))) == "Expected room, found none: free some."
