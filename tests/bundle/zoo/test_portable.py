"""The portable export: no code, MONAI's parts only, and the segmentations of the student."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from tests.support.paths import BUNDLES
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.bundle.zoo.contents import Trained
from tskd_monai.bundle.zoo.portable import export_portable, inference_config
from tskd_monai.data.task import Label, Task
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.networks.students import build_student

REFERENCE = r"@\w+"
TEXT = r"'[\w./*]*'"
EXPRESSIONS = re.compile(
    "|".join(
        (
            r"\$import glob",
            rf"\${REFERENCE}( \+ {TEXT})?",
            rf"\${REFERENCE}\.\w+\(({REFERENCE})?\)",
            rf"\$list\(sorted\(glob\.glob\({REFERENCE} \+ {TEXT}\)\)\)",
            r"\$torch\.device\('cuda' if torch\.cuda\.is_available\(\) else 'cpu'\)",
            rf"\$\[\{{'image': path\}} for path in {REFERENCE}\]",
        )
    )
)
"""References, attributes, calls with a reference or nothing, and what zoo bundles write for lists and the device."""


def values(config: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and value of every entry of a config that is no list or object."""
    items = config.items() if isinstance(config, dict) else [("", value) for value in config]
    for name, value in items:
        if isinstance(value, (dict, list)):
            yield from values(value)
        else:
            yield name, value


def segmented(bundle: Path, output_dir: Path, **options: Any) -> np.ndarray:
    """Segments with the bundle's `inference.json`; returns the label map."""
    workflow = ConfigWorkflow(
        str(bundle / "configs/inference.json"), workflow_type="infer", logging_file=False, bundle_root=str(bundle),
        output_dir=str(output_dir), device="cpu", **options,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    (path,) = output_dir.glob("*_seg.nii.gz")
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize(("rotation", "fewest"), [((0.0, 0.0, 0.0), 0.999), ((5.0, -8.0, 10.0), 0.99)])
def test_the_shipped_student_segments_the_phantom_alike(
    tmp_path: Path, rotation: tuple[float, float, float], fewest: float
) -> None:
    """An oblique volume is sampled elsewhere: MONAI's `Spacing` shifts its grid, here by a third of a pixel of 5 mm."""
    grid = make_grid((64, 60, 10), (5.0, 5.5, 20.0), "LAS", rotation_deg=rotation)
    image, label = render(sample_anatomy(3), grid, 3)
    nib.save(nib.Nifti1Image(image.astype(np.int16), grid.matrix), tmp_path / "scan.nii.gz")
    folder = export_portable(Trained(None), tmp_path / "zoo", "abdomen_portable")
    found = segmented(folder, tmp_path / "portable", datalist=[str(tmp_path / "scan.nii.gz")])
    expected = segmented(BUNDLES / "segmentation", tmp_path / "full", image=str(tmp_path / "scan.nii.gz"))
    assert found.shape == expected.shape == label.shape and found.dtype == np.uint8
    assert set(np.unique(expected)) == set(LABELS)
    assert (found == expected).mean() >= fewest


def test_it_holds_configs_weights_and_documents_of_stock_parts(tmp_path: Path) -> None:
    folder = export_portable(Trained(None), tmp_path, "abdomen_portable")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE", "configs/inference.json", "configs/metadata.json", "configs/logging.conf", "docs/README.md",
        "models/model.pt",
    }  # fmt: skip
    config = json.loads((folder / "configs/inference.json").read_text())
    entries = list(values(config))
    expressions = [value for _, value in entries if str(value).startswith("$")]
    assert expressions and not [value for value in expressions if not EXPRESSIONS.fullmatch(value)]
    assert not [value for name, value in entries if name == "_target_" and "." in value]
    assert "tskd_monai" not in json.dumps(config)
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 5
    assert export_portable(Trained(None), tmp_path, "abdomen_portable") == folder  # replaces its own
    (folder / "scripts").mkdir()
    (folder / "scripts/a.py").touch()
    with pytest.raises(FileExistsError, match="an earlier portable export"):
        export_portable(Trained(None), tmp_path, "abdomen_portable")


def test_filters_and_label_values_are_stock_transforms(make_task: Callable[..., Task]) -> None:
    labels = (Label(0, "background"), Label(4, "liver"), Label(300, "spleen"))
    task = replace(make_task(), labels=labels, class_frequencies=(), keep_largest_component=(300,))
    steps = inference_config(task, {})["postprocessing"]["transforms"]
    assert [step["_target_"] for step in steps] == [
        "Invertd", "AsDiscreted", "KeepLargestConnectedComponentd", "MapLabelValued", "SaveImaged"
    ]  # fmt: skip
    assert steps[2]["applied_labels"] == [2] and steps[3]["target_labels"] == [0, 4, 300]
    assert steps[-1]["output_dtype"] == "int32"


def test_students_with_own_code_or_of_pictures_are_refused(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    task = make_task(image_size=(32, 32))
    for student, changed, message in (
        ("vit_tiny", task, "Expected a student whose network is MONAI's for --to portable, found vit_tiny"),
        ("compact_unet_small", replace(task, axcodes=None), "found one of 2D image files"),
        ("compact_unet_base", replace(task, neighbours=1), "Expected a student of single slices"),
    ):
        torch.manual_seed(0)
        network = build_student(student, changed.student_channels, changed.num_classes, changed.image_size)
        bundle = tmp_path / student
        write_student_bundle(BUNDLES / "segmentation", bundle, changed, student, network.state_dict())
        with pytest.raises(ValueError, match=message):
            export_portable(Trained(bundle), tmp_path / "zoo", "a")
    assert not any((tmp_path / "zoo").iterdir())
