from __future__ import annotations

import logging
import re
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd, SaveImaged
from pydicom import config, dcmread
from pydicom.dataset import FileDataset

from tskd_monai.data.dicom.geometry import to_slices
from tskd_monai.data.dicom.reader import read_grid
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.output_names import output_name
from tskd_monai.data.task import Label
from tskd_monai.data.volume_reader import load_image_transform
from tskd_monai.datasets.phantom.dicom import write_dicom_series

hd = pytest.importorskip("highdicom")

LABELS = [
    {"value": 0, "name": "background"},
    {"value": 1, "name": "liver"},
    (2, "right kidney"),
    (3, "left kidney"),
    Label(4, "spleen"),
]
OBLIQUE = ((0.936293, 0.289629, -0.198669), (-0.301247, 0.952, -0.054))


def label_map(folder: Path, labels: tuple[int, ...] = (0, 1, 2, 4), irregular: str = "refuse") -> MetaTensor:
    """Returns random labels on all slices but the first, (1, columns, rows, slices); 3 is absent by default."""
    image = EnsureChannelFirstd("image")(load_image_transform("image", irregular=irregular)({"image": folder}))["image"]
    values = np.random.default_rng(0).choice(labels, image.shape)
    values[..., 0] = 0
    return MetaTensor(torch.from_numpy(values), meta=image.meta)


def save(pred: MetaTensor, folder: Path, labels: Any = LABELS, kind: str = "BINARY") -> Path:
    writer: Any = partial(DicomSegWriter, labels=labels, segmentation_type=kind)
    SaveImaged(
        "pred",
        output_dir=folder,
        output_ext=".dcm",
        output_postfix="seg",
        output_dtype=np.uint8,
        separate_folder=False,
        writer=writer,
        output_name_formatter=output_name,
    )({"pred": pred})
    (path,) = folder.iterdir()
    return path


def read_back(path: Path, folder: Path) -> np.ndarray:
    """Returns segment numbers on the source grid, (columns, rows, slices), as highdicom finds them by instance."""
    _, grid = read_grid(folder)
    frames = hd.seg.segread(path).get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in grid.headers],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    return frames.transpose(2, 1, 0)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("directions", [((1, 0, 0), (0, 1, 0)), OBLIQUE])
def test_voxels_return_on_the_source_grid(tmp_path, write_series, directions, kind):
    folder = write_series(tmp_path / "1.2.3.4", directions=directions).folder
    pred = label_map(folder)
    path = save(pred, tmp_path / "out", kind=kind)
    assert dcmread(path).SegmentationType == kind
    assert path.name == f"{pred.meta['series_hash']}_seg.dcm"
    np.testing.assert_array_equal(read_back(path, folder), pred[0])


def test_voxels_return_to_the_same_position_in_the_patient(tmp_path, write_series):
    folder = write_series(tmp_path / "series", directions=OBLIQUE).folder
    pred = label_map(folder)
    volume = hd.seg.segread(save(pred, tmp_path / "out")).get_volume(combine_segments=True)
    lps_to_ras = np.diag([-1, -1, 1, 1])
    to_index = np.linalg.inv(np.asarray(pred.meta["original_affine"])) @ lps_to_ras @ volume.affine
    positions = np.argwhere(volume.array > 0)
    indices = (to_index @ np.c_[positions, np.ones(len(positions))].T)[:3].T
    np.testing.assert_allclose(indices, indices.round(), atol=1e-3)
    found = np.zeros(pred.shape[1:], int)
    found[tuple(indices.round().astype(int).T)] = volume.array[tuple(positions.T)]
    np.testing.assert_array_equal(found, pred[0])


