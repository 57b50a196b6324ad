"""Street scenes drawn in perspective, in which the surroundings decide the class of a thing.

A scene lies in town or in the country, and three pairs of classes look the same by construction: a
facade is building or wall, the ground beside the road sidewalk or terrain, a large vehicle bus or
truck. What tells town from country is what lines the road: more facades than trees, or the other
way round. A network has to take in the whole road to label the facades, the ground and the
vehicles.
"""

import itertools
import math
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import VOID
from experiments.segmentation.data.street_canvas import Canvas, Color, Light, Material, Polygon

if TYPE_CHECKING:
    from collections.abc import Callable

_CLASS = {name: index for index, name in enumerate(CITYSCAPES.names)}
_DARK = np.array([0.1, 0.1, 0.12], np.float32)
_WHITE = np.array([0.85, 0.85, 0.82], np.float32)
_GREEN = np.array([0.28, 0.42, 0.18], np.float32)

_FAR, _NEAR = 0.05, 1.6  # nearness of the far and near ends of what lines the road
_HORIZON = 0.01  # nearness at which the road itself ends
_BLOCKS = 6  # stretches of facades, of hedges or of nothing on each side


def _circle(x: float, y: float, radius: float, corners: int) -> Polygon:
    turn = [2 * math.pi * (k + 0.5) / corners for k in range(corners)]
    return [(x + radius * math.sin(a), y - radius * math.cos(a)) for a in turn]


def _rectangle(left: float, right: float, low: float, high: float) -> Polygon:
    return [(left, low), (left, high), (right, high), (right, low)]


def _steps(start: float, end: float, count: int) -> list[float]:
    """Numbers from start to end, both included, each the same multiple of the one before."""
    return [start * (end / start) ** (k / count) for k in range(count + 1)]


_HEAD = _circle(0, 1.62, 0.15, 8)


@dataclass(frozen=True)
class Hardness:
    """What makes a scene hard to label.

    Attributes:
      texture: factor on the contrast of all textures.
      gain: least and greatest brightness.
      cast: standard deviation of the light's colour.
      slope: greatest change of brightness across the picture.
      noise: standard deviation of the camera's noise.
      shadows: expected number of shadows across the road.
      tilt: greatest tilt of the camera in radians.
      vehicles, people, posts: expected number in a scene.
      large: share of buses and trucks among the vehicles.
    """

    texture: float = 1.0
    gain: tuple[float, float] = (0.75, 1.15)
    cast: float = 0.01
    slope: float = 0.3
    noise: float = 0.02
    shadows: float = 1.0
    tilt: float = 0.06
    vehicles: float = 3.0
    people: float = 3.0
    posts: float = 2.5
    large: float = 0.4


@dataclass(frozen=True)
class Perspective:
    """Maps points of the world to pixels.

    A place on the ground is given by its offset from the road's middle in metres, positive to the
    right, and its nearness: 0 at the horizon, 1 at the lower edge of the picture.

    Attributes:
      size: `(H, W)` in pixels.
      horizon: row of the horizon.
      middle: column in which the road's middle leaves the picture.
      bend: columns by which it has moved at the horizon.
      camera: height of the camera in metres.
    """

    size: tuple[int, int]
    horizon: float
    middle: float
    bend: float
    camera: float

    def point(self, offset: float, nearness: float, height: float = 0) -> tuple[float, float]:
        """Column and row of a point some metres above a place."""
        drop = nearness * (self.size[0] - self.horizon)
        turn = self.bend * (1 - nearness) ** 2 if nearness < 1 else 0.0
        pixels_per_metre = drop / self.camera
        x = self.middle + turn + offset * pixels_per_metre
        return x, self.horizon + drop - height * pixels_per_metre

    def behind(self, nearness: float, distance: float) -> float:
        """The nearness of a place some metres further away."""
        depth = 0.6 * self.size[1] * self.camera / (self.size[0] - self.horizon)
        return depth / (depth / nearness + distance)


