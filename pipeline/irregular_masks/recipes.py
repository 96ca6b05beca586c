"""The published mask generators as streams of pieces, read from the public code that each names.

A recipe is a function `(rng, canvas)` that yields pieces without end (the regular holes: one piece), and `WHOLE`
wherever the published generator would stop: a mask drawn freely ends there, one drawn into a bucket goes on until
its hole is large enough. Lengths are the publications' pixels on a 256-pixel canvas (512 where said) times
`canvas.unit`.

    random_walk      4-neighbour walk of as many steps as there are pixels (naoto0804's irregular masks)
    strokes          RFR-Net's stroke generator, 1-15 parts; strokes_prvs: PRVS, always 15
    brush            DeepFill v2's free-form brush; brush_box: its training mask, brush united with a box
    brush_port       the brush of DeepFill v2's PyTorch port (csqiangwen): 10-14 strokes of 1-5 thick segments
    lama_*           LaMa's configurations: each mask is made of thick segments or of boxes, by chance
    pic              lines, discs and ellipse arcs of the pluralistic completion (PIC) code
    quickdraw_like   smooth Bezier doodles with the parameters of QD-IMD, in place of its human strokes
    center_box, random_box, half   the regular holes: central half-side box, box of a quarter of the area, one half

Departures: joints are filled (RFR's code outlines them), DeepFill's flips take effect (its code discards them),
and LaMa's strokes are lines only, as in its configurations (its code can also draw discs and squares).
"""

import functools
from collections.abc import Callable, Iterator
from math import pi, sqrt
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.irregular_masks.pieces import Box, Piece, Stroke, Walk

WHOLE = None


class Canvas(NamedTuple):
    """What a recipe draws on: height and width in pixels, `unit` pixels per published pixel at 256, the number of hole
    pixels aimed at (None when the mask is drawn freely), and the width of a frame already kept free around it."""

    height: int
    width: int
    unit: float
    target: int | None = None
    frame: int = 0

    def length(self, pixels) -> int:
        """Published pixels in pixels of this canvas, at least 1."""
        return max(1, round(pixels * self.unit))


Recipe = Callable[[np.random.Generator, Canvas], Iterator[Piece | None]]


def _point(rng: np.random.Generator, canvas: Canvas) -> tuple[int, int]:
    return int(rng.integers(canvas.width)), int(rng.integers(canvas.height))


def _zigzag(angles: np.ndarray) -> np.ndarray:
    """Every other angle, from the first, turned over to 2 pi - angle."""
    angles[::2] = 2 * pi - angles[::2]
    return angles


def _segments(
    canvas: Canvas, start: tuple[int, int], dx: np.ndarray, dy: np.ndarray, widths: np.ndarray
) -> Iterator[Stroke]:
    """One stroke per step from `start`; steps and widths in published pixels, each end clipped to the canvas."""
    x, y = start
    right, bottom = canvas.width - 1, canvas.height - 1
    for step_x, step_y, width in zip((dx * canvas.unit).tolist(), (dy * canvas.unit).tolist(), widths.tolist()):
        end = min(max(round(x + step_x), 0), right), min(max(round(y + step_y), 0), bottom)
        yield Stroke(((x, y), end), canvas.length(width))
        x, y = end


