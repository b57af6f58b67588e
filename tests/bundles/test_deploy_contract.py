"""Runs a student's TorchScript and the configs inside it as MONAI Deploy's bundle operator does, without Deploy.

The operator reads `metadata` and `inference` in the archive, drops every transform with `LoadImage` or `SaveImage` in
its name, passes an image (W, H, D) with its affine to `preprocessing`, calls `inferer` on the network, then
`postprocessing`, and passes one channel on as uint8. `configs/task.json` is read relative to `bundle_root`, so an
application starts in the bundle's folder.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, run
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import ensure_tuple, first

from tests.bundles.trainings import study_task, write_patients

DROPPED = ("LoadImage", "SaveImage")
AFFINE = np.diag([-8.0, -8.0, 20.0, 1.0])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained student bundle whose task keeps the largest component, with `models/model.ts`."""
    study = write_patients(tmp_path_factory.mktemp("deploy"))
    bundle = study / "student"
    assert study_task(study).keep_largest_component
    ckpt_export(
        net_id="network_def",
        filepath=str(bundle / "models" / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        key_in_ckpt="",
        bundle_root=str(bundle),
    )
    return bundle


@pytest.fixture
def parser(student: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigParser:
    """Return the configs in the TorchScript, parsed as the operator does, from the bundle's folder."""
    monkeypatch.chdir(student)
    with zipfile.ZipFile(student / "models" / "model.ts") as archive:
        contents = {name: json.loads(archive.read(f"model/extra/{name}.json")) for name in ("metadata", "inference")}
    parser = ConfigParser(contents["inference"])
    parser.read_meta(contents["metadata"])
    parser["device"] = "cpu"
    parser.parse()
    return parser


def filtered(compose: Compose) -> Compose:
    """Returns a composition without the transforms that read and write files."""
    compose.transforms = tuple(t for t in compose.transforms if not any(name in type(t).__name__ for name in DROPPED))
    return compose


def scan() -> np.ndarray:
    """Return a volume (W, H, D) of no patient."""
    return np.random.default_rng(0).integers(0, 1000, (40, 44, 6)).astype(np.float32)


def infer(parser: ConfigParser, student: Path) -> np.ndarray:
    """Segments a volume as the operator does; returns its output before the axes are permuted."""
    pre, post = (filtered(parser.get_parsed_content(name)) for name in ("preprocessing", "postprocessing"))
    network = torch.jit.load(str(student / "models" / "model.ts"), map_location="cpu").eval()
    voxels = scan()
    meta = {"affine": AFFINE.copy(), "original_affine": AFFINE, "space": "LPS", "original_channel_dim": "no_channel"}
    meta |= {"spatial_shape": np.asarray(voxels.shape)}
    inputs: dict[str, Any] = pre({"image": MetaTensor.ensure_torch_and_prune_meta(torch.from_numpy(voxels), meta)})
    with torch.no_grad():
        output = ensure_tuple(parser.get_parsed_content("inferer")(inputs=inputs["image"][None], network=network))[0]
    assert isinstance(first(post.transforms), MapTransform)  # or the operator would pass a bare tensor
    sent: MetaTensor = post({"pred": output, **inputs})["pred"]
    assert sent.dtype is torch.uint8
    return np.squeeze(sent.numpy(), 0)


def test_names_are_those_of_the_metadata(parser: ConfigParser) -> None:
    formats = parser["_meta_"]["network_data_format"]
    assert list(formats["inputs"]) == ["image"] and list(formats["outputs"]) == ["pred"]
    assert {formats["inputs"]["image"]["type"], formats["outputs"]["pred"]["type"]} == {"image"}
    preprocessing = parser.get_parsed_content("preprocessing")
    assert isinstance(preprocessing, Compose) and isinstance(parser.get_parsed_content("postprocessing"), Compose)
    keyed = [transform for transform in preprocessing.transforms if isinstance(transform, MapTransform)]
    assert keyed and all(tuple(transform.keys) == ("image",) for transform in keyed)


def test_every_class_has_a_name_for_its_segment(parser: ConfigParser, student: Path) -> None:
    """Deploy's SEG writer requires one description for each label value from 1."""
    names = parser["_meta_"]["network_data_format"]["outputs"]["pred"]["channel_def"]
    task = json.loads((student / "configs" / "task.json").read_text())
    assert names == {str(index): label["name"] for index, label in enumerate(task["labels"])}


def test_nothing_that_reads_or_writes_is_left(parser: ConfigParser) -> None:
    names = [type(transform).__name__ for transform in parser.get_parsed_content("postprocessing").transforms]
    assert names[-1] == "SaveImageInBackgroundd" and "SaveImage" in names[-1]
    assert not any(isinstance(t, Compose) for t in parser.get_parsed_content("postprocessing").transforms)


def test_the_label_map_is_that_of_the_runner_in_one_uint8_channel(
    parser: ConfigParser, student: Path, tmp_path: Path
) -> None:
    sent = infer(parser, student)
    assert sent.shape == scan().shape and sent.dtype == np.uint8
    nib.save(nib.Nifti1Image(scan(), AFFINE), tmp_path / "scan.nii.gz")
    run(
        config_file=str(student / "configs" / "inference.json"),
        bundle_root=str(student),
        logging_file=False,
        image=str(tmp_path / "scan.nii.gz"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    np.testing.assert_array_equal(sent, np.asarray(nib.load(tmp_path / "out" / "scan_seg.nii.gz").dataobj))


def test_without_the_task_the_error_names_the_path_searched(parser: ConfigParser, tmp_path: Path) -> None:
    parser["bundle_root"] = str(tmp_path)
    parser.parse()
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("preprocessing")
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "Expected the task at" in str(cause) and "bundle_root" in str(cause)