class _Scene:
    """A scene while it is drawn."""

    def __init__(self, size: tuple[int, int], hardness: Hardness, rng: np.random.Generator):
        height, width = size
        self.hardness = hardness
        self.rng = rng
        self.canvas = Canvas(size, rng.uniform(-hardness.tilt, hardness.tilt))
        self.view = Perspective(
            size=size,
            horizon=rng.uniform(0.3, 0.48) * height,
            middle=rng.uniform(0.35, 0.65) * width,
            bend=rng.normal(0, 0.12) * width,
            camera=rng.uniform(2.0, 2.8),
        )
        self.is_town = bool(rng.random() < 0.5)
        self.edges = (-rng.uniform(3.0, 4.5), rng.uniform(3.0, 4.5))
        self.sky = np.float32(rng.uniform(0.6, 0.78)) * np.array([0.96, 1, 1.04], np.float32)

    def material(self, name: str, color: Color, texture: str, contrast: float) -> Material:
        return Material(_CLASS[name], color, texture, contrast * self.hardness.texture)

    def grey(self) -> Color:
        """A colour that road, sidewalk, terrain, wall and building may all have."""
        shade = self.rng.uniform(0.3, 0.6)
        return np.asarray(shade * (1 + self.rng.normal(0, 0.05, 3)), np.float32)

    def paint_color(self) -> Color:
        """The colour of a vehicle or of clothes."""
        grey = self.rng.uniform(0.1, 0.8)
        return np.asarray(grey + self.rng.uniform(-0.3, 0.3, 3), np.float32).clip(0.05, 0.9)

    def strip(self, left: float, right: float, far: float, near: float, steps: int = 8) -> Polygon:
        """A strip of the ground between two offsets."""
        nearness = _steps(far, near, steps)
        one = [self.view.point(left, t) for t in nearness]
        return one + [self.view.point(right, t) for t in reversed(nearness)]

    def upright(self, offset: float, far: float, near: float, low: float, high: float) -> Polygon:
        """A rectangle standing along the road."""
        corners = ((far, low), (far, high), (near, high), (near, low))
        return [self.view.point(offset, t, h) for t, h in corners]

    def along(self, far: float, near: float, count: int) -> list[float]:
        """Divides what lies between two nearnesses into stretches equally long in metres."""
        parts = [k / count for k in range(count + 1)]
        return [1 / ((1 - part) / far + part / near) for part in parts]

    def billboard(self, offset: float, nearness: float, shape: Polygon) -> Polygon:
        """A shape facing the camera; its points are metres right of a place and above it."""
        return [self.view.point(offset + x, nearness, h) for x, h in shape]