def _random_walk(rng: np.random.Generator, canvas: Canvas) -> Iterator[Piece | None]:
    # A walk that stays put where it would leave has the law of a free walk folded at the canvas' outer edges,
    # and the free walk is two cumulative sums.
    right, down = np.array([1, -1, 0, 0]), np.array([0, 0, 1, -1])
    fold_x, fold_y = _folded(canvas.width), _folded(canvas.height) * canvas.width
    pixels, part = canvas.height * canvas.width, -(-canvas.height * canvas.width // 8)
    while True:
        x, y = _point(rng, canvas)
        for start in range(0, pixels, part):
            way = rng.integers(0, 4, min(part, pixels - start), dtype=np.uint8)
            free_x, free_y = x + np.cumsum(right.take(way)), y + np.cumsum(down.take(way))
            yield Walk(fold_x.take(free_x, mode="wrap") + fold_y.take(free_y, mode="wrap"))
            x, y = int(free_x[-1]), int(free_y[-1])
        yield WHOLE


def _folded(size: int) -> np.ndarray:
    """Where the free coordinates 0 .. 2 * size - 1 lie on the canvas: there and back again."""
    return np.concatenate([np.arange(size), np.arange(size)[::-1]])


def _strokes(rng: np.random.Generator, canvas: Canvas, parts: tuple[int, int]) -> Iterator[Piece | None]:
    while True:
        for _ in range(rng.integers(*parts, endpoint=True)):
            vertices = rng.integers(0, 25, endpoint=True)
            angles = _zigzag(np.deg2rad(rng.integers(0, 360, vertices, endpoint=True)))
            lengths = rng.integers(0, 100, vertices, endpoint=True)
            widths = rng.integers(10, 24, vertices, endpoint=True) // 2 * 2
            yield from _segments(
                canvas, _point(rng, canvas), lengths * np.sin(angles), lengths * np.cos(angles), widths
            )
        yield WHOLE


def _brush_strokes(rng: np.random.Generator, canvas: Canvas) -> Iterator[Stroke]:
    mean_step = sqrt(2) * 256 / 8  # an eighth of the diagonal
    for _ in range(rng.integers(1, 3, endpoint=True)):
        vertices = rng.integers(4, 11, endpoint=True)
        lowest, highest = 2 * pi / 5 + rng.uniform(0, 2 * pi / 15, 2) * [-1, 1]
        angles = _zigzag(rng.uniform(lowest, highest, vertices))
        steps = np.clip(rng.normal(mean_step, mean_step / 2, vertices), 0, 2 * mean_step)
        flip_x, flip_y = rng.choice([-1, 1], 2)
        widths = np.full(
            vertices, rng.integers(12, 40) - 1
        )  # drawn with Pillow there, whose lines are no wider than asked
        start = _point(rng, canvas)
        yield from _segments(canvas, start, flip_x * steps * np.cos(angles), flip_y * steps * np.sin(angles), widths)


def _brush(rng: np.random.Generator, canvas: Canvas) -> Iterator[Piece | None]:
    while True:
        yield from _brush_strokes(rng, canvas)
        yield WHOLE


def _brush_box(rng: np.random.Generator, canvas: Canvas) -> Iterator[Piece | None]:
    # At its published size the box alone overfills the small buckets, and no brush would ever be seen there. Below
    # the mean share of the published mask (.31) the box shrinks with the target.
    shrink = 1.0 if canvas.target is None else min(1.0, sqrt(canvas.target / 0.31) / (256 * canvas.unit))
    while True:
        side_x, side_y = 128 - 2 * rng.integers(0, 16, 2, endpoint=True)
        yield _box(rng, canvas, side_x * shrink, side_y * shrink, margin=0)
        yield from _brush_strokes(rng, canvas)
        yield WHOLE


def _box(rng: np.random.Generator, canvas: Canvas, side_x: float, side_y: float, margin: float) -> Box:
    """A box of these sides at a random place, `margin` from the image's border (all in published pixels)."""
    gap = min(max(0, round(margin * canvas.unit) - canvas.frame), (min(canvas.width, canvas.height) - 1) // 2)
    side_x = min(canvas.length(side_x), canvas.width - 2 * gap)
    side_y = min(canvas.length(side_y), canvas.height - 2 * gap)
    left = int(rng.integers(gap, canvas.width - gap - side_x, endpoint=True))
    top = int(rng.integers(gap, canvas.height - gap - side_y, endpoint=True))
    return Box(left, top, left + side_x, top + side_y)


class Thick(NamedTuple):
    """Strokes of 1-5 segments whose angle is a whole number of radians below `radians`, plus 0.01. Ranges inclusive."""

    strokes: tuple[int, int]
    length: tuple[int, int]
    width: tuple[int, int]
    radians: int

    def pieces(self, rng: np.random.Generator, canvas: Canvas) -> Iterator[Stroke]:
        for number in range(rng.integers(*self.strokes, endpoint=True)):
            segments = rng.integers(1, 5, endpoint=True)
            angles = 0.01 + rng.integers(0, self.radians, segments)
            if number % 2 == 0:
                angles = 2 * pi - angles
            lengths = rng.integers(*self.length, segments, endpoint=True)
            widths = rng.integers(*self.width, segments, endpoint=True)
            yield from _segments(
                canvas, _point(rng, canvas), lengths * np.sin(angles), lengths * np.cos(angles), widths
            )


class Boxes(NamedTuple):
    """Boxes with independent sides, at least `margin` from the edge. Ranges inclusive."""

    count: tuple[int, int]  # type: ignore[assignment]  # in the place of tuple.count, which nobody calls
    side: tuple[int, int]
    margin: int

    def pieces(self, rng: np.random.Generator, canvas: Canvas) -> Iterator[Box]:
        for _ in range(rng.integers(*self.count, endpoint=True)):
            side_x, side_y = rng.integers(*self.side, 2, endpoint=True)
            yield _box(rng, canvas, side_x, side_y, self.margin)


def _thick(
    rng: np.random.Generator,
    canvas: Canvas,
    strokes: Thick,
    boxes: Boxes | None = None,
    box_weight: float = 0.0,
    at: int = 256,
) -> Iterator[Piece | None]:
    """Strokes (weight 1) or boxes (weight `box_weight`), one of the two for the whole mask; pixels on an `at` canvas."""
    canvas = canvas._replace(unit=canvas.unit * 256 / at)
    chosen = boxes if rng.random() < box_weight / (1 + box_weight) else strokes
    assert chosen is not None  # without boxes their weight is 0
    while True:
        yield from chosen.pieces(rng, canvas)
        yield WHOLE


def _lama(strokes: tuple[int, int], longest: int, widest: int, **more) -> Recipe:
    """LaMa's numbers: length 10 + U{0..longest - 1}, width 5 + U{0..widest - 1}, angles below 4 rad."""
    return functools.partial(_thick, strokes=Thick(strokes, (10, 9 + longest), (5, 4 + widest), radians=4), **more)


def _pic(rng: np.random.Generator, canvas: Canvas) -> Iterator[Piece | None]:
    while True:
        for shape in rng.random(rng.integers(16, 64, endpoint=True)):
            size, centre = rng.integers(4, 20, endpoint=True), _point(rng, canvas)
            if shape < 0.6:
                yield Stroke((centre, _point(rng, canvas)), canvas.length(size))
            elif shape < 0.8:
                yield Stroke((centre, centre), canvas.length(2 * size))
            else:
                axes = (
                    int(rng.integers(1, canvas.width, endpoint=True)),
                    int(rng.integers(1, canvas.height, endpoint=True)),
                )
                turn, one_end, other_end = rng.integers(3, 180, 3, endpoint=True).tolist()
                arc = cv2.ellipse2Poly(centre, axes, turn, min(one_end, other_end), max(one_end, other_end), 3)
                yield Stroke(np.asarray(arc), canvas.length(size))
        yield WHOLE


_CURVE = np.linspace(0, 1, 9)[:, None]
_BERNSTEIN = np.hstack([(1 - _CURVE) ** 3, 3 * _CURVE * (1 - _CURVE) ** 2, 3 * _CURVE**2 * (1 - _CURVE), _CURVE**3])


def _quickdraw_like(rng: np.random.Generator, canvas: Canvas) -> Iterator[Piece | None]:
    # Number and width of strokes, enlargement and central crop are QD-IMD's, in pixels of its 512 canvas. The human
    # strokes themselves are replaced by 2-7 cubic Bezier curves joined without a kink.
    unit = canvas.unit / 2
    centre = np.array([canvas.width, canvas.height]) / 2
    while True:
        enlarge = rng.uniform(1, 1.5)
        for _ in range(max(1, round(rng.normal(4, 2)))):
            curves = rng.integers(2, 7, endpoint=True)
            width = max(1, round(rng.uniform(5, 15) * enlarge * unit))
            heading = rng.uniform(0, 2 * pi) + np.cumsum(rng.normal(0, 1.1, curves + 1))
            toward = np.stack([np.cos(heading), np.sin(heading)], axis=1)  # (curves + 1, 2)
            reach = rng.uniform(40, 160, (curves, 1)) * unit
            chords = reach * (toward[:-1] + toward[1:]) / 2
            ends = _point(rng, canvas) + np.vstack([np.zeros(2), np.cumsum(chords, axis=0)])
            handles = reach / 2.5
            control = np.stack(
                [ends[:-1], ends[:-1] + handles * toward[:-1], ends[1:] - handles * toward[1:], ends[1:]]
            )
            points = np.einsum("tk,kcd->ctd", _BERNSTEIN, control)  # (curves, 9, 2)
            for curve in np.ascontiguousarray(np.rint((points - centre) * enlarge + centre), np.int32):
                yield Stroke(curve, width)
        yield WHOLE


def _regular(rng: np.random.Generator, canvas: Canvas, place: str) -> Iterator[Piece | None]:
    """One box and no more: as published when drawn freely (half the side, a quarter of the area, half the canvas),
    else of the target's size, in the canvas' shape."""
    natural = 0.5 if place == "half" else 0.25
    share = natural if canvas.target is None else canvas.target / (canvas.height * canvas.width)
    if place == "half":
        side = rng.integers(4)
        wide = max(1, round(canvas.width * share)) if side < 2 else canvas.width
        high = canvas.height if side < 2 else max(1, round(canvas.height * share))
        left, top = (canvas.width - wide if side == 1 else 0), (canvas.height - high if side == 3 else 0)
    else:
        wide, high = max(1, round(canvas.width * sqrt(share))), max(1, round(canvas.height * sqrt(share)))
        left, top = (canvas.width - wide) // 2, (canvas.height - high) // 2
        if place == "random":
            left = int(rng.integers(canvas.width - wide, endpoint=True))
            top = int(rng.integers(canvas.height - high, endpoint=True))
    yield Box(left, top, left + wide, top + high)
    yield WHOLE


_IRREGULAR: dict[str, Recipe] = {
    "random_walk": _random_walk,
    "strokes": functools.partial(_strokes, parts=(1, 15)),
    "strokes_prvs": functools.partial(_strokes, parts=(15, 15)),
    "brush": _brush,
    "brush_box": _brush_box,
    "brush_port": functools.partial(_thick, strokes=Thick((10, 14), (30, 49), (25, 54), radians=10)),
    "lama_train": _lama((1, 5), 200, 100, boxes=Boxes((1, 4), (30, 149), 10), box_weight=1.0),
    "lama_thin": _lama((4, 50), 40, 10),
    "lama_medium": _lama((4, 5), 100, 50, boxes=Boxes((1, 5), (10, 49), 0), box_weight=0.3),
    "lama_thick": _lama((1, 5), 200, 100, boxes=Boxes((1, 3), (30, 149), 10), box_weight=0.3),
    "lama_thick_512": _lama((1, 5), 450, 250, boxes=Boxes((1, 4), (30, 299), 10), box_weight=0.3, at=512),
    "lama_deepfill": _lama((4, 12), 80, 40, boxes=Boxes((1, 1), (30, 127), 0), box_weight=1.0),
    "pic": _pic,
    "quickdraw_like": _quickdraw_like,
}
_REGULAR: dict[str, Recipe] = {
    "center_box": functools.partial(_regular, place="center"),
    "random_box": functools.partial(_regular, place="random"),
    "half": functools.partial(_regular, place="half"),
}

KINDS = tuple(_IRREGULAR)
REGULAR_KINDS = tuple(_REGULAR)


def recipe(kind: str) -> Recipe:
    """The recipe of a kind. Raises ValueError for an unknown one."""
    kind_recipe = (_IRREGULAR | _REGULAR).get(kind)
    if kind_recipe is None:
        raise ValueError(f"unknown mask kind {kind!r}; expected one of {', '.join(KINDS + REGULAR_KINDS)}")
    return kind_recipe
