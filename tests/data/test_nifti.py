from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tskd_monai.data.nifti import read_nifti, write_nifti

AFFINE = np.array([[-1.5, 0.2, 0, 10], [0.1, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]], float)


def save(path: Path, array: np.ndarray, *, sform: int = 1, qform: int = 0, affine: np.ndarray = AFFINE) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_and_affine_are_those_of_nibabel(tmp_path, suffix):
    array = np.random.default_rng(0).integers(-1000, 3000, (5, 6, 7)).astype(np.int16)
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_slope_inter(0.5, -7)
    nib.save(image, tmp_path / f"a{suffix}")
    voxels, affine = read_nifti(tmp_path / f"a{suffix}")
    assert voxels.shape == (5, 6, 7) and voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, nib.load(tmp_path / f"a{suffix}").get_fdata())
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)


def test_big_endian_and_nifti2_are_read(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">")), tmp_path / "big.nii.gz")
    nib.save(nib.Nifti2Image(array, AFFINE), tmp_path / "two.nii.gz")
    for name in ("big.nii.gz", "two.nii.gz"):
        np.testing.assert_array_equal(read_nifti(tmp_path / name)[0], array)


def test_array_outlives_the_file(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32))
    voxels, _ = read_nifti(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert voxels.min() == 1


@pytest.mark.parametrize("cut", [40, 200, -1, -6])
def test_truncated_file_is_refused(tmp_path, cut):
    path = save(tmp_path / "cut.nii.gz", np.random.default_rng(0).random((8, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"Expected a complete NIfTI file, found cut\.nii\.gz truncated.*again"):
        read_nifti(path)


def test_altered_checksum_is_refused(tmp_path):
    path = save(tmp_path / "flip.nii.gz", np.zeros((8, 8, 8), np.float32))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    nib.load(path).get_fdata()  # nibabel does not notice
    with pytest.raises(ValueError, match="CRC check failed"):
        read_nifti(path)


def test_truncated_plain_and_foreign_files_are_refused(tmp_path):
    path = save(tmp_path / "cut.nii", np.zeros((8, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut.nii truncated or damaged"):
        read_nifti(path)
    (tmp_path / "text.nii").write_text("not an image" * 100)
    with pytest.raises(ValueError, match="Expected a NIfTI header in text.nii"):
        read_nifti(tmp_path / "text.nii")
    save(tmp_path / "plain.nii", np.zeros((2, 2, 2), np.float32)).rename(tmp_path / "named.nii.gz")
    with pytest.raises(ValueError, match="Expected gzip data in named.nii.gz.*rename it to .nii"):
        read_nifti(tmp_path / "named.nii.gz")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(b"x"))
    with pytest.raises(ValueError, match="rename it to .nii.gz"):
        read_nifti(tmp_path / "packed.nii")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.nii.gz, found none; check the path"):
        read_nifti(tmp_path / "absent.nii.gz")


def test_singleton_axes_are_dropped_and_added_with_a_warning(tmp_path, caplog):
    for shape, expected in (((4, 5, 6, 1), (4, 5, 6)), ((4, 5), (4, 5, 1)), ((4, 5, 6, 1, 1), (4, 5, 6))):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        voxels, _ = read_nifti(save(tmp_path / "a.nii.gz", array))
        np.testing.assert_array_equal(voxels, array.reshape(expected))
    assert caplog.text.count("it is read as one 3D volume") == 3


def test_several_volumes_and_colour_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found 3 volumes \(shape \(4, 4, 4, 3\)\)"):
        read_nifti(save(tmp_path / "a.nii.gz", np.zeros((4, 4, 4, 3), np.float32)))
    rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array in (rgb, np.zeros((4, 4, 4), np.complex64)):
        with pytest.raises(ValueError, match="Expected one number per voxel in b.nii.gz"):
            read_nifti(save(tmp_path / "b.nii.gz", array))


def test_nan_is_kept_and_counted(tmp_path, caplog):
    array = np.ones((3, 3, 3), np.float32)
    array[0, 0, :2] = np.nan, np.inf
    voxels, _ = read_nifti(save(tmp_path / "a.nii.gz", array))
    np.testing.assert_array_equal(voxels, array)
    assert "a.nii.gz has 2 voxels that are NaN or infinite" in caplog.text


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_infinite_voxels_of_both_signs_are_counted(tmp_path, caplog):
    array = np.ones((3, 3, 3), np.float32)
    array[0, 0, :2] = np.inf, -np.inf
    read_nifti(save(tmp_path / "a.nii.gz", array))
    assert "a.nii.gz has 2 voxels that are NaN or infinite" in caplog.text


def test_disagreeing_forms_use_the_sform_with_a_warning(tmp_path, caplog):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE)
    image.set_sform(np.diag([2, 2, 2, 1]), 1)
    image.set_qform(np.diag([-2, 2, 2, 1]), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    _, affine = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(affine, np.diag([2, 2, 2, 1]))
    assert "sform and qform disagree by 12 mm; the sform is used" in caplog.text


def test_a_single_qform_is_used_and_a_missing_form_gives_a_warning(tmp_path, caplog):
    affine = np.array([[0, -1.5, 0, 1], [2.0, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    path = save(tmp_path / "q.nii.gz", np.zeros((4, 4, 4), np.uint8), sform=0, qform=1, affine=affine)
    np.testing.assert_allclose(read_nifti(path)[1], affine, atol=1e-5)
    assert not caplog.text
    save(tmp_path / "none.nii.gz", np.zeros((4, 4, 4), np.uint8), sform=0, qform=0)
    read_nifti(tmp_path / "none.nii.gz")
    assert "none.nii.gz has neither qform nor sform" in caplog.text


def test_unusable_affine_is_refused(tmp_path):
    path = save(tmp_path / "flat.nii", np.zeros((4, 4, 4), np.uint8))
    content = bytearray(path.read_bytes())
    content[312:328] = bytes(16)  # srow_z
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected an invertible affine in flat.nii,"):
        read_nifti(path)
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "micro.nii.gz")
    with pytest.raises(ValueError, match="Expected coordinates in mm in micro.nii.gz, found micron"):
        read_nifti(tmp_path / "micro.nii.gz")


def _header_without_sform(path, pixdim, qform_code=0, shape=(4, 4, 4)):
    """Writes a file whose geometry is pixdim (qfac and three spacings), optionally with a qform without rotation."""
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([1.5, 1.5, 5, 1])), path)
    content = bytearray(path.read_bytes())
    content[76:92] = np.array(pixdim, "<f4").tobytes()
    content[252:268] = np.array([qform_code, 0], "<i2").tobytes() + bytes(12)  # codes and quaternion
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 0), (0, 0, 0), (1.5, np.nan, 5), (1.5, np.inf, 5)])
def test_a_spacing_that_would_be_made_up_is_refused(tmp_path, qform_code, spacing):
    path = _header_without_sform(tmp_path / "a.nii", (1, *spacing), qform_code)
    with pytest.raises(ValueError, match=r"spacing above 0 mm along each axis in the pixdim of a\.nii, found"):
        read_nifti(path)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_negative_spacing_is_read_as_positive_with_a_warning(tmp_path, caplog, qform_code):
    _, affine = read_nifti(_header_without_sform(tmp_path / "a.nii", (1, -1.5, 1.5, -5), qform_code))
    np.testing.assert_allclose(np.abs(np.diag(affine)), (1.5, 1.5, 5, 1))
    assert "a.nii has a negative spacing in pixdim, [-1.5, 1.5, -5.0]; it is read as positive" in caplog.text


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1)])
def test_a_slice_of_unknown_thickness_is_named(tmp_path, caplog, shape):
    _, affine = read_nifti(_header_without_sform(tmp_path / "a.nii", (1, 1.5, 1.5, 0), shape=shape))
    np.testing.assert_allclose(np.abs(np.diag(affine)), (1.5, 1.5, 1, 1))
    assert "a.nii states no slice thickness: 1 mm is made up" in caplog.text


