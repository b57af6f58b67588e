"""Patients and scans of the embedded dataset: labels are analytic, images look like MR to a network."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tskd_monai.datasets.phantom.anatomy import LABEL_OF_TISSUE, LABELS, Tissue, tissue_at
from tskd_monai.datasets.phantom.render import average_tissue, label_at, make_grid, render, sample_anatomy
from tskd_monai.datasets.phantom.shapes import Ellipsoid, Part, rotation_matrix, smooth_minimum

LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4
COARSE = make_grid((58, 44, 24), (6.0, 6.0, 7.2), "RAS")
SMALL = make_grid((32, 24, 6), (10.0, 10.0, 20.0), "PLS")


@pytest.mark.parametrize("seed", range(8))
def test_organs_are_whole_and_where_they_belong(seed):
    label = label_at(sample_anatomy(seed), COARSE.centers())
    points = COARSE.centers()
    millilitres = np.bincount(label, minlength=5)[1:] * np.prod(COARSE.spacing) / 1000
    centroid = {value: points[label == value].mean(0) for value in range(1, 5)}
    assert np.all(millilitres > (600, 50, 50, 40)) and np.all(millilitres < (2300, 320, 320, 450))
    assert centroid[LIVER][0] > 20 and centroid[RIGHT_KIDNEY][0] > 20  # RAS: +x is the patient's right
    assert centroid[SPLEEN][0] < -40 and centroid[LEFT_KIDNEY][0] < -20
    assert max(centroid[RIGHT_KIDNEY][2], centroid[LEFT_KIDNEY][2]) < min(centroid[LIVER][2], centroid[SPLEEN][2])
    for value in range(1, 5):
        components, _ = ndimage.label((label == value).reshape(COARSE.shape), np.ones((3, 3, 3)))
        assert np.bincount(components.ravel())[1:].max() > 0.93 * (label == value).sum()


def test_each_seed_is_another_patient_and_always_the_same():
    assert sample_anatomy(3) == sample_anatomy(3)
    one, other = (label_at(sample_anatomy(seed), COARSE.centers()) for seed in (3, 4))
    for value in range(1, 5):
        both = ((one == value) & (other == value)).sum()
        assert 2 * both < 0.9 * ((one == value).sum() + (other == value).sum())


def test_render_depends_only_on_its_seed():
    anatomy = sample_anatomy(1)
    np.random.seed(0)
    image, label = render(anatomy, SMALL, 7)
    np.random.seed(1)
    again, label_again = render(sample_anatomy(1), SMALL, 7)
    assert image.dtype == np.int16 and label.dtype == np.uint8 and image.shape == label.shape == SMALL.shape
    assert image.min() >= 0 and image.max() <= 4095
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    assert np.any(render(anatomy, SMALL, 8)[0] != image)


def test_label_is_the_analytic_one_at_the_voxel_centre():
    anatomy = sample_anatomy(2)
    grid = make_grid((32, 24, 6), (10.0, 10.0, 20.0), "ILP", (5.0, -3.0, 10.0), (10.0, -15.0, 20.0))
    _, label = render(anatomy, grid, 0)
    indices = np.argwhere(label > 0)
    expected = label_at(anatomy, nib.affines.apply_affine(grid.matrix, indices))
    np.testing.assert_array_equal(label[tuple(indices.T)], expected)
    assert set(LABELS) == set(np.unique(label)) | {0}


def test_another_orientation_shows_the_same_tissue():
    anatomy = sample_anatomy(0)
    image, label = render(anatomy, make_grid((20, 28, 8), (12.0, 12.0, 16.0), "PLS"), 5)
    turned_image, turned_label = (
        volume[::-1, :, ::-1].transpose(2, 1, 0)  # from IRA back to PRS ...
        for volume in render(anatomy, make_grid((8, 28, 20), (16.0, 12.0, 12.0), "IRA"), 5)
    )
    np.testing.assert_array_equal(turned_label[:, ::-1], label)  # ... and on to PLS
    assert np.corrcoef(turned_image[:, ::-1].ravel(), image.ravel())[0, 1] > 0.95
    assert np.any(turned_image[:, ::-1] != image)  # the noise belongs to the voxel


def test_a_thick_slice_averages_thin_ones():
    anatomy = sample_anatomy(0)
    in_liver = (LABEL_OF_TISSUE == LIVER).astype(np.float64)[None]
    thick = average_tissue(anatomy, make_grid((24, 24, 4), (14.0, 14.0, 7.2), "RAS"), in_liver)
    thin = average_tissue(anatomy, make_grid((24, 24, 16), (14.0, 14.0, 1.8), "RAS"), in_liver)
    np.testing.assert_allclose(thick, thin.reshape(1, 24, 24, 4, 4).mean(-1), atol=1e-12)
    assert np.any((thick > 0.1) & (thick < 0.9)) and thick.max() == 1.0


def test_intensity_does_not_identify_an_organ():
    shares = []
    grid = make_grid((58, 44, 12), (6.0, 6.0, 14.4), "RAS")
    for seed in range(3):
        image, label = render(sample_anatomy(seed), grid, seed)
        for value in (RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN):
            low, high = np.percentile(image[label == value], (10, 90))
            shares.append(np.mean(label[(image >= low) & (image <= high)] == value))
    assert np.max(shares) < 0.5


def test_vessels_and_medulla_carry_the_label_of_their_organ():
    points = COARSE.centers()
    tissue = tissue_at(sample_anatomy(0), points)
    assert {Tissue.LIVER_VESSEL, Tissue.RIGHT_MEDULLA, Tissue.LEFT_MEDULLA} <= set(tissue.tolist())
    np.testing.assert_array_equal(LABEL_OF_TISSUE[tissue], label_at(sample_anatomy(0), points))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PLS", "LAS", "SAR", "IPL"])
def test_grid_has_the_requested_axes_spacing_and_centre(axcodes):
    grid = make_grid((5, 6, 7), (1.0, 2.0, 3.0), axcodes, (10.0, 20.0, 30.0))
    assert "".join(nib.aff2axcodes(grid.matrix)) == axcodes
    np.testing.assert_allclose(grid.spacing, (1, 2, 3))
    np.testing.assert_allclose(grid.centers().mean(0), (10, 20, 30))
    turned = make_grid((5, 6, 7), (1.0, 2.0, 3.0), axcodes, (10.0, 20.0, 30.0), (10.0, 20.0, -30.0))
    np.testing.assert_allclose(turned.spacing, (1, 2, 3))
    np.testing.assert_allclose(turned.matrix[:3, :3], rotation_matrix((10, 20, -30)) @ grid.matrix[:3, :3], atol=1e-12)


@pytest.mark.parametrize("axcodes", ["RAR", "RA", "RLS", "XYZ"])
def test_grid_refuses_unclear_axes(axcodes):
    with pytest.raises(ValueError, match="such as PLS, found"):
        make_grid((5, 6, 7), (1.0, 2.0, 3.0), axcodes)


def test_grid_refuses_an_empty_axis():
    with pytest.raises(ValueError, match="three positive sizes and spacings"):
        make_grid((5, 0, 7), (1.0, 2.0, 3.0), "RAS")


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, 3\) in RAS mm, found \(3, 4\)"):
        label_at(sample_anatomy(0), np.zeros((3, 4)))
    assert label_at(sample_anatomy(0), np.zeros((0, 3))).shape == (0,)


def test_ellipsoid_distance_changes_sign_at_the_surface_and_bounds_hold_it():
    solid = Ellipsoid((1.0, 2.0, 3.0), (4.0, 6.0, 8.0), (20.0, 30.0, 40.0), 3.0)
    axis = rotation_matrix(solid.tilt_deg)[:, 0]
    inside, on, outside = (np.array(solid.center) + factor * 4.0 * axis for factor in (0.9, 1.0, 1.1))
    distance = solid.distance(np.stack([inside, on, outside]))
    assert distance[0] < 0 < distance[2] and abs(distance[1]) < 1e-9
    cloud = np.random.default_rng(0).uniform(-12, 15, (20000, 3))
    low, high = solid.bounds()
    within = cloud[solid.distance(cloud) < 0]
    assert len(within) > 100 and np.all(within > low) and np.all(within < high)


def test_a_cut_takes_away_and_a_blend_only_adds():
    first, second = Ellipsoid((0.0, 0.0, 0.0), (5.0, 5.0, 5.0)), Ellipsoid((7.0, 0.0, 0.0), (5.0, 5.0, 5.0))
    cloud = np.random.default_rng(0).uniform(-6, 13, (5000, 3))
    sharp = Part(1, (first, second)).contains(cloud)
    smooth = Part(1, (first, second), blend_mm=4.0).contains(cloud)
    cut = Part(1, (first,), cuts=(second,)).contains(cloud)
    assert np.all(smooth[sharp]) and smooth.sum() > sharp.sum()
    np.testing.assert_array_equal(cut, (first.distance(cloud) < 0) & (second.distance(cloud) > 0))
    assert smooth_minimum(np.array([0.0]), np.array([9.0]), 4.0)[0] == 0.0
