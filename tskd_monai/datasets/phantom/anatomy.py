"""The patients of the embedded dataset: an upper abdomen of analytic solids, a different one for each seed.

World coordinates are RAS in mm: +x is the patient's right, where the liver is, +y anterior, +z superior; the origin is
near the first lumbar vertebra.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tskd_monai.datasets.phantom.shapes import Ellipsoid, Part, Vector, Warp, rotation_matrix

LABELS = {0: "background", 1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
NUM_BOWEL_CONTENTS = 5


class Tissue(IntEnum):
    """Tissue class of a point; bowel contents, from BOWEL on, are several classes with different signal."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    CAVITY = 4
    LUNG = 5
    HEART = 6
    SPINAL_CANAL = 7
    AORTA = 8
    VENA_CAVA = 9
    PANCREAS = 10
    STOMACH = 11
    GALLBLADDER = 12
    LIVER = 13
    LIVER_VESSEL = 14
    SPLEEN = 15
    RIGHT_CORTEX = 16
    RIGHT_MEDULLA = 17
    LEFT_CORTEX = 18
    LEFT_MEDULLA = 19
    BOWEL = 20


NUM_TISSUES = Tissue.BOWEL + NUM_BOWEL_CONTENTS
LABEL_OF_TISSUE = np.zeros(NUM_TISSUES, dtype=np.uint8)
LABEL_OF_TISSUE[[Tissue.LIVER, Tissue.LIVER_VESSEL]] = 1
LABEL_OF_TISSUE[[Tissue.RIGHT_CORTEX, Tissue.RIGHT_MEDULLA]] = 2
LABEL_OF_TISSUE[[Tissue.LEFT_CORTEX, Tissue.LEFT_MEDULLA]] = 3
LABEL_OF_TISSUE[Tissue.SPLEEN] = 4

# Organs give way to the body wall, the spine and the great vessels, and push soft neighbours aside.
SOFT = (Tissue.CAVITY, Tissue.LUNG, Tissue.HEART, Tissue.PANCREAS, Tissue.STOMACH, Tissue.GALLBLADDER) + tuple(
    range(Tissue.BOWEL, NUM_TISSUES)
)
ORGANS = (Tissue.LIVER, Tissue.LIVER_VESSEL, Tissue.SPLEEN)


@dataclass(frozen=True)
class Anatomy:
    """One patient.

    Attributes:
        parts: painted in this order, in body coordinates, mm.
        warp: deformation from posed to body coordinates.
        shift_mm: position of the body in the world.
        rotation_deg: orientation of the body, degrees about x, y and z.
    """

    parts: tuple[Part, ...]
    warp: Warp
    shift_mm: Vector
    rotation_deg: Vector

    def to_body(self, points_ras_mm: np.ndarray) -> np.ndarray:
        """Returns the body coordinates (N, 3) in mm of world points (N, 3)."""
        return self.warp((points_ras_mm - self.shift_mm) @ rotation_matrix(self.rotation_deg))


def tissue_at(anatomy: Anatomy, points_ras_mm: np.ndarray) -> np.ndarray:
    """Returns the tissue at world points.

    Args:
        anatomy: the patient.
        points_ras_mm: (N, 3), RAS mm.

    Returns:
        Values of `Tissue`, uint8 (N,).

    Raises:
        ValueError: if the points are not (N, 3).
    """
    points = np.asarray(points_ras_mm, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"Expected points of shape (N, 3) in RAS mm, found {points.shape}; give one row per point.")
    tissue = np.full(len(points), Tissue.AIR, dtype=np.uint8)
    if len(points) == 0:
        return tissue
    body = anatomy.to_body(points)
    columns = np.ascontiguousarray(body.T)
    lowest, highest = columns.min(1), columns.max(1)
    for part in anatomy.parts:
        low, high = part.bounds()
        if np.any(low > highest) or np.any(high < lowest):
            continue
        index = _inside_box(columns, np.where(low > lowest, low, -np.inf), np.where(high < highest, high, np.inf))
        if part.over:
            index = index[np.isin(tissue[index], part.over)]
        tissue[index[part.contains(body[index])]] = part.tissue
    return tissue