def test_qfac_of_zero_and_a_quaternion_of_zeros_follow_the_standard(tmp_path, caplog):
    _, affine = read_nifti(_header_without_sform(tmp_path / "a.nii", (0, 1.5, 2, 5), qform_code=1))
    np.testing.assert_allclose(np.diag(affine), (1.5, 2, 5, 1))
    assert not caplog.text


def test_an_sform_of_zeros_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8), qform=1)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected an invertible affine in a.nii"):
        read_nifti(path)


def test_the_sform_needs_no_pixdim(tmp_path, caplog):
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8))
    content = bytearray(path.read_bytes())
    content[76:92] = bytes(16)
    path.write_bytes(content)
    np.testing.assert_allclose(read_nifti(path)[1], AFFINE, atol=1e-6)
    assert "pixdim of" not in caplog.text and "made up" not in caplog.text


def test_an_analyze_header_is_no_nifti(tmp_path):
    nib.save(nib.AnalyzeImage(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.hdr").read_bytes() + (tmp_path / "a.img").read_bytes())
    with pytest.raises(ValueError, match=r"a\.nii"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_header_that_states_more_than_the_file_can_hold_allocates_no_memory(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(ValueError, match=r"header states 54000000000000 bytes of voxels, the file holds"):
        read_nifti(path)


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_header_cut_short_is_refused_by_name(tmp_path, version):
    nib.save(version(np.zeros((2, 3, 4), np.int16), AFFINE), tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    for kept in (4, 100, 300):
        (tmp_path / "a.nii").write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="found a.nii truncated or damaged") as raised:
            read_nifti(tmp_path / "a.nii")
        assert type(raised.value) is ValueError  # nibabel's own are subclasses


def test_extension_of_negative_size_is_refused_by_name(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 24))
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[352:356] = (-16).to_bytes(4, "little", signed=True)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ValueError, match="found a.nii truncated or damaged"):
        read_nifti(tmp_path / "a.nii")


def test_one_volume_of_several_is_read_on_its_own(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii.gz")
    for volume in range(3):
        found, affine = read_nifti(tmp_path / "a.nii.gz", volume)
        np.testing.assert_array_equal(found, voxels[..., volume])
        np.testing.assert_allclose(affine, AFFINE, atol=1e-6)
    with pytest.raises(ValueError, match=r"fourth axis with volume 3 in a\.nii\.gz, found shape \(4, 5, 6, 3\)"):
        read_nifti(tmp_path / "a.nii.gz", 3)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_written_volume_is_read_back_with_its_type_and_affine(tmp_path, suffix):
    voxels = np.random.default_rng(0).integers(0, 999, (4, 5, 6)).astype(np.uint16)
    write_nifti(tmp_path / f"a{suffix}", voxels, AFFINE)
    write_nifti(tmp_path / f"b{suffix}", voxels, AFFINE)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    found, affine = read_nifti(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)
    assert nib.load(tmp_path / f"a{suffix}").get_data_dtype() == np.uint16
