"""The soft parts of a thorax phantom: body, lungs, vessels, heart, liver and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.synthetic.phantom.geometry import Curve, Grid, coverage, paint_segment, rotation, tube_coordinates

__all__ = ["Filling", "Patient", "paint_lung_vessels", "paint_soft_parts", "paint_table"]

# An adult thorax, shaped by eye after real CT, in mm: x to the right, y anterior, z superior; T1 at z = 125.
# Rows: z; half width and anterior and posterior edge of the surface on which the ribs' axes lie; the same of the skin.
_Z = np.array([-190, -130, -90, -50, -10, 20, 50, 80, 105, 125, 155], dtype=float)
_CAGE_HALF_WIDTH = np.array([126, 134, 138, 137, 132, 125, 113, 93, 67, 46, 36], dtype=float)
_CAGE_BACK = np.array([-74, -80, -85, -89, -91, -89, -83, -71, -56, -40, -24], dtype=float)
_CAGE_FRONT = np.array([84, 92, 97, 97, 92, 84, 73, 59, 43, 26, 12], dtype=float)
_SKIN_HALF_WIDTH = np.array([146, 150, 152, 152, 152, 152, 156, 164, 162, 145, 100], dtype=float)
_SKIN_BACK = np.array([-104, -108, -112, -117, -120, -120, -118, -110, -98, -84, -66], dtype=float)
_SKIN_FRONT = np.array([104, 110, 113, 113, 108, 103, 95, 84, 68, 53, 42], dtype=float)
_CAGE_EXPONENT = 2.15
_SKIN_EXPONENT = 2.35
_VESSEL_ENDS = 420  # of the tree of vessels of a lung
SPINE_BEHIND_MM = 38.0  # from the posterior edge of the cage to the axis of the vertebral bodies


@dataclass(frozen=True)
class Filling:
    """
    What fills a part of one pleural space instead of aerated lung: fluid, or lung without air.

    Args:
        side: 1 for right, -1 for left.
        normal: unit vector from the lung into the filled part, in the patient's frame.
        offset_mm: position of the border along it.
        hu: mean HU.
        mottle_hu: how far the HU vary within, standard deviation.
    """

    side: int
    normal: tuple[float, float, float]
    offset_mm: float
    hu: float
    mottle_hu: float


@dataclass
class Patient:
    """
    What differs from patient to patient, apart from bones and fractures.

    Lengths are in mm in the patient's own frame; ``turn`` takes it to the scanner's.

    Args:
        scale: size relative to the adult that the tables describe, per axis.
        turn: rotation matrix from patient to world, shape ``(3, 3)``.
        left_width: half width of the left side relative to the right one.
        fat_mm: thickness of the fat under the skin.
        breast_mm: height of the breasts, 0 for none.
        sway_mm: how far the spine swings sideways.
        blood_hu: HU of blood; above 100 with contrast medium.
        liver_hu: HU of the liver.
        lung_hu: HU of the lung in the middle of the chest.
        bone_scale: HU of bone relative to a young adult.
        bend_mm: how far the spine swings sideways in scoliosis, 0 for none.
        bend_wave_mm: length of a whole wave of it.
        bend_phase: where it begins, in radians at z = 0.
        fillings: fluid in the pleural spaces, and lung without air.
    """

    scale: np.ndarray
    turn: np.ndarray
    left_width: float
    fat_mm: float
    breast_mm: float
    sway_mm: float
    blood_hu: float
    liver_hu: float
    lung_hu: float
    bone_scale: float
    bend_mm: float = 0.0
    bend_wave_mm: float = 300.0
    bend_phase: float = 0.0
    fillings: Sequence[Filling] = ()

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """Draw a patient at random."""
        contrast = rng.random() < 0.3
        size = rng.uniform(0.93, 1.07)
        return cls(
            scale=size * rng.uniform(0.97, 1.03, size=3),
            turn=rotation(rng.uniform(-3, 3), rng.uniform(-2.5, 2.5), rng.uniform(-7, 7)),
            left_width=rng.uniform(0.96, 1.04),
            fat_mm=rng.uniform(3, 18),
            breast_mm=rng.uniform(15, 35) if rng.random() < 0.4 else 0.0,
            sway_mm=rng.uniform(-3, 3),
            blood_hu=rng.uniform(150, 330) if contrast else rng.uniform(35, 50),
            liver_hu=rng.uniform(90, 120) if contrast else rng.uniform(45, 65),
            lung_hu=rng.uniform(-890, -800),
            bone_scale=rng.uniform(0.6, 1.05),
        )

    def table(self, z: np.ndarray | float, values: np.ndarray, axis: int) -> np.ndarray:
        """Read a row of the tables above at heights ``z``, scaled to the patient along ``axis``."""
        return (self.scale[axis] * np.interp(np.asarray(z) / self.scale[2], _Z, values)).astype(np.float32)

    def midline(self, z: np.ndarray | float) -> np.ndarray:
        """Sideways swing of the spine at height ``z``, in mm."""
        return self.sway_mm * np.sin(np.asarray(z) / 70) + self.bend(z)

    def bend(self, z: np.ndarray | float) -> np.ndarray | float:
        """Sideways position of the bent spine at height ``z`` in mm; 0 without scoliosis."""
        if self.bend_mm == 0:
            return 0.0
        return self.bend_mm * np.sin(np.asarray(z) * (2 * np.pi / self.bend_wave_mm) + self.bend_phase)

    def bend_slope(self, z: np.ndarray | float) -> np.ndarray | float:
        """Slope of the bent spine at height ``z``, mm sideways per mm up; 0 without scoliosis."""
        turn = 2 * np.pi / self.bend_wave_mm
        return self.bend_mm * turn * np.cos(np.asarray(z) * turn + self.bend_phase) if self.bend_mm else 0.0

    def lean(self, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray | float:
        """Sideways shift of the body by scoliosis: all of :py:meth:`bend` at the spine, two fifths of it in front."""
        if self.bend_mm == 0:
            return 0.0
        share = np.asarray(np.interp(y, [-40.0, 60.0], [1.0, 0.4]), dtype=np.float32)
        return np.asarray(self.bend(z) * share)

    def spine_y(self, z: np.ndarray | float) -> np.ndarray:
        """Position of the axis of the vertebral bodies, anterior, in mm."""
        return self.table(z, _CAGE_BACK, 1) + SPINE_BEHIND_MM * self.scale[1]

    def front_y(self, z: np.ndarray | float) -> np.ndarray:
        """Position of the anterior edge of the cage, in mm."""
        return self.table(z, _CAGE_FRONT, 1)

    def cage_point(self, side: int, degrees: np.ndarray, z: np.ndarray) -> np.ndarray:
        """
        Points on the cage.

        Args:
            side: 1 for right, -1 for left.
            degrees: angle from the spine (0) around the side (90) to the sternum (180), shape ``(n,)``.
            z: heights, shape ``(n,)``.

        Returns:
            Positions, shape ``(n, 3)``.
        """
        half, back, front = self._cage(z, side)
        angle = np.radians(degrees)
        sine, cosine = np.sin(angle), np.cos(angle)
        x = side * half * sine ** (2 / _CAGE_EXPONENT)
        y = (front + back) / 2 - (front - back) / 2 * np.sign(cosine) * np.abs(cosine) ** (2 / _CAGE_EXPONENT)
        return np.stack([x + self.midline(z) + (self.lean(y, z) - self.bend(z)), y, z], axis=1)

    def cage_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance from the cage in mm, negative inside, measured towards the body's axis."""
        half, back, front = self._cage(z, np.where(x > 0, 1, -1))
        middle = self.midline(z) + (self.lean(y, z) - self.bend(z))
        return _superellipse(x - middle, y, half, back, front, _CAGE_EXPONENT)

    def skin_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance from the skin in mm, negative inside, measured towards the body's axis."""
        half = self.table(z, _SKIN_HALF_WIDTH, 0) + self.fat_mm
        back = self.table(z, _SKIN_BACK, 1) - 0.5 * self.fat_mm
        front = self.table(z, _SKIN_FRONT, 1) + 0.6 * self.fat_mm
        distance = _superellipse(x - self.lean(y, z), y, half, back, front, _SKIN_EXPONENT)
        if self.breast_mm > 0:
            across = (np.abs(x) - 75 * self.scale[0]) / 55
            rise = self.breast_mm * np.exp(-(across**2) - ((z + 15) / 45) ** 2)
            distance = distance - np.where(y > 0, rise, 0)
        return distance

    def _cage(self, z: np.ndarray | float, side: np.ndarray | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        half = self.table(z, _CAGE_HALF_WIDTH, 0) * np.where(np.asarray(side) > 0, 1.0, self.left_width)
        return half, self.table(z, _CAGE_BACK, 1), self.table(z, _CAGE_FRONT, 1)


def _superellipse(
    x: np.ndarray, y: np.ndarray, half: np.ndarray, back: np.ndarray, front: np.ndarray, exponent: float
) -> np.ndarray:
    y = y - (front + back) / 2
    level = (np.abs(x / half) ** exponent + np.abs(2 * y / (front - back)) ** exponent) ** (1 / exponent)
    return np.hypot(x, y) * (1 - 1 / np.maximum(level, 0.02))


def paint_soft_parts(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint everything that is larger than a vessel and softer than bone, slice by slice."""
    organs = _Organs(patient, rng)
    x_world, y_world = np.meshgrid(grid.axes_mm[0], grid.axes_mm[1], indexing="ij")
    for k, z_world in enumerate(grid.axes_mm[2]):
        x, y, z = (t[0] * x_world + t[1] * y_world + t[2] * z_world for t in patient.turn.T.astype(np.float32))
        grid.image[:, :, k] = organs.slice_hu(x, y, z, grid.slice_texture(k), grid.voxel_mm)
    _paint_great_vessels(grid, patient)


class _Organs:
    """HU of the soft parts at points of the patient's frame."""

    def __init__(self, patient: Patient, rng: np.random.Generator) -> None:
        self.patient = patient
        self.dome_mm = np.array([-58, -70]) + rng.uniform(-15, 12)  # top of the diaphragm, right and left
        self.gas_hu = -900 if rng.random() < 0.7 else 20
        self.muscle_hu = rng.uniform(40, 62)
        self.fat_hu = rng.uniform(-112, -92)

    def slice_hu(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, noise: np.ndarray, voxel_mm: float) -> np.ndarray:
        patient = self.patient
        skin = patient.skin_distance(x, y, z)
        cage = patient.cage_distance(x, y, z)
        hu = np.full(x.shape, -1000, dtype=np.float32)
        inside = skin < voxel_mm
        _mix(hu, coverage(skin, voxel_mm), 25)
        _mix(hu, coverage(skin + 2, voxel_mm), self.fat_hu + 8 * noise)
        _mix(hu, coverage(self._muscle(x, y, z, skin, cage), voxel_mm), self.muscle_hu + 7 * noise)
        _mix(hu, coverage(cage + 6, voxel_mm), 15 + 25 * noise)
        dome = self._dome(x, y, z)
        within = inside & (cage < 0)
        if (within & (dome > -3)).any():
            self._abdomen(hu, x, y, z, cage, dome, noise, voxel_mm)
        heart = self._heart(x, y, z)
        _mix(hu, coverage(np.maximum(heart, cage + 9), voxel_mm), 45 + 3 * noise)
        if patient.blood_hu > 100:
            _mix(hu, coverage(np.maximum(heart + 11, cage + 9), voxel_mm), patient.blood_hu)
        lung = np.maximum(np.maximum(cage + 8, self._mediastinum(x, y, z)), np.maximum(dome, -heart))
        gravity = patient.lung_hu - 0.35 * (y - 10) + 14 * noise
        _mix(hu, coverage(lung, voxel_mm), gravity)
        for filling in patient.fillings:
            ahead = filling.normal[0] * x + filling.normal[1] * y + filling.normal[2] * z - filling.offset_mm
            part = np.maximum(np.maximum(lung, -ahead), -filling.side * (x - patient.bend(z)))
            _mix(hu, coverage(part, voxel_mm), filling.hu + filling.mottle_hu * noise)
        return hu

    def _muscle(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, skin: np.ndarray, cage: np.ndarray) -> np.ndarray:
        """Muscle between the fat under the skin and the ribs, with planes of fat between its layers."""
        patient = self.patient
        deep = skin + 3 + patient.fat_mm * np.where(y > 60, 0.7, 1.0)
        lateral = (
            cage - 12 - 9 * np.exp(-(((y + 45) / 35) ** 2)) - 0.12 * np.maximum(z, 0) - 0.6 * np.maximum(z - 70, 0)
        )
        back = np.hypot((np.abs(x) - 30) / 1.1, y - patient.spine_y(z) + 48) - 26
        outer = np.maximum(deep, np.minimum(lateral, back))
        planes = np.abs(cage - 9 - 2.5 * np.sin(x / 23) - 0.02 * z) - 1.2
        axilla = np.hypot((np.abs(x) - 125) / 1.3, y - 5) - np.clip(0.35 * (z - 10), 0, 26)
        return np.maximum(outer, -np.minimum(planes, axilla))

    def _dome(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Height below the diaphragm in mm, positive below."""
        heights = []
        for side, top in zip((1, -1), self.dome_mm):
            away = ((x - side * 66) / 72) ** 2 + ((y - 12) / 92) ** 2
            heights.append(top - 52 * away)
        # a smooth maximum of the two domes
        return 9 * np.logaddexp(heights[0] / 9, heights[1] / 9).astype(np.float32) - z

    def _heart(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x + 20, y - 28, z + 32
        along = (-0.75 * dx + 0.4 * dy - 0.53 * dz) / 60
        square = (dx**2 + dy**2 + dz**2) / 44**2 - along**2 * ((60 / 44) ** 2 - 1)
        return 46 * (np.sqrt(np.maximum(square, 0)) - 1)

    def _mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance into the mediastinum or the spine, negative in the lungs."""
        patient = self.patient
        x = x - patient.midline(z)
        width = np.interp(z / patient.scale[2], [-50, 20, 80, 105, 150], [38, 36, 34, 30, 34])
        center = (patient.front_y(z) + patient.spine_y(z)) / 2
        wall = 7 + (width - 7) * np.exp(-(((y - center) / 42) ** 2)) - np.abs(x)
        spine = 30 - 30 * np.hypot(x / (34 * patient.scale[0]), (y - patient.spine_y(z) + 13) / 30)
        return np.maximum(wall, spine)

    def _abdomen(
        self,
        hu: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        z: np.ndarray,
        cage: np.ndarray,
        dome: np.ndarray,
        noise: np.ndarray,
        voxel_mm: float,
    ) -> None:
        below = np.maximum(cage + 8, 2 - dome)
        _mix(hu, coverage(below, voxel_mm), self.fat_hu)
        spleen = 30 * (np.sqrt(((x + 88) / 32) ** 2 + ((y + 38) / 42) ** 2 + ((z + 112) / 38) ** 2) - 1)
        _mix(hu, coverage(np.maximum(below + 2, spleen), voxel_mm), self.patient.liver_hu - 5)
        stomach = 40 * (np.sqrt(((x + 58) / 44) ** 2 + ((y - 22) / 52) ** 2 + ((z + 112) / 42) ** 2) - 1)
        stomach = np.maximum(below + 3, stomach)
        _mix(hu, coverage(stomach, voxel_mm), 15 + 10 * noise)
        _mix(hu, coverage(np.maximum(stomach + 4, 45 - y), voxel_mm), self.gas_hu)
        spine = 34 - np.hypot(x, y - self.patient.spine_y(z))
        # the left lobe reaches over the midline in front; the lower edge rises to the left
        left_edge = 8 * np.logaddexp((-22 - x - 0.8 * y) / 8, (-165 - z - 0.8 * x) / 8)
        liver = np.maximum(np.maximum(below + 1, spine), left_edge)
        _mix(hu, coverage(liver, voxel_mm), self.patient.liver_hu + 4 * noise)


def _mix(hu: np.ndarray, alpha: np.ndarray, material: np.ndarray | float) -> np.ndarray:
    hu += alpha * (material - hu)
    return hu


def _paint_great_vessels(grid: Grid, patient: Patient) -> None:
    """Paint the aorta, the vena cava, the pulmonary trunk, the trachea and the main bronchi."""
    spine = float(patient.spine_y(20))
    front = np.array([0, 1, 0])
    blood = patient.blood_hu
    tubes = [
        ([[-4, 22, -8], [10, 30, 25], [6, 22, 55], [-10, 0, 70], [-24, spine + 14, 52]], 14, blood),
        ([[-24, spine + 14, 52], [-25, spine + 12, 0], [-20, spine + 14, -80], [-8, spine + 20, -190]], 12, blood),
        ([[26, 16, 100], [26, 15, 50], [26, 14, 0]], 9, 1.2 * blood),
        ([[-8, 34, 0], [-16, 22, 22], [-30, 2, 26], [-42, -8, 22]], 12, blood),
        ([[-16, 22, 22], [4, 8, 24], [30, -2, 20], [44, -8, 14]], 11, blood),
        ([[0, 4, 165], [0, -8, 90], [0, -14, 42]], 9, -1000),
        ([[0, -14, 44], [-22, -17, 28], [-46, -20, 14]], 6.5, -1000),
        ([[0, -14, 44], [18, -17, 30], [44, -20, 10]], 7, -1000),
    ]
    for knots, radius, hu in tubes:
        curve = Curve.through(np.array(knots, dtype=float) * patient.scale, front).rotated(patient.turn)
        tube = tube_coordinates(grid, curve, radius + 4)
        distance = np.hypot(tube.u, tube.v) - radius
        if hu < -500:
            grid.paint(tube.index, coverage(distance - 1.5, grid.voxel_mm), 20)
        grid.paint(tube.index, coverage(distance, grid.voxel_mm), hu)


def paint_lung_vessels(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """
    Paint a tree of vessels into each lung.

    The tree grows from the hilum: each new end is joined to the nearest point of the tree, nearest ends first, and a
    branch is as thick as the ends that it feeds ask for (Murray's law, radius³ adds up).

    Args:
        grid: the scan, with the lungs painted.
        patient: the patient.
        rng: source of the ends.
    """
    for side in (1, -1):
        hilum = np.array([side * 40, -8, 18]) * patient.scale
        ends = _points_in_lung(grid, patient, rng, side, _VESSEL_ENDS)
        if len(ends) == 0:
            continue
        nodes, parents = _grow_tree(hilum, ends, rng)
        fed = np.ones(len(nodes))
        for child in range(len(nodes) - 1, 0, -1):
            fed[parents[child]] += fed[child]
        radii = np.minimum(0.72 * fed ** (1 / 3), 5.0)
        nodes = nodes @ patient.turn.T
        for child in range(1, len(nodes)):
            paint_segment(grid, nodes[parents[child]], nodes[child], float(radii[child]), min(patient.blood_hu, 180))


def _points_in_lung(grid: Grid, patient: Patient, rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Random points of the patient's frame that lie in lung, shape ``(n, 3)``; fewer where the scan shows little."""
    low = np.array([20 if side > 0 else -135, -85, -150]) * patient.scale
    high = np.array([135 if side > 0 else -20, 85, 130]) * patient.scale
    candidates = rng.uniform(low, high, size=(4 * count, 3))
    voxels = np.round((candidates @ patient.turn.T - grid.origin_mm) / grid.spacing_mm).astype(int)
    known = ((voxels >= 0) & (voxels < grid.shape)).all(axis=1)
    hu = np.zeros(len(candidates))
    hu[known] = grid.image[tuple(voxels[known].T)]
    # no vessel reaches the pleura
    deep = patient.cage_distance(*candidates.T) < -14
    return candidates[deep & (hu < -600)][:count]


def _grow_tree(root: np.ndarray, ends: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Join the ends to a tree; returns its nodes, shape ``(n, 3)``, and the parent of each, which comes before it."""
    order = np.argsort(np.linalg.norm(ends - root, axis=1))
    nodes, parents = np.empty((1 + 2 * len(ends), 3)), [0]
    nodes[0] = root
    for end in ends[order]:
        count = len(parents)
        near = int(np.argmin(((nodes[:count] - end) ** 2).sum(axis=1)))
        # a bend halfway makes the branch less straight
        nodes[count] = (nodes[near] + end) / 2 + rng.normal(0, 1.5, 3)
        nodes[count + 1] = end
        parents += [near, count]
    return nodes, parents


def paint_table(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint the curved table under the patient: a thin shell with a core of foam."""
    top = float(patient.table(0, _SKIN_BACK, 1)) - 0.5 * patient.fat_mm - rng.uniform(4, 9)
    sag = rng.uniform(0.0006, 0.0016)
    x, y = grid.axes_mm[0][:, None], grid.axes_mm[1][None, :]
    surface = y - (top + sag * x**2)
    plate = np.where(np.abs(x) < 215, np.abs(surface + 12) - 12, 99.0)
    shell = coverage(plate, grid.voxel_mm) - coverage(plate + 1.5, grid.voxel_mm)
    foam = coverage(plate + 1.5, grid.voxel_mm)
    air = grid.image < -900  # the body presses into the foam, never the other way round
    grid.image += air * ((shell * 1250 + foam * 70).astype(np.float32))[:, :, None]