def test_absent_labels_keep_their_segment_and_empty_frames_are_left_out(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    segmentation = hd.seg.segread(save(label_map(folder), tmp_path / "out"))
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["liver", "right kidney", "left kidney", "spleen"]
    assert segmentation.SegmentationType == "BINARY"
    assert segmentation.NumberOfFrames == 3 * 4  # three labels on four of the five slices


def test_empty_label_map_is_written(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    path = save(label_map(folder, labels=(0,)), tmp_path / "out")
    assert not read_back(path, folder).any()
    assert len(hd.seg.segread(path).SegmentSequence) == 4


def test_segments_carry_codes_laterality_and_algorithm(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    segments = dcmread(save(label_map(folder), tmp_path / "out")).SegmentSequence
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert [kind.CodeValue for kind in kinds] == ["10200004", "64033007", "64033007", "78961009"]
    modifiers = [kind.get("SegmentedPropertyTypeModifierCodeSequence") for kind in kinds]
    assert [m and m[0].CodeMeaning for m in modifiers] == [None, "Right", "Left", None]
    assert segments[0].SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert segments[0].SegmentAlgorithmType == "AUTOMATIC"
    assert segments[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "tskd-monai"


def test_seg_refers_to_its_source(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    segmentation = dcmread(save(label_map(folder), tmp_path / "out"))
    uid, grid = read_grid(folder)
    reference = segmentation.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == uid
    assert len(reference.ReferencedInstanceSequence) == 5
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert segmentation[tag].value == grid.headers[0][tag].value
    assert segmentation.SeriesInstanceUID != uid


def _tilt(dataset: FileDataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y + 0.75 * index, z]  # one row per slice


@pytest.mark.parametrize(("positions", "edit"), [((0, 2.5, 5, 10), None), ((0, 2.5, 5), _tilt)])
def test_resampled_series_gets_its_seg_on_the_slices_as_scanned(tmp_path, write_series, positions, edit):
    folder = write_series(tmp_path / "series", positions=positions, edit=edit).folder
    pred = label_map(folder, irregular="resample")
    segmentation = hd.seg.segread(save(pred, tmp_path / "out"))
    _, grid = read_grid(folder, irregular="resample")
    frames = segmentation.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in grid.headers], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), to_slices(np.asarray(pred[0]), grid))
    assert frames.any() and len(frames) == len(positions)


def test_enhanced_image_is_referred_to_by_its_frames(tmp_path):
    shape, affine = (10, 14, 4), np.diag([1.5, 2.0, 4.0, 1.0])
    paths = write_dicom_series(tmp_path / "classic", np.arange(560).reshape(shape), affine, seed=1, shuffle=True)
    image = hd.legacy.LegacyConvertedEnhancedMRImage([dcmread(p) for p in sorted(paths)], hd.UID(), 7, hd.UID(), 1)
    (tmp_path / "enhanced").mkdir()
    image.save_as(tmp_path / "enhanced" / "image.dcm")
    pred = label_map(tmp_path / "enhanced")
    segmentation = hd.seg.segread(save(pred, tmp_path / "out"))
    _, grid = read_grid(tmp_path / "enhanced")
    frames = segmentation.get_pixels_by_source_frame(
        image.SOPInstanceUID,
        [int(header.ReferencedFrameNumber) for header in grid.headers],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), pred[0])


def test_label_values_need_not_be_consecutive(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    pred = label_map(folder, labels=(0, 255))
    path = save(pred, tmp_path / "out", labels=[(255, "lesion")])
    np.testing.assert_array_equal(read_back(path, folder) * 255, pred[0])


def test_chosen_series_is_found_again_among_several(tmp_path, write_series):
    write_series(tmp_path / "7" / "a")
    second = write_series(tmp_path / "7" / "b", seed=1)
    image = load_image_transform("image", series_uid=second.uid)({"image": tmp_path / "7"})["image"]
    pred = MetaTensor(torch.ones_like(image.as_tensor())[None], meta=image.meta)
    segmentation = dcmread(save(pred, tmp_path / "out"))
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == second.uid


def test_other_grids_and_sources_are_refused(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    pred = label_map(folder)
    with pytest.raises(
        RuntimeError, match=r"Expected a label map of \(14, 10, 5\) for series \w{8}, found \(14, 10, 4\)"
    ):
        save(MetaTensor(pred.as_tensor()[..., :4], meta=pred.meta), tmp_path / "out")
    with pytest.raises(RuntimeError, match="Expected a label map made from a DICOM series, found a.nii.gz"):
        save(
            MetaTensor(pred.as_tensor(), meta={**pred.meta, "filename_or_obj": "a.nii.gz", "series_hash": ""}),
            tmp_path / "out",
        )
    next(folder.iterdir()).unlink()
    with pytest.raises(RuntimeError, match=r"Expected \w+\.?\w* of series \w{8}, found none; the series changed"):
        save(pred, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_only_the_files_that_were_read_are_opened_again(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    pred = label_map(folder)
    expected = save(pred, tmp_path / "before")
    write_series(folder / "later", seed=1)  # a second series, and a file that reading the folder would refuse
    (folder / "IM9").write_bytes(bytes(200))
    with pytest.raises(ValueError, match="IM9 unreadable"):
        read_grid(folder)
    found = dcmread(save(pred, tmp_path / "after"))
    assert found.PixelData == dcmread(expected).PixelData
    assert found.ReferencedSeriesSequence == dcmread(expected).ReferencedSeriesSequence


def test_files_that_are_no_longer_those_that_were_read_are_refused(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    pred = label_map(folder)
    path = sorted(folder.iterdir())[0]
    original = path.read_bytes()
    dataset = dcmread(path)
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.save_as(path)
    with pytest.raises(
        RuntimeError, match=rf"Expected {path.name} of series \w{{8}} as it was read, found another inst"
    ):
        save(pred, tmp_path / "out")
    dataset = dcmread(BytesIO(original))
    dataset.PixelSpacing = [9.0, 9.0]
    dataset.save_as(path)
    with pytest.raises(RuntimeError, match="Expected one PixelSpacing in series"):
        save(pred, tmp_path / "out")
    for moved in folder.iterdir():  # the whole series, shifted by 30 mm
        dataset = dcmread(BytesIO(original)) if moved == path else dcmread(moved)
        dataset.ImagePositionPatient = [value + 30 for value in dataset.ImagePositionPatient]
        dataset.save_as(moved)
    with pytest.raises(RuntimeError, match="the series changed since it was read"):
        save(pred, tmp_path / "out")


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("", "Plain^Name"),
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (None, "Plain^Name"),
    ],
)
def test_names_survive_in_any_character_set(tmp_path, write_series, character_set, name):
    def edit(dataset: FileDataset, index: int) -> None:
        dataset.PatientName = name
        if character_set is not None:
            dataset.SpecificCharacterSet = character_set

    folder = write_series(tmp_path / "series", edit=edit).folder
    assert str(dcmread(save(label_map(folder), tmp_path / "out")).PatientName) == name


def test_blank_uids_are_refused(tmp_path, write_series):
    folder = write_series(tmp_path / "series", edit=lambda d, _: setattr(d, "StudyInstanceUID", "")).folder
    with pytest.raises(RuntimeError, match="found StudyInstanceUID blank; write .nii.gz instead"):
        save(label_map(folder), tmp_path / "out")


def raw(tags: dict[str, Any]) -> Any:
    """Returns the edit that sets values as stored in files, valid or not."""

    def edit(dataset: FileDataset, index: int) -> None:
        with config.disable_value_validation():
            for tag, value in tags.items():
                setattr(dataset, tag, value)

    return edit


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("PatientSex", "U"),
        ("PatientSex", "male"),
        ("PatientBirthDate", "19701399"),
        ("PatientBirthTime", "10:10"),
        ("PatientAge", "45"),
        ("StudyDate", "00000000"),
        ("StudyDate", "2024-01-31"),
        ("StudyTime", "10:10:10"),
    ],
)
def test_value_of_no_valid_format_is_left_blank_with_a_warning(tmp_path, write_series, caplog, recwarn, tag, value):
    folder = write_series(tmp_path / "series", edit=raw({tag: value, "PatientID": "7"})).folder
    caplog.set_level(logging.INFO)
    path = save(label_map(folder), tmp_path / "out")
    written = dcmread(path)
    assert not written.get(tag) and written.PatientID == "7"
    assert f": {tag} is no valid value; the DICOM SEG leaves it blank." in caplog.text
    told = [caplog.text, *(str(warning.message) for warning in recwarn)]
    assert not any(re.search(rf"\b{re.escape(value)}\b", text) for text in told)  # a file's hash may hold its digits
    np.testing.assert_array_equal(read_back(path, folder), label_map(folder)[0])


@pytest.mark.parametrize(("tag", "value"), [("PatientID", "P" * 90), ("AccessionNumber", "A" * 40)])
def test_text_that_is_too_long_stays_the_sources(tmp_path, write_series, tag, value):
    folder = write_series(tmp_path / "series", edit=raw({tag: value})).folder
    assert dcmread(save(label_map(folder), tmp_path / "out"))[tag].value == value


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize("value", ["1.2.840.anon.77", "1.2." + "3" * 70, "1.2.03.4"])
def test_ill_formed_uids_are_refused_by_the_element(tmp_path, write_series, tag, value):
    folder = write_series(tmp_path / "series", edit=raw({tag: value})).folder
    with pytest.raises(RuntimeError, match=f"found {tag} ill-formed; write .nii.gz instead"):
        save(label_map(folder), tmp_path / "out")


def test_repeated_instance_uids_are_refused(tmp_path, write_series):
    folder = write_series(tmp_path / "series", edit=raw({"SOPInstanceUID": "1.2.3.4"})).folder
    with pytest.raises(RuntimeError, match=r"Expected an SOPInstanceUID for each file of .*, found 4 repeated"):
        save(label_map(folder), tmp_path / "out")


def test_what_highdicom_refuses_is_reported_without_its_values(tmp_path, write_series, monkeypatch):
    def refuse(**options: Any) -> None:
        raise AttributeError("Doe^Jane is not a name")

    folder = write_series(tmp_path / "series").folder
    pred = label_map(folder)
    monkeypatch.setattr(hd.seg, "Segmentation", refuse)
    writer = DicomSegWriter(labels=LABELS)
    writer.set_data_array(pred)
    writer.set_metadata(pred.meta)
    with pytest.raises(
        ValueError, match=r"Expected a series .* headers are refused \(AttributeError\); write"
    ) as raised:
        writer.write(tmp_path / "a.dcm")
    assert "Doe" not in str(raised.value) and not (tmp_path / "a.dcm").exists()


def test_values_without_a_label_are_refused(tmp_path, write_series):
    folder = write_series(tmp_path / "series").folder
    with pytest.raises(RuntimeError, match=r"Expected the label values \[1\], found \[2, 4\] too"):
        save(label_map(folder), tmp_path / "out", labels=[(1, "liver")])


def test_labels_are_checked():
    with pytest.raises(ValueError, match=r"Expected labels with distinct values above 0, found \[1, 1\]"):
        DicomSegWriter(labels=[(1, "liver"), (1, "spleen")])
    with pytest.raises(ValueError, match="Expected value, name and perhaps snomed"):
        DicomSegWriter(labels=[{"id": 1}])


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"segmentation_type among \('BINARY', 'LABELMAP'\), found 'FRACTIONAL'"):
        DicomSegWriter(labels=[(1, "liver")], segmentation_type="FRACTIONAL")


def test_missing_highdicom_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"Writing DICOM SEG needs highdicom.*tskd-monai\[dicom\]"):
        DicomSegWriter(labels=[(1, "liver")])


def test_real_series_takes_a_segmentation(tmp_path, real_data):
    folder = real_data / "dicom" / "ct_liver_seg" / "ct-3slice"
    pred = label_map(folder)
    np.testing.assert_array_equal(read_back(save(pred, tmp_path / "out"), folder), pred[0])
