"""A folder or datalist whose labels are SEG, RTSTRUCT or Slicer segmentations becomes one of label maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom import dcmread

from tskd_monai.commands.check import survey_of
from tskd_monai.commands.user_data import datalist_of, labelled_datalist
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.nrrd import write_nrrd
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.files.json_files import read_json, write_json

pytest.importorskip("highdicom")

LABELS = [(1, "liver"), (2, "spleen")]
AFFINE = np.diag([-1.5, -1.5, 4.0, 1.0])


def write_case(data: Path, index: int, kind: str, labels: list[tuple[int, str]] = LABELS) -> np.ndarray:
    """Writes images/case N/, a DICOM series of an imaginary patient, and a label named after nothing."""
    rng = np.random.default_rng(index)
    folder = data / "images" / f"case {index}"
    write_dicom_series(folder, rng.integers(0, 500, (12, 10, 6)), AFFINE, seed=index, patient_id=f"Doe{index}")
    image, meta = VolumeReader().read(folder)
    values = rng.choice([0, 1, 2], image.shape)
    writer = (RtStructWriter if kind == "rtstruct" else DicomSegWriter)(labels=labels)
    writer.set_data_array(MetaTensor(torch.from_numpy(values[None]), meta=meta))
    writer.set_metadata({**meta, "filename_or_obj": str(folder)})
    (data / "labels").mkdir(parents=True, exist_ok=True)
    writer.write(data / "labels" / f"{kind.upper()}.{9 - index}.dcm")
    return values


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_labels_are_found_by_uid_and_written_on_the_grid_of_their_series(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = [write_case(tmp_path / "data", index, kind) for index in range(3)]
    path = datalist_of(Path("data"), Path("run"), "spleen,liver=7")  # as a command may name them
    datalist = load_datalist(path)
    assert datalist["labels"] == {"0": "background", "1": "spleen", "7": "liver"}
    for section in ("training", "validation", "test"):
        (entry,) = datalist[section]
        expected = np.array([0, 7, 1])[values[int(entry["case"][-1])]]
        found, meta = VolumeReader(labels=True).read(entry["label"])
        np.testing.assert_array_equal(found, expected)
        image_affine = VolumeReader().read(entry["image"])[1]["affine"]
        np.testing.assert_allclose(meta["affine"], image_affine, atol=1e-3)
        assert "Doe" not in entry["label"] and Path(entry["label"]).parent == tmp_path / "run/private/labels"
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/private/labels").iterdir()}
    assert len(written) == 3
    assert read_json(datalist_of(Path("data"), Path("run"), "spleen,liver=7")) == read_json(path)
    assert written == {file: file.stat().st_mtime_ns for file in (tmp_path / "run/private/labels").iterdir()}
    tests = load_datalist(labelled_datalist(tmp_path / "data", tmp_path / "scores", "spleen,liver=7"))["test"]
    assert len(tests) == 3 and all(entry["label"].endswith(".nii.gz") for entry in tests)


def test_labels_of_a_datalist_are_converted_and_each_fault_is_a_line_of_the_survey(tmp_path: Path) -> None:
    """A missing structure, the label of another patient, and one of a NIfTI image; the other cases remain."""
    for index in range(4):
        write_case(tmp_path, index, "seg", LABELS if index else [(1, "liver"), (2, "Milz")])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 3), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    entries = [
        {"image": f"images/case {index}", "label": f"labels/SEG.{9 - index}.dcm", "case": f"p{index}"}
        for index in range(4)
    ]
    entries[1]["label"] = "labels/SEG.8.copy.dcm"
    shutil.copy(tmp_path / "labels/SEG.7.dcm", tmp_path / "labels/SEG.8.copy.dcm")
    entries.append({"image": "a.nii.gz", "label": "labels/SEG.8.dcm", "case": "p4"})
    content = {"labels": {"0": "background", "1": "liver", "2": "spleen"}, "training": entries}
    write_json(tmp_path / "list.json", content)
    with pytest.raises(ValueError, match=r"Expected a structure spleen in SEG.9.dcm, found liver, Milz; name it"):
        datalist_of(tmp_path / "list.json", tmp_path / "run")
    assert not (tmp_path / "run/private/data.json").exists()
    path = datalist_of(tmp_path / "list.json", tmp_path / "run", lenient=True)
    survey, _ = survey_of(path, None)
    refused = {one.case: one.reason for one in survey.refused if one.case}
    assert set(refused) == {"p0", "p1", "p4"}
    assert "another patient" in refused["p1"] and "Doe" not in str(refused)
    assert "Expected the DICOM series that SEG.8.dcm was drawn on as its image" in refused["p4"]
    assert [len(read_json(path)["training"]), len(survey.cases)] == [5, 2]
    write_json(tmp_path / "list.json", {**content, "training": [entries[0]], "structures": {"spleen": "milz"}})
    (entry,) = load_datalist(datalist_of(tmp_path / "list.json", tmp_path / "run"))["training"]
    assert set(np.unique(VolumeReader(labels=True).read(entry["label"])[0])) == {0, 1, 2}


def test_faults_of_a_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for index in range(3):
        write_case(data, index, "seg")
    with pytest.raises(ValueError, match=r"Expected --labels with the structures .* SEG.\d.dcm has liver, spleen"):
        datalist_of(data, tmp_path / "run")
    copy = data / "labels/again.dcm"
    shutil.copy(data / "labels/SEG.9.dcm", copy)
    with pytest.raises(ValueError, match="Expected one label of case 0, found SEG.9.dcm and again.dcm"):
        datalist_of(data, tmp_path / "run", "liver")
    label = dcmread(copy)
    label.ReferencedSeriesSequence[0].SeriesInstanceUID += ".1"
    label.save_as(copy)
    with pytest.raises(ValueError, match="the DICOM series that each label was drawn on, found none that again.dcm"):
        datalist_of(data, tmp_path / "run", "liver")
    assert not (tmp_path / "run").exists()


def test_segments_of_slicer_are_chosen_by_name_if_a_label_has_one(tmp_path: Path) -> None:
    """The value of a segment is its number in its file, and may be another one in the next."""
    data = tmp_path / "data"
    for index in range(3):
        for kind, ending in (("images", ".nrrd"), ("labels", ".seg.nrrd")):
            (data / kind).mkdir(parents=True, exist_ok=True)
            path = data / kind / f"case{index}{ending}"
            write_nrrd(path, np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) % 3, AFFINE)
        names = ("liver", "spleen") if index else ("spleen", "liver")
        pairs = "".join(f"Segment{n}_Name:={name}\nSegment{n}_LabelValue:={n + 1}\n" for n, name in enumerate(names))
        path.write_bytes(path.read_bytes().replace(b"\n\n", f"\n{pairs}\n".encode(), 1))
    datalist = load_datalist(datalist_of(data, tmp_path / "run", "liver,spleen"))
    entries = {entry["case"]: entry for section in ("training", "validation", "test") for entry in datalist[section]}
    maps = [VolumeReader(labels=True).read(entries[f"case{index}"]["label"])[0] for index in range(3)]
    stored = np.arange(4 * 4 * 3).reshape(4, 4, 3) % 3
    np.testing.assert_array_equal(maps[0], np.array([0, 2, 1])[stored])
    np.testing.assert_array_equal(maps[1], stored)
    by_value = load_datalist(datalist_of(data, tmp_path / "other", "one,two"))
    assert by_value["training"][0]["label"].endswith(".seg.nrrd")
