"""The exported program gives the logits of the network for any number of slices, and knows its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.paths import BUNDLES
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.commands.export import main
from tskd_monai.data.task import Task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.networks.students import build_student


def test_the_program_is_the_network(
    tmp_path: Path, make_task: Callable[..., Task], capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task(image_size=(32, 32))
    torch.manual_seed(0)
    network = build_student("compact_unet_small", task.channels, task.num_classes, task.image_size).eval()
    write_student_bundle(BUNDLES / "segmentation", tmp_path, task, "compact_unet_small", network.state_dict())
    main([str(tmp_path), "--to", "pt2"])
    path = tmp_path / "models/model.pt2"
    assert f"{path}" in capsys.readouterr().out
    extra = {"weights_sha256": ""}
    program = torch.export.load(path, extra_files=extra).module()
    images = torch.rand(3, task.channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(images), network(images))
    assert extra["weights_sha256"] == file_sha256(tmp_path / "models/model.pt")
