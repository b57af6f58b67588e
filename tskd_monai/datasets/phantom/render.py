"""Scans of the embedded dataset: an anatomy rendered on any grid as T2-weighted abdominal MR with its label map.

The difficulties of MR are simulated: a smooth multiplicative bias field, Rician noise, partial volume in thick slices,
texture, and a contrast that varies between cases, in which bowel resembles kidney or spleen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tskd_monai.datasets.phantom.anatomy import (
    NUM_BOWEL_CONTENTS,
    NUM_TISSUES,
    Anatomy,
    Tissue,
    label_at,
    sample_anatomy,
    tissue_at,
)
from tskd_monai.datasets.phantom.shapes import Vector, rotation_matrix

__all__ = ["Anatomy", "Grid", "average_tissue", "label_at", "make_grid", "render", "sample_anatomy"]

SUBVOXEL_MM = 1.9
MAX_SUBVOXELS = 4
FULL_SCALE = 1000.0
MAX_VALUE = 4095
DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


@dataclass(frozen=True)
class Grid:
    """Positions of voxels.

    Attributes:
        shape: number of voxels along i, j and k.
        affine: 4x4, voxel index to RAS mm, as nested tuples.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @property
    def matrix(self) -> np.ndarray:
        """The affine as an array (4, 4)."""
        return np.array(self.affine)

    @property
    def spacing(self) -> np.ndarray:
        """Distance in mm between neighbouring voxels along each array axis (3,)."""
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    def points(self, *axes: np.ndarray) -> np.ndarray:
        """Returns the RAS coordinates (N, 3) in mm of the lattice of the given (fractional) indices, in C order."""
        indices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return indices @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def centers(self) -> np.ndarray:
        """Returns the RAS coordinates (i*j*k, 3) in mm of all voxel centres, in C order."""
        return self.points(*(np.arange(size, dtype=np.float64) for size in self.shape))


def make_grid(
    shape: tuple[int, int, int],
    spacing: Vector,
    axcodes: str,
    center_mm: Vector = (0.0, 0.0, 0.0),
    rotation_deg: Vector = (0.0, 0.0, 0.0),
) -> Grid:
    """Returns a grid of any orientation, axis-aligned or oblique.

    Args:
        shape: number of voxels along the array axes.
        spacing: mm along the array axes.
        axcodes: directions of the array axes, such as `PLS`: posterior, left, superior.
        center_mm: RAS coordinates of the centre of the grid.
        rotation_deg: rotation of the grid about its centre, degrees about x, then y, then z.

    Raises:
        ValueError: if `axcodes` does not name each of the three directions once, or a size is not positive.
    """
    if len(axcodes) != 3 or len({frozenset(pair) for pair in ("RL", "AP", "SI") if set(pair) & set(axcodes)}) != 3:
        raise ValueError(f"Expected axcodes with one of R/L, A/P and S/I each, such as PLS, found {axcodes!r}.")
    if len(shape) != 3 or len(spacing) != 3 or min(shape) < 1 or min(spacing) <= 0:
        raise ValueError(f"Expected three positive sizes and spacings (mm), found {shape} and {spacing}.")
    columns = np.array([DIRECTIONS[code] for code in axcodes], dtype=np.float64).T
    affine = np.eye(4)
    affine[:3, :3] = rotation_matrix(rotation_deg) @ columns * spacing
    affine[:3, 3] = np.array(center_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), tuple(map(tuple, affine.tolist())))