def _inside_box(columns: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns which points, given as coordinates (3, N), are between two corners; infinite corners cost nothing."""
    inside = np.ones(columns.shape[1], dtype=bool)
    for coordinates, lower, upper in zip(columns, low, high, strict=True):
        if np.isfinite(lower):
            inside &= coordinates > lower
        if np.isfinite(upper):
            inside &= coordinates < upper
    return np.flatnonzero(inside)


def label_at(anatomy: Anatomy, points_ras_mm: np.ndarray) -> np.ndarray:
    """Returns the label (see `LABELS`) at world points (N, 3) in RAS mm, uint8 (N,).

    Raises:
        ValueError: if the points are not (N, 3).
    """
    return LABEL_OF_TISSUE[tissue_at(anatomy, points_ras_mm)]


def sample_anatomy(seed: int) -> Anatomy:
    """Returns the patient of a seed; build, organ sizes, positions, tilts, bowel, pose and deformation vary."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.9, 1.08)
    breath = rng.uniform(-14, 14)
    half_width, half_depth = rng.uniform(138, 160), rng.uniform(98, 120)
    wall = _body_wall(rng, half_width, half_depth)
    inner = (half_width - 34.0, half_depth - 30.0)
    back = 64.0 - half_depth
    parts = (
        wall
        + _chest(rng, breath)
        + _bowel(rng, inner, back)
        + _retroperitoneum(rng, back)
        + _stomach(rng, breath)
        + _liver(rng, scale, breath)
        + _spleen(rng, scale, inner, breath)
        + _kidney(rng, scale, 1, back, breath)
        + _kidney(rng, scale, -1, back, breath)
    )
    return Anatomy(
        parts=parts,
        warp=_sample_warp(rng),
        shift_mm=_around(rng, (0, 0, 0), (7, 8, 14)),
        rotation_deg=_around(rng, (0, 0, 0), (4, 3, 9)),
    )


def _around(rng: np.random.Generator, center: Vector, spread: Vector) -> Vector:
    """Returns a point drawn uniformly from center ± spread."""
    x, y, z = np.array(center) + np.array(spread) * rng.uniform(-1, 1, 3)
    return float(x), float(y), float(z)


def _sample_warp(rng: np.random.Generator) -> Warp:
    """Returns a deformation: four long waves that bend the body, five short ones that roughen surfaces."""
    wavelengths = np.concatenate([rng.uniform(140, 300, 4), rng.uniform(38, 70, 5)])
    sizes = np.concatenate([rng.uniform(2, 5.5, 4), rng.uniform(0.6, 1.4, 5)])
    directions = rng.standard_normal((2, 9, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    waves = directions[0] * (2 * np.pi / wavelengths)[:, None]
    amplitudes = directions[1] * sizes[:, None]
    phases = rng.uniform(0, 2 * np.pi, 9)
    return Warp(tuple(map(tuple, waves.tolist())), tuple(phases.tolist()), tuple(map(tuple, amplitudes.tolist())))


def _body_wall(rng: np.random.Generator, half_width: float, half_depth: float) -> tuple[Part, ...]:
    """Returns skin fat, muscle and ribs, and the cavity that they enclose."""
    fat = rng.uniform(8, 20)
    front = rng.uniform(0.8, 1.6)  # anterior fat relative to that of the flanks

    def shell(inset: float, tissue: Tissue, over: tuple[int, ...] = ()) -> Part:
        radii = (half_width - inset, half_depth - inset * front, 2000.0)
        return Part(tissue, (Ellipsoid((0.0, 0.0, 0.0), radii, exponent=2.4),), over=over)

    ribs = []
    for height in np.arange(-20, 130, 30) + rng.uniform(-10, 10):
        # A rib descends from posterior to anterior: a tilted flat disc, visible where it crosses the muscle.
        disc = Ellipsoid((0.0, 0.0, float(height)), (half_width, half_depth, 5.0), (rng.uniform(18, 26), 0.0, 0.0), 4.0)
        ribs.append(Part(Tissue.BONE, (disc,), over=(Tissue.MUSCLE,)))
    muscle, cavity = shell(fat, Tissue.MUSCLE), shell(fat + rng.uniform(8, 13), Tissue.CAVITY)
    return (shell(0.0, Tissue.FAT), muscle, *ribs, cavity)


def _chest(rng: np.random.Generator, breath: float) -> tuple[Part, ...]:
    """Returns the lung bases and the heart, above the domes of liver and spleen."""
    lungs = tuple(
        Ellipsoid((side * 72.0, -12.0, 150 + breath), (66.0, 80.0, rng.uniform(105, 125)), exponent=2.5)
        for side in (1, -1)
    )
    heart = Ellipsoid(_around(rng, (-22, 38, 108 + breath), (8, 8, 6)), (62.0, 42.0, 42.0), (0.0, 20.0, 20.0))
    return (
        *(Part(Tissue.LUNG, (lung,), over=(Tissue.CAVITY,)) for lung in lungs),
        Part(Tissue.HEART, (heart,), over=(Tissue.CAVITY, Tissue.LUNG)),
    )


def _bowel(rng: np.random.Generator, inner: tuple[float, float], back: float) -> tuple[Part, ...]:
    """Returns anterior small bowel, the colon along the flanks, and loops adjacent to the kidneys."""
    places = [_around(rng, (0, 28, -48), (inner[0] - 30, inner[1] - 45, 52)) for _ in range(26)]
    places += [_around(rng, (-52, 30, 10), (34, 30, 38)) for _ in range(6)]
    places += [_around(rng, (side * 74, back + 22, -24), (24, 20, 66)) for side in (1,) * 6 + (-1,) * 8]
    parts = []
    for place in places:
        radius = rng.uniform(11, 20)
        radii = (radius, radius * rng.uniform(0.8, 1.1), radius * rng.uniform(1.3, 2.8))
        content = Tissue.BOWEL + int(rng.integers(NUM_BOWEL_CONTENTS))
        solid = Ellipsoid(place, radii, _around(rng, (0, 0, 0), (80, 80, 80)))
        parts.append(Part(content, (solid,), over=(Tissue.CAVITY, *range(Tissue.BOWEL, NUM_TISSUES))))
    return tuple(parts)


def _retroperitoneum(rng: np.random.Generator, back: float) -> tuple[Part, ...]:
    """Returns spine, paraspinal muscles, great vessels and pancreas."""
    back = back - rng.uniform(8, 16)
    body = Ellipsoid((0.0, back, 0.0), (22.0, 18.0, 900.0), exponent=2.3)
    arch = Ellipsoid((0.0, back - 30, 0.0), (9.0, 20.0, 900.0))
    muscles = [
        Ellipsoid((side * 30.0, back - 26, 0.0), (25.0, 16.0, 900.0), (0.0, 0.0, side * 12.0)) for side in (1, -1)
    ]
    psoas = [
        Ellipsoid((side * 40.0, back + 4, -130.0), (17.0, 17.0, rng.uniform(110, 135)), (0.0, side * -6.0, 0.0))
        for side in (1, -1)
    ]
    crura = [Ellipsoid((side * 14.0, back + 18, 50.0), (7.0, 12.0, 70.0)) for side in (1, -1)]
    pancreas = Ellipsoid(_around(rng, (-14, back + 58, 4), (8, 6, 10)), (52.0, 11.0, 14.0), (0.0, 20.0, 12.0))
    canal = Ellipsoid((0.0, back - 24, 0.0), (9.0, 7.5, 900.0))
    aorta = Ellipsoid((-9.0, back + 29, 0.0), (9.5, 9.5, 900.0))
    cava = Ellipsoid((19.0, back + 28, 0.0), (12.0, rng.uniform(6, 11), 900.0))
    return (
        Part(Tissue.PANCREAS, (pancreas,), over=SOFT),
        *(Part(Tissue.MUSCLE, (solid,)) for solid in (*muscles, *psoas, *crura)),
        Part(Tissue.BONE, (body, arch), blend_mm=6.0),
        Part(Tissue.SPINAL_CANAL, (canal,)),
        Part(Tissue.AORTA, (aorta,)),
        Part(Tissue.VENA_CAVA, (cava,)),
    )


def _stomach(rng: np.random.Generator, breath: float) -> tuple[Part, ...]:
    """Returns the stomach, anywhere from empty to full, under the left dome."""
    size = rng.uniform(0.65, 1.15)
    fundus = Ellipsoid(_around(rng, (-58, 8, 62 + breath), (10, 14, 10)), (38 * size, 40 * size, 44 * size))
    antrum = Ellipsoid(
        _around(rng, (-20, 48, 26 + breath), (14, 10, 12)), (46 * size, 24 * size, 26 * size), (0.0, 25.0, 20.0)
    )
    return (Part(Tissue.STOMACH, (fundus, antrum), over=SOFT, blend_mm=20.0),)


def _liver(rng: np.random.Generator, scale: float, breath: float) -> tuple[Part, ...]:
    """Returns the liver with its right lobe, left lobe and vessels, and the gallbladder below it."""
    center = np.array(_around(rng, (62, 6, 38 + breath), (6, 7, 8)))
    grow = scale * rng.uniform(0.9, 1.12)
    left_reach = rng.uniform(40, 72)
    right = Ellipsoid(tuple(center), (70 * grow, 82 * grow, 66 * grow), _around(rng, (8, 12, 0), (10, 8, 10)), 2.3)
    tip = Ellipsoid(tuple(center + (22, -14, -52)), (34 * grow, 48 * grow, rng.uniform(38, 66)), (0.0, 10.0, 0.0))
    left = Ellipsoid(
        tuple(center + (-44, 34, 12)), (left_reach * grow, 36 * grow, 36 * grow), _around(rng, (0, 18, -8), (8, 8, 10))
    )
    hollow = Ellipsoid(tuple(center + (-58, -22, -58)), (62.0, 72.0, rng.uniform(56, 72)), (0.0, 12.0, 0.0))
    bile = Ellipsoid(tuple(center + _around(rng, (-26, 42, -38), (8, 6, 6))), (13.0, 15.0, 26.0), (20.0, 0.0, 0.0))
    parts = [
        Part(Tissue.LIVER, (right, tip, left), cuts=(hollow,), over=SOFT, blend_mm=18.0),
        Part(Tissue.GALLBLADDER, (bile,), over=(*SOFT, Tissue.LIVER)),
    ]
    for _ in range(7):
        start = _around(rng, tuple(center + (-6, 0, 8)), (34, 40, 30))
        vessel = Ellipsoid(
            start,
            (rng.uniform(3, 5.5), rng.uniform(3, 5.5), rng.uniform(25, 55)),
            _around(rng, (0, 0, 0), (90, 90, 90)),
        )
        parts.append(Part(Tissue.LIVER_VESSEL, (vessel,), over=(Tissue.LIVER,)))
    return tuple(parts)


def _spleen(rng: np.random.Generator, scale: float, inner: tuple[float, float], breath: float) -> tuple[Part, ...]:
    """Returns the spleen, a bowl behind the stomach; its length varies most of all organs."""
    grow = scale * rng.uniform(0.78, 1.22)
    center = np.array(_around(rng, (-inner[0] + 20, -32, 44 + breath), (6, 12, 14)))
    tilt = _around(rng, (12, -14, -24), (14, 12, 14))
    outer = Ellipsoid(tuple(center), (33 * grow, 54 * grow, 54 * grow), tilt, 2.3)
    hilum = Ellipsoid(tuple(center + (39 * grow, 16, -4)), (31 * grow, 50 * grow, 56 * grow), tilt)
    return (Part(Tissue.SPLEEN, (outer,), cuts=(hilum,), over=SOFT, blend_mm=8.0),)


def _kidney(rng: np.random.Generator, scale: float, side: int, back: float, breath: float) -> tuple[Part, ...]:
    """Returns one kidney (side 1 right, -1 left) in its fat: cortex, medulla, and a sinus open medially."""
    grow = scale * rng.uniform(0.85, 1.15)
    height = (-28 if side > 0 else -12) + 0.6 * breath
    center = np.array(_around(rng, (side * 58, back, height), (8, 7, 16)))
    radii = (27 * grow, 25 * grow, 54 * grow * rng.uniform(0.9, 1.1))
    tilt = _around(rng, (14, side * 12, side * -18), (8, 8, 14))
    axes = rotation_matrix(tilt)

    def solid(size: float, offset: Vector = (0.0, 0.0, 0.0)) -> Ellipsoid:
        return Ellipsoid(tuple(center + axes @ offset), tuple(size * np.array(radii)), tilt)

    sinus_center = tuple(center + axes @ (-side * 24.0 * grow, 4.0, 0.0))
    sinus = Ellipsoid(sinus_center, (13 * grow, 7 * grow, 17 * grow), tilt)
    cortex, medulla = (
        (Tissue.RIGHT_CORTEX, Tissue.RIGHT_MEDULLA) if side > 0 else (Tissue.LEFT_CORTEX, Tissue.LEFT_MEDULLA)
    )
    return (
        Part(Tissue.CAVITY, (solid(1.0 + rng.uniform(0.0, 0.15)),), over=(*SOFT, *ORGANS)),
        Part(cortex, (solid(1.0),), cuts=(sinus,), over=(*SOFT, *ORGANS), blend_mm=5.0),
        Part(medulla, (solid(0.62),), cuts=(sinus,), over=(cortex,)),
    )
