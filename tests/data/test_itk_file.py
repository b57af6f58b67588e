"""NRRD and MetaImage: the same volume in every format is the same array; all that is not one volume is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import ITKReader
from monai.transforms import LoadImage

from tests.data.itk_volumes import TYPES, write_meta_image, write_nrrd_file, write_volume
from tests.data.test_nifti_properties import SHAPES, affines
from tskd_monai.data.grid import corner_distance
from tskd_monai.data.itk_file import data_files, read_itk
from tskd_monai.data.nifti import read_nifti, write_nifti
from tskd_monai.data.nrrd import write_nrrd
from tskd_monai.data.volume_reader import VolumeReader, load_image_transform

OBLIQUE = np.array([[-1.4, 0.3, 0.1, 10], [0.3, 1.9, -0.2, -20.123], [0.05, 0.2, 2.9, 5], [0, 0, 0, 1]], float)
STRAIGHT = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], float)
ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".seg.nrrd")
VOXELS = np.random.default_rng(0).integers(-300, 3000, (5, 6, 7)).astype("<i2")


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_volume_in_every_format_is_the_same(tmp_path: Path, ending: str) -> None:
    write_nifti(tmp_path / "a.nii.gz", VOXELS, STRAIGHT)
    expected, affine = read_nifti(tmp_path / "a.nii.gz")
    found, found_affine = read_itk(write_volume(tmp_path / f"a{ending}", VOXELS, STRAIGHT))
    assert found.dtype == np.float32 and found_affine.dtype == np.float64
    assert found.tobytes(order="F") == expected.tobytes(order="F")
    assert found.strides == expected.strides
    assert corner_distance(found.shape, found_affine, affine) < 1e-6
    image = load_image_transform("image")({"image": tmp_path / f"a{ending}"})["image"]
    assert image.meta.keys() == load_image_transform("image")({"image": tmp_path / "a.nii.gz"})["image"].meta.keys()
    assert VolumeReader(labels=True).read(tmp_path / f"a{ending}")[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_monai_reads_the_same(tmp_path: Path, ending: str) -> None:
    path = write_volume(tmp_path / f"a{ending}", VOXELS, OBLIQUE)
    image = LoadImage(reader=ITKReader(affine_lps_to_ras=True), image_only=True)(path)
    found, affine = read_itk(path)
    np.testing.assert_array_equal(found, np.asarray(image))
    np.testing.assert_allclose(affine, np.asarray(image.affine), atol=1e-6)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-9)


@settings(max_examples=60)
@given(
    affine=affines(),
    shape=SHAPES,
    kind=st.sampled_from([order + code for code in TYPES for order in "<>"]),
    ending=st.sampled_from(ENDINGS),
)
def test_a_volume_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    kind: str,
    ending: str,
) -> None:
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    found, found_affine = read_itk(write_volume(tmp_path_factory.getbasetemp() / f"v{ending}", voxels, affine))
    np.testing.assert_array_equal(found, voxels.astype(np.float32))
    assert corner_distance(shape, found_affine, affine) < 1e-6


@pytest.mark.parametrize("kind", ["<i4", "<u4", "<i8", "<f8"])
def test_large_whole_numbers_are_exact_as_far_as_float32_holds_them(tmp_path: Path, kind: str) -> None:
    voxels = np.array([0, 1, 2**24 - 1, 2**24], kind).reshape(1, 2, 2)
    for ending in (".nrrd", ".mha"):
        found, _ = read_itk(write_volume(tmp_path / f"a{ending}", voxels, STRAIGHT))
        assert found.astype(np.int64).ravel().tolist() == voxels.astype(np.int64).ravel().tolist()


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior", "LPS"])
def test_a_named_space_says_where_the_axes_point(tmp_path: Path, space: str) -> None:
    signs = {"r": (1, 1), "l": (-1, 1)}[space[0].lower()]
    anterior = "anterior" in space or space.upper() in ("RAS", "LAS")
    to_space = np.diag([signs[0], 1 if anterior else -1, 1, 1])
    columns = [f"({','.join(map(str, column))})" for column in (to_space @ OBLIQUE)[:3].T]
    fields = {"space": space, "space directions": " ".join(columns[:3]), "space origin": columns[3]}
    _, affine = read_itk(write_nrrd_file(tmp_path / "a.nrrd", VOXELS, OBLIQUE, fields))
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_written_nrrd_is_read_back_to_the_last_bit(tmp_path: Path, dtype: type) -> None:
    import itk

    voxels = np.random.default_rng(1).integers(0, 200, (4, 5, 6)).astype(dtype)
    write_nrrd(tmp_path / "a.nrrd", voxels, OBLIQUE)
    found, affine = read_itk(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(affine, OBLIQUE)
    image = itk.imread(str(tmp_path / "a.nrrd"))
    assert itk.array_from_image(image).dtype == dtype
    np.testing.assert_array_equal(itk.array_from_image(image).T, voxels)
    write_nifti(tmp_path / "a.nii.gz", voxels, affine)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), voxels)
    first = (tmp_path / "a.nrrd").read_bytes()
    write_nrrd(tmp_path / "a.nrrd", np.asfortranarray(voxels), OBLIQUE)
    assert (tmp_path / "a.nrrd").read_bytes() == first


def test_one_slice_is_a_volume_of_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = VOXELS[:, :, 0]
    fields = {"TransformMatrix": "1 0 0 1", "Offset": "1 2", "ElementSpacing": "2 3"}
    voxels, affine = read_itk(write_meta_image(tmp_path / "a.mha", flat, STRAIGHT, fields))
    np.testing.assert_array_equal(voxels, flat[:, :, None])
    np.testing.assert_array_equal(affine, [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert "a.mha states no slice thickness: 1 mm is made up" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": None, "space dimension": "3"}, "has no space: its axes are taken as left, posterior, superior"),
        ({"space": "scanner-xyz"}, "has space scanner-xyz"),
        ({"space origin": None}, "has no space origin: its position is unknown"),
        ({"space directions": "(1,0,0) (0.3,1,0) (0,0,1)"}, "its axes are sheared by 16.7 degrees"),
    ],
)
def test_what_has_to_be_assumed_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, str | None], message: str
) -> None:
    read_itk(write_nrrd_file(tmp_path / "a.nrrd", VOXELS, STRAIGHT, fields))
    assert message in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "5 6"}, r"3 whole number\(s\) above 0 as sizes in a\.nrrd, found 5 6"),
        ({"sizes": "5 6 0"}, "above 0 as sizes"),
        ({"sizes": "5 6 8"}, r"Expected 480 bytes of voxels by the header of a\.nrrd"),
        ({"sizes": "99999 99999 99999"}, "its header states"),
        ({"dimension": "4", "sizes": "5 6 7 1"}, "Expected one 3D volume in a.nrrd, found 4 axes"),
        ({"type": "block"}, "Expected one number per voxel in a.nrrd, found type block"),
        ({"kinds": "RGB-color domain domain"}, "found kinds rgb-color domain domain"),
        ({"encoding": "bzip2"}, "Expected encoding raw or gzip in a.nrrd, found bzip2; save it with one of these"),
        ({"encoding": None}, "Expected `encoding` in the NRRD header"),
        ({"endian": None}, "Expected endian little or big in a.nrrd, found none"),
        ({"space directions": None}, "Expected `space directions` or `spacings` in mm in a.nrrd, found neither"),
        ({"space directions": "none (0,1,0) (0,0,1)"}, r"3 vector\(s\) as space directions"),
        ({"space directions": "(0,0,0) (0,1,0) (0,0,1)"}, "Expected an invertible affine in a.nrrd"),
        ({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, r"3 number\(s\) as space directions"),
        ({"space directions": None, "spacings": "1 1 0"}, "Expected an invertible affine"),
        ({"space": None}, "Expected a space, or a space dimension that is the number of axes in a.nrrd, found neither"),
        ({"space": None, "Space": "LPS"}, "Expected space before spacedirections in a.nrrd"),
        ({"space": "nowhere"}, "Expected a space of three dimensions in a.nrrd, found nowhere"),
        ({"space origin": "(1e999,0,0)"}, r"3 number\(s\) as space origin"),
        ({"space units": '"m" "m" "m"'}, "Expected spaceunits in mm in a.nrrd"),
        ({"line skip": "3"}, "Expected fields of a volume in the NRRD header in a.nrrd, found line skip: 3"),
        ({"Sizes": "5 6 7"}, "each field of the NRRD header once"),
        ({"data file": "../a.raw"}, r"Expected a data file in the same folder in a\.nrrd, found \.\./a\.raw; save"),
        ({"data file": "slice%03d.raw 1 3 1"}, "Expected one data file in a.nrrd, found slice%03d.raw"),
        ({"data file": "LIST"}, "Expected one data file"),
        ({"byte skip": "5"}, "Expected a byte skip within the raw data file"),
    ],
)
def test_other_nrrd_headers_are_refused(tmp_path: Path, fields: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_itk(write_nrrd_file(tmp_path / "a.nrrd", VOXELS, STRAIGHT, fields))
    assert type(raised.value) is ValueError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"NDims": "4"}, "Expected one 3D volume in a.mha, found 4 axes"),
        ({"DimSize": "5 6 -7"}, "above 0 as DimSize"),
        ({"DimSize": "5 6 8"}, r"Expected 480 bytes of voxels by the header of a\.mha, found 420"),
        ({"DimSize": "99999 99999 99999"}, "its header states"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "Expected one number per voxel in a.mha"),
        ({"ElementNumberOfChannels": "3"}, "Expected 1 as ElementNumberOfChannels in a.mha, found 3"),
        ({"ElementToIntensityFunctionSlope": "2"}, "Expected 1 as ElementToIntensityFunctionSlope"),
        ({"BinaryData": "False"}, "Expected True as BinaryData"),
        ({"CompressedDataSize": None}, r"whole number\(s\) above 0 as CompressedDataSize"),
        ({"CompressedDataSize": "7"}, "Expected 7 compressed bytes by the header of a.mha"),
        ({"ElementSpacing": None}, "Expected ElementSpacing in the MetaImage header in a.mha, found none"),
        ({"ElementSpacing": "1 1 0"}, "Expected a spacing above 0 mm along each axis"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "Expected directions of length 1 in TransformMatrix"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "Expected an invertible affine"),
        ({"Position": "1 2 3"}, "Expected each field of the MetaImage header once in a.mha, found Offset again"),
        ({"DistanceUnits": "m"}, "Expected DistanceUnits mm"),
        ({"ElementDataFile": "../a.raw"}, r"Expected a data file in the same folder in a\.mha, found \.\./a\.raw"),
        ({"ElementDataFile": "LIST"}, "Expected one data file in a.mha, found LIST"),
    ],
)
def test_other_meta_images_are_refused(tmp_path: Path, fields: dict[str, str | None], message: str) -> None:
    path = write_meta_image(tmp_path / "a.mha", VOXELS, STRAIGHT, fields)
    with pytest.raises(ValueError, match=message) as raised:
        read_itk(path)
    assert type(raised.value) is ValueError


def test_a_name_that_no_file_has_is_refused(tmp_path: Path) -> None:
    path = write_meta_image(tmp_path / "a.mhd", VOXELS, STRAIGHT)
    path.write_text(path.read_text().replace("a.zraw", "x" * 5000))
    with pytest.raises(ValueError, match=r"Expected a data file in the same folder in a\.mhd, found x{60} …; save"):
        read_itk(path)


def test_ndims_comes_before_what_it_counts(tmp_path: Path) -> None:
    path = write_meta_image(tmp_path / "a.mhd", VOXELS, STRAIGHT)
    path.write_text(path.read_text().replace("NDims = 3\n", "").replace("DimSize", "NDims = 3\nDimSize"))
    with pytest.raises(ValueError, match=r"Expected NDims before ElementSpacing in a\.mhd, found it after that"):
        read_itk(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_voxels_are_refused(tmp_path: Path, ending: str) -> None:
    path = write_volume(tmp_path / f"a{ending}", VOXELS, STRAIGHT)
    voxels = next(iter(data_files(path)), path)
    whole = voxels.read_bytes()
    for damaged in (whole[:-30], whole[:-2], whole + b"more", whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        voxels.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a{ending}.*(truncated|after its voxels)|with an end.*a{ending}"):
            read_itk(path)
    voxels.write_bytes(whole)
    read_itk(path)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_detached_header_wants_its_data_file_beside_it(tmp_path: Path, ending: str) -> None:
    path = write_volume(tmp_path / f"a{ending}", VOXELS, STRAIGHT)
    (data,) = data_files(path)
    assert data.parent == tmp_path
    data.unlink()
    with pytest.raises(FileNotFoundError, match=rf"Expected the data file {data.name} of a{ending} beside it"):
        read_itk(path)
    assert data_files(path) == []


@pytest.mark.parametrize("skip", ["5", "-1"])
def test_raw_voxels_may_follow_a_header_of_another_program(tmp_path: Path, skip: str) -> None:
    raw = b"x" * 5 + VOXELS.tobytes(order="F")
    nrrd = write_nrrd_file(tmp_path / "a.nhdr", VOXELS, STRAIGHT, {"encoding": "raw", "byte skip": skip}, raw)
    meta = write_meta_image(tmp_path / "a.mhd", VOXELS, STRAIGHT, {"CompressedData": "False"}, raw)
    meta.write_text(f"HeaderSize = {skip}\n" + meta.read_text())
    for path in (nrrd, meta):
        np.testing.assert_array_equal(read_itk(path)[0], VOXELS)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a volume at .*absent\.nrrd"):
        read_itk(tmp_path / "absent.nrrd")
    for name in ("a.nrrd", "a.mha"):
        for content in (b"", b"text", b"\0" * 2000, b"NRRD0009\n\n"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"Expected an? .* header.* in {name}"):
                read_itk(tmp_path / name)


def test_segments_that_overlap_are_refused(tmp_path: Path) -> None:
    layers = np.zeros((2, 5, 6, 7), np.uint8)
    fields = {"kinds": "list domain domain domain", "space directions": "none (1,0,0) (0,1,0) (0,0,1)"}
    path = write_nrrd_file(tmp_path / "a.seg.nrrd", layers, STRAIGHT, fields)
    with pytest.raises(ValueError, match="segments in one layer in a.seg.nrrd.*name the segments that are labels"):
        read_itk(path)


def test_names_and_long_paths_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "Bahía % $x" / ("a" * 200) / ("b" * 200)
    folder.mkdir(parents=True)
    for name in ("Größe.NRRD", "a b.mha"):
        source = write_volume(tmp_path / name.lower(), VOXELS, STRAIGHT)
        shutil.copy(source, folder / name)
        np.testing.assert_array_equal(read_itk(folder / name)[0], VOXELS)


def test_not_finite_voxels_are_kept_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = np.array([np.nan, np.inf, 1e300, 3]).reshape(1, 2, 2)
    found, _ = read_itk(write_volume(tmp_path / "a.nrrd", voxels, STRAIGHT))
    assert np.isnan(found[0, 0, 0]) and found[0, 1, 1] == 3
    assert "a.nrrd has 3 voxels that are NaN or infinite" in caplog.text


def test_a_nifti_file_loads_nothing_of_itk(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VOXELS, STRAIGHT)
    code = (
        "import sys; from tskd_monai.data.volume_reader import load_image_transform; "
        "load_image_transform('image')({'image': sys.argv[1]}); "
        "sys.exit(any(name.startswith('itk.itk') and name.endswith('Python') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], check=True)