def draw_street(
    size: tuple[int, int], hardness: Hardness, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draws a scene.

    Args:
      size: `(H, W)` in pixels.
      hardness: what makes the scene hard to label.
      rng: the generator of everything that is drawn at random.

    Returns:
      The picture, `(H, W, 3)` RGB, and its Cityscapes classes, `(H, W)`; void is `VOID`.
    """
    scene = _Scene(size, hardness, rng)
    _draw_sky_and_ground(scene)
    for side in (0, 1):
        _draw_roadside(scene, side)
    _draw_shadows(scene)
    _draw_objects(scene)
    _draw_bonnet(scene)
    light = Light(
        gain=rng.uniform(*hardness.gain),
        cast=np.asarray(1 + rng.normal(0, hardness.cast, 3), np.float32),
        slope=(
            rng.uniform(-hardness.slope, hardness.slope),
            rng.uniform(-hardness.slope, hardness.slope),
        ),
        noise=hardness.noise,
    )
    return scene.canvas.picture(light, rng), scene.canvas.label()


def _band(scene: _Scene, top: float, bottom: float) -> Polygon:
    """A horizontal band wide enough to be tilted."""
    width = scene.view.size[1]
    return _rectangle(-width, 2 * width, top, bottom)


def _draw_sky_and_ground(scene: _Scene) -> None:
    rng, view, canvas = scene.rng, scene.view, scene.canvas
    height = view.size[0]
    sky = scene.material("sky", scene.sky, "clouds", 0.06)
    canvas.fill([_band(scene, -height, view.horizon)], sky)
    hills = view.horizon - rng.uniform(0.02, 0.06) * height
    far_green = 0.7 * _GREEN + 0.15
    canvas.fill(
        [_band(scene, hills, view.horizon)], scene.material("vegetation", far_green, "rough", 0.15)
    )
    green = np.float32(rng.uniform(0, 0.5))
    ground = (1 - green) * scene.grey() + green * _GREEN
    beside = "sidewalk" if scene.is_town else "terrain"
    canvas.fill(
        [_band(scene, view.horizon, 2 * height)], scene.material(beside, ground, "rough", 0.12)
    )
    left, right = scene.edges
    road = scene.material("road", scene.grey(), "rough", 0.12)
    canvas.fill([scene.strip(left, right, _HORIZON, _NEAR)], road)
    mark = scene.material("road", _WHITE, "rough", 0.08)
    lines = [left + 0.25, right - 0.25]
    canvas.fill([scene.strip(x - 0.07, x + 0.07, _HORIZON, _NEAR) for x in lines], mark)
    start = rng.uniform(0, 3)
    dashes = [view.behind(_NEAR, start + 3 * k) for k in range(9)]
    canvas.fill([scene.strip(-0.07, 0.07, view.behind(t, 1.5), t, 1) for t in dashes], mark)


def _draw_roadside(scene: _Scene, side: int) -> None:
    """Draws what stands along one side, the far end first."""
    rng = scene.rng
    direction = (-1, 1)[side]
    offset = scene.edges[side] + direction * rng.uniform(1.2, 3.5)
    inner = [t * rng.uniform(0.85, 1.15) for t in _steps(_FAR, _NEAR, _BLOCKS)[1:-1]]
    for far, near in itertools.pairwise([_FAR, *inner, _NEAR]):
        draw = _ROADSIDE[bisect(_ROADSIDE_SHARES[scene.is_town], rng.random())]
        draw(scene, offset, far, near)


def _draw_facade(scene: _Scene, offset: float, far: float, near: float) -> None:
    rng = scene.rng
    name = "building" if scene.is_town else "wall"
    high = rng.uniform(3.0, 8.0)
    body = scene.grey()
    canvas = scene.canvas
    canvas.fill(
        [scene.upright(offset, far, near, 0, high)], scene.material(name, body, "rough", 0.12)
    )
    # A bright panel mirrors the sky.
    panel = scene.sky if rng.random() < 0.35 else np.float32(rng.uniform(0.4, 0.8)) * body
    columns = scene.along(far, near, 2 * int(rng.integers(2, 4)) + 1)
    storeys = [1 + 2.6 * k for k in range(math.ceil((high - 2) / 2.6))]
    panels = [
        scene.upright(offset, left, right, low, min(low + 1.4, high - 0.3))
        for left, right in zip(columns[1:-1:2], columns[2::2], strict=True)
        for low in storeys
    ]
    canvas.fill(panels, scene.material(name, panel, "plain", 0.08))


def _draw_trees(scene: _Scene, offset: float, far: float, near: float) -> None:
    rng = scene.rng
    color = _GREEN * np.asarray(rng.uniform(0.7, 1.3) + rng.normal(0, 0.08, 3), np.float32)
    leaves = scene.material("vegetation", color, "leaves", 0.28)
    hedge = rng.uniform(0.8, 2.5)
    scene.canvas.fill([scene.upright(offset, far, near, 0, hedge)], leaves)
    for nearness in _steps(far, near, 3)[:-1]:
        radius, high = rng.uniform(1.2, 2.2), rng.uniform(2.5, 5.0)
        rugged = rng.uniform(0.75, 1.15, 12).tolist()
        circle = _circle(0, 0, radius, len(rugged))
        crown = [(x * r, high + y * r) for (x, y), r in zip(circle, rugged, strict=True)]
        shapes = [_rectangle(-0.15, 0.15, 0, high), crown]
        scene.canvas.fill([scene.billboard(offset, nearness, shape) for shape in shapes], leaves)


def _leave_open(scene: _Scene, offset: float, far: float, near: float) -> None:
    """Leaves a gap through which the ground runs on to the hills."""


_ROADSIDE = (_draw_facade, _draw_trees, _leave_open)
# Cumulative shares of the first two, in the country and in town.
_ROADSIDE_SHARES = ((0.25, 0.8), (0.8, 0.9))


def _draw_shadows(scene: _Scene) -> None:
    rng = scene.rng
    for _ in range(rng.poisson(scene.hardness.shadows)):
        far = rng.uniform(0.1, 0.8)
        near = far * rng.uniform(1.15, 1.6)
        side = int(rng.integers(2))
        reach = rng.uniform(-0.5, 1.0) * scene.edges[1 - side]
        scene.canvas.shade(scene.strip(3 * scene.edges[side], reach, far, near, 2))


def _draw_objects(scene: _Scene) -> None:
    """Draws vehicles, people and posts, those further away first."""
    rng, hardness = scene.rng, scene.hardness
    drawers: list[tuple[Callable[[_Scene, float], None], float, float, float]]
    drawers = [
        (_draw_vehicle, hardness.vehicles, 0.12, 0.75),
        (_draw_person, hardness.people, 0.3, 0.8),
        (_draw_post, hardness.posts, 0.3, 0.9),
    ]
    objects = [
        (nearness, draw)
        for draw, expected, far, near in drawers
        for nearness in rng.uniform(far, near, rng.poisson(expected)).tolist()
    ]
    for nearness, draw in sorted(objects, key=lambda item: item[0]):
        draw(scene, nearness)


def _draw_block(
    scene: _Scene,
    span: tuple[float, float],
    levels: tuple[float, float],
    depths: tuple[float, float],
    front: Material,
) -> None:
    """Draws a box between offsets, heights and nearnesses: sides and top darker, then the front."""
    far, near = depths
    (left, right), (low, high) = span, levels
    shape = _rectangle(left, right, low, high)
    back = scene.billboard(0, far, shape)
    face = scene.billboard(0, near, shape)
    rest = front._replace(color=np.float32(0.7) * front.color)
    faces = [(face[i], face[i + 1], back[i + 1], back[i]) for i in range(3)]
    scene.canvas.fill(faces, rest)
    scene.canvas.fill([face], front)


def _draw_vehicle(scene: _Scene, nearness: float) -> None:
    rng, view = scene.rng, scene.view
    is_large = rng.random() < scene.hardness.large
    lane = scene.edges[rng.integers(2)] / 2 + rng.normal(0, 0.3)
    half = rng.uniform(1.15, 1.3) if is_large else rng.uniform(0.8, 0.95)
    length = rng.uniform(6, 11) if is_large else rng.uniform(3.6, 4.6)
    name = ("bus" if scene.is_town else "truck") if is_large else "car"
    depths = view.behind(nearness, length), nearness
    span = lane - half, lane + half
    body = scene.material(name, scene.paint_color(), "plain", 0.06)
    dark = body._replace(color=_DARK)
    scene.canvas.shade(scene.strip(span[0] - 0.2, span[1] + 0.2, depths[0], 1.04 * nearness, 2))
    wheels = [
        scene.billboard(x, nearness, _rectangle(-0.14, 0.14, 0, 0.5))
        for x in (span[0] + 0.2, span[1] - 0.2)
    ]
    scene.canvas.fill(wheels, dark)
    if is_large:
        high = rng.uniform(2.7, 3.4)
        _draw_block(scene, span, (0.35, high), depths, body)
        glass = _rectangle(span[0] + 0.3, span[1] - 0.3, 1.5, high - 0.4)
    else:
        _draw_block(scene, span, (0.25, 0.85), depths, body)
        cabin = lane - 0.85 * half, lane + 0.85 * half
        inner = view.behind(nearness, 0.2 * length), view.behind(nearness, 0.05 * length)
        _draw_block(scene, cabin, (0.85, 1.45), inner, body)
        glass = _rectangle(cabin[0] + 0.12, cabin[1] - 0.12, 0.92, 1.35)
    scene.canvas.fill([scene.billboard(0, nearness, glass)], dark)
    lamp = body._replace(color=np.array([0.7, 0.12, 0.1], np.float32))
    lamps = [
        scene.billboard(x, nearness, _rectangle(-0.13, 0.13, 0.55, 0.8))
        for x in (span[0] + 0.16, span[1] - 0.16)
    ]
    scene.canvas.fill(lamps, lamp)


def _draw_person(scene: _Scene, nearness: float) -> None:
    rng, canvas = scene.rng, scene.canvas
    side = int(rng.integers(2))
    offset = scene.edges[side] + (-1, 1)[side] * rng.uniform(-0.6, 1.2)
    top = scene.material("person", scene.paint_color(), "plain", 0.06)
    trousers = top._replace(color=scene.paint_color() * np.float32(0.6))
    skin = top._replace(color=np.array([0.62, 0.46, 0.38], np.float32))
    lean = rng.uniform(-0.08, 0.08)
    stride = rng.uniform(0.16, 0.3)
    lower = [(-stride, 0.0), (-0.2, 0.95), (0.2, 0.95), (stride, 0.0), (0.0, 0.3)]
    torso = [(-0.22, 0.85), (-0.28 + lean, 1.46), (0.28 + lean, 1.46), (0.22, 0.85)]
    head = [(x + lean, h) for x, h in _HEAD]
    for shape, material in ((lower, trousers), (torso, top), (head, skin)):
        canvas.fill([scene.billboard(offset, nearness, shape)], material)


def _draw_post(scene: _Scene, nearness: float) -> None:
    rng, canvas = scene.rng, scene.canvas
    side = int(rng.integers(2))
    offset = scene.edges[side] + (-1, 1)[side] * rng.uniform(0.3, 0.9)
    high = rng.uniform(2.8, 4.0)
    pole = scene.material("pole", scene.grey(), "plain", 0.06)
    canvas.fill([scene.billboard(offset, nearness, _rectangle(-0.12, 0.12, 0, high))], pole)
    _draw_sign(scene, offset, nearness, high)


def _draw_sign(scene: _Scene, offset: float, nearness: float, high: float) -> None:
    colors = np.array([[0.75, 0.12, 0.1], [0.1, 0.25, 0.65], [0.85, 0.7, 0.1]], np.float32)
    plate = scene.material("traffic sign", colors[scene.rng.integers(3)], "plain", 0.05)
    corners = int(scene.rng.integers(3, 9))
    for radius, material in ((0.62, plate), (0.3, plate._replace(color=_WHITE))):
        shape = _circle(0, high - 0.3, radius, corners)
        scene.canvas.fill([scene.billboard(offset, nearness, shape)], material)


def _draw_bonnet(scene: _Scene) -> None:
    """Draws the camera's own vehicle into some scenes; it is void."""
    if scene.rng.random() < 0.3:
        height, width = scene.view.size
        top = height * scene.rng.uniform(0.9, 0.96)
        arch = [k / 8 - 0.5 for k in range(-1, 10)]
        rim = [(width * (x + 0.5), top + 0.2 * x**2 * height) for x in arch]
        outline = [*rim, (1.2 * width, 1.3 * height), (-0.2 * width, 1.3 * height)]
        scene.canvas.fill([outline], Material(VOID, scene.paint_color()))