def render(anatomy: Anatomy, grid: Grid, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an MR volume of the anatomy and its label map.

    Contrast, bias field and texture are functions of seed and world position, so two grids show the same tissue; only
    the noise is drawn per voxel. A voxel averages the tissue within it; its label is that of its centre.

    Args:
        anatomy: the patient.
        grid: positions of the voxels.
        seed: seed of the scan. The result depends on nothing else.

    Returns:
        Image, int16 in [0, 4095], and label, uint8, both of the grid's shape.
    """
    rng = np.random.default_rng((seed, 1))  # the anatomy of the same seed uses another stream
    signal, roughness = _sample_contrast(rng)
    texture = _PlaneWaves.sample(rng, count=24, wavelengths=(9.0, 36.0))
    bias = _PlaneWaves.sample(rng, count=5, wavelengths=(180.0, 600.0))
    bias_strength, noise = rng.uniform(0.25, 0.6), rng.uniform(0.015, 0.04)
    gain = FULL_SCALE * rng.uniform(0.6, 1.6)

    centers = grid.centers()
    label = label_at(anatomy, centers).reshape(grid.shape)
    mean, rough = average_tissue(anatomy, grid, np.stack([signal, roughness * signal]))
    clean = mean + rough * texture(centers).reshape(grid.shape)
    clean = np.maximum(clean, 0.0) * np.exp(bias_strength * np.tanh(bias(centers))).reshape(grid.shape)
    image = gain * _add_rician_noise(clean, noise, np.random.default_rng((seed, 2)))
    return np.clip(np.rint(image), 0, MAX_VALUE).astype(np.int16), label


@dataclass(frozen=True)
class _PlaneWaves:
    """A smooth random field of zero mean and unit variance, defined at every world point."""

    waves: np.ndarray
    phases: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator, count: int, wavelengths: tuple[float, float]) -> _PlaneWaves:
        """Returns a field of `count` waves in random directions, wavelengths in mm."""
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(*wavelengths, count)
        return cls(directions * (2 * np.pi / lengths)[:, None], rng.uniform(0, 2 * np.pi, count))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Returns the field (N,) at points (N, 3) in mm."""
        return np.cos(points @ self.waves.T + self.phases).sum(1) * np.sqrt(2.0 / len(self.phases))


def _sample_contrast(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns signal and relative roughness of each tissue (NUM_TISSUES,); 1 is the brightest water."""
    bright = rng.uniform(0.45, 0.85)  # kidneys, spleen and much of the bowel share a level, which varies by case
    liver = rng.uniform(0.22, 0.62)
    fat = rng.uniform(0.05, 0.3)  # how well fat was suppressed
    signal, roughness = np.zeros(NUM_TISSUES), np.full(NUM_TISSUES, 0.1)
    signal[Tissue.FAT] = fat
    signal[Tissue.CAVITY] = fat * rng.uniform(0.7, 1.1)
    signal[Tissue.MUSCLE] = rng.uniform(0.13, 0.24)
    signal[Tissue.BONE] = rng.uniform(0.15, 0.3)
    signal[Tissue.LUNG] = rng.uniform(0.02, 0.06)
    signal[Tissue.HEART] = rng.uniform(0.12, 0.4)
    signal[Tissue.SPINAL_CANAL] = rng.uniform(0.85, 1.0)
    signal[Tissue.AORTA] = rng.uniform(0.08, 0.3)
    signal[Tissue.VENA_CAVA] = rng.uniform(0.1, 0.6)
    signal[Tissue.PANCREAS] = rng.uniform(0.9, 1.3) * liver
    signal[Tissue.STOMACH] = rng.uniform(0.15, 1.0)
    signal[Tissue.GALLBLADDER] = rng.uniform(0.6, 1.0)
    signal[Tissue.LIVER] = liver
    signal[Tissue.LIVER_VESSEL] = liver * rng.choice([0.5, 1.35, 1.6])
    signal[Tissue.SPLEEN] = bright * rng.uniform(0.65, 1.1)
    kidney = bright * rng.uniform(0.8, 1.1)
    signal[[Tissue.RIGHT_CORTEX, Tissue.LEFT_CORTEX]] = kidney
    signal[[Tissue.RIGHT_MEDULLA, Tissue.LEFT_MEDULLA]] = kidney * rng.uniform(0.85, 1.2)
    contents = np.linspace(0.9 * liver, 1.15 * bright, NUM_BOWEL_CONTENTS) * rng.uniform(0.88, 1.12, NUM_BOWEL_CONTENTS)
    signal[Tissue.BOWEL :] = contents
    roughness[[Tissue.FAT, Tissue.CAVITY, Tissue.HEART, Tissue.STOMACH]] = (0.15, 0.18, 0.25, 0.15)
    roughness[[Tissue.LIVER, Tissue.SPLEEN]] = (0.07, 0.08)
    roughness[Tissue.BOWEL :] = 0.16
    return signal, roughness


def average_tissue(anatomy: Anatomy, grid: Grid, values: np.ndarray) -> np.ndarray:
    """Returns tissue values (C, NUM_TISSUES) averaged over each voxel's volume, (C, *grid.shape).

    A voxel is sampled about every SUBVOXEL_MM along each axis, so thick slices mix tissues as in a scanner.
    """
    counts = np.clip(np.ceil(grid.spacing / SUBVOXEL_MM), 1, MAX_SUBVOXELS).astype(int)
    offsets = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    lattice = [(np.arange(n)[:, None] + offset).ravel() for n, offset in zip(grid.shape, offsets, strict=True)]
    average = np.empty((len(values), *grid.shape))
    across, down, deep = counts
    for k in range(grid.shape[2]):
        points = grid.points(lattice[0], lattice[1], lattice[2][k * deep : (k + 1) * deep])
        tissue = tissue_at(anatomy, points).reshape(grid.shape[0], across, grid.shape[1], down, deep)
        for channel, table in enumerate(values):
            average[channel, :, :, k] = table[tissue].mean(axis=(1, 3, 4))
    return average


def _add_rician_noise(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Returns |clean + complex Gaussian noise|, the magnitude image of a scanner (Gudbjartsson and Patz, 1995)."""
    real, imaginary = sigma * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + real, imaginary)
