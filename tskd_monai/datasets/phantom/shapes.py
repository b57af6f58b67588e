"""Analytic solids in mm, from which the embedded dataset is built, so that the label of every point is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]


def rotation_matrix(degrees: Vector) -> np.ndarray:
    """Returns the 3x3 rotation about x, then y, then z, by angles in degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Ellipsoid:
    """A superellipsoid.

    Attributes:
        center: position of the centre, mm.
        radii: semi-axes along the solid's own axes, mm.
        tilt_deg: rotation of these axes, degrees about x, then y, then z.
        exponent: 2 is an ellipsoid, larger values are more box-like.
    """

    center: Vector
    radii: Vector
    tilt_deg: Vector = (0.0, 0.0, 0.0)
    exponent: float = 2.0

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Returns the approximate distance (N,) in mm of points (N, 3) to the surface, negative inside."""
        scaled = (points - self.center) @ rotation_matrix(self.tilt_deg) / self.radii
        if self.exponent == 2.0:
            level = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        else:
            level = (np.abs(scaled) ** self.exponent).sum(1) ** (1.0 / self.exponent)
        return (level - 1.0) * min(self.radii)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lower and upper corner (3,) in mm of a box around the solid."""
        half = np.abs(rotation_matrix(self.tilt_deg)) @ np.array(self.radii)
        return np.array(self.center) - half, np.array(self.center) + half


@dataclass(frozen=True)
class Part:
    """A smooth union of solids minus others, made of one tissue.

    Attributes:
        tissue: number of the tissue.
        solids: solids of the union, at least one.
        cuts: solids that are subtracted.
        over: tissues that the part may be painted over; empty: all. This clips a part to what contains it.
        blend_mm: width over which surfaces blend into each other.
    """

    tissue: int
    solids: tuple[Ellipsoid, ...]
    cuts: tuple[Ellipsoid, ...] = ()
    over: tuple[int, ...] = ()
    blend_mm: float = 0.0

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Returns whether each of the points (N, 3) is inside, bool (N,)."""
        distance = self.solids[0].distance(points)
        for solid in self.solids[1:]:
            distance = smooth_minimum(distance, solid.distance(points), self.blend_mm)
        for cut in self.cuts:
            distance = -smooth_minimum(-distance, cut.distance(points), self.blend_mm)
        return distance < 0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the corners in mm of a box around the part."""
        corners = [solid.bounds() for solid in self.solids]
        low, high = (np.array(side) for side in zip(*corners, strict=True))
        margin = self.blend_mm if len(corners) > 1 else 0.0
        return low.min(0) - margin, high.max(0) + margin


@dataclass(frozen=True)
class Warp:
    """A smooth displacement, the sum over k of amplitudes[k] * sin(waves[k] . p + phases[k]).

    Attributes:
        waves: wave vectors, rad/mm.
        phases: rad.
        amplitudes: mm.
    """

    waves: tuple[Vector, ...]
    phases: tuple[float, ...]
    amplitudes: tuple[Vector, ...]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Returns the displaced points (N, 3), mm."""
        return points + np.sin(points @ np.array(self.waves).T + self.phases) @ np.array(self.amplitudes)


def smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Returns min(a, b), its crease rounded where the two differ by less than `width` (quadratic; Quilez, smin)."""
    if width <= 0:
        return np.minimum(a, b)
    overlap = np.maximum(width - np.abs(a - b), 0.0) / width
    return np.minimum(a, b) - overlap * overlap * (width / 4)
