"""Rendered scenes: one coloured object on a coloured ground, with answers that are right or wrong by construction.

Endless data for training and testing small judges: item i of a seed depends on (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import PIL.Image
import PIL.ImageDraw

from reward_vlm.data import Preference

OBJECTS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}
"""Colours of the object, RGB."""
GROUNDS = {"black": (15, 15, 15), "white": (240, 240, 240), "purple": (130, 50, 150), "orange": (240, 140, 30)}
"""Colours of the ground, RGB."""
SHAPES = ("disc", "box", "triangle")
QUESTION = "what is in the image ?"
SIDE = 56


@dataclass(frozen=True)
class Scene:
    """What is in a picture."""

    colour: str
    """Of the object."""
    ground: str
    """Colour of the background."""
    shape: str = "disc"
    """Of the object."""

    def describe(self) -> str:
        """The scene as an answer to `QUESTION`."""
        return f"a {self.colour} object on {self.ground}"


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene with each attribute drawn evenly."""
    kinds = (tuple(OBJECTS), tuple(GROUNDS), SHAPES)
    return Scene(*(str(kind[rng.integers(len(kind))]) for kind in kinds))


def render(scene: Scene, rng: np.random.Generator, side: int = SIDE) -> PIL.Image.Image:
    """A picture of a scene (side x side): place, size and colours vary, and there is noise (sigma 8 of 255)."""

    def shade(colour: tuple[int, int, int], spread: int) -> tuple[int, ...]:
        return tuple(int(value) for value in np.clip(np.add(colour, rng.integers(-spread, spread + 1, 3)), 0, 255))

    picture = PIL.Image.new("RGB", (side, side), shade(GROUNDS[scene.ground], 20))
    radius = int(rng.integers(side // 4, side * 3 // 8))
    x, y = (int(value) for value in rng.integers(radius, side - radius, 2))
    box = (x - radius, y - radius, x + radius, y + radius)
    draw, fill = PIL.ImageDraw.Draw(picture), shade(OBJECTS[scene.colour], 30)
    if scene.shape == "disc":
        draw.ellipse(box, fill)
    elif scene.shape == "box":
        draw.rectangle(box, fill)
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill)
    noisy = np.asarray(picture, dtype=np.float32) + rng.normal(0, 8, (side, side, 3))
    return PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def alter(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another object colour or another ground."""
    attribute, palette = ("colour", OBJECTS) if rng.integers(2) else ("ground", GROUNDS)
    others = [name for name in palette if name != getattr(scene, attribute)]
    return replace(scene, **{attribute: others[rng.integers(len(others))]})


def scene_pair(seed: int, index: int, swayed: float = 0.0) -> Preference:
    """A picture with a right and a wrong answer in random order, and the judgement to be learnt.

    `swayed` makes that judgement the work of a writer who is led by what he reads first, as language models are: where
    the answers name different colours of the object, he sees with this probability the colour that answer 1 names.
    `better` is then his choice. Pictures and answers do not depend on it.
    """
    rng = np.random.default_rng((seed, index))
    scene = draw_scene(rng)
    picture, wrong, better = render(scene, rng), alter(scene, rng), int(rng.integers(1, 3))
    shown = (scene, wrong) if better == 1 else (wrong, scene)
    seen = scene
    if rng.random() < swayed and wrong.colour != scene.colour:
        seen, better = shown[0], 1
    return Preference(
        id=f"scene-{seed}-{index}",
        images=(picture,),
        question=QUESTION,
        answers=(shown[0].describe(), shown[1].describe()),
        better=better,
        rationale=_compare(seen, shown, better),
    )


def scene_pairs(seed: int, count: int, start: int = 0, swayed: float = 0.0) -> list[Preference]:
    """`scene_pair` for the indices from `start`."""
    return [scene_pair(seed, index, swayed) for index in range(start, start + count)]


def scene_corpus() -> Iterator[str]:
    """Every sentence of the scene task, for a tokenizer."""
    for colour, ground in product(OBJECTS, GROUNDS):
        scene = Scene(colour, ground)
        other = Scene(*(names[(names.index(name) + 1) % len(names)] for name, names in _both(scene)))
        for better in (1, 2):
            yield f"{QUESTION} {scene.describe()} . {_compare(scene, (scene, other), better)} {better}"


def _both(scene: Scene) -> tuple[tuple[str, list[str]], ...]:
    return (scene.colour, list(OBJECTS)), (scene.ground, list(GROUNDS))


def _compare(scene: Scene, shown: tuple[Scene, Scene], better: int) -> str:
    """The comparison, attribute by attribute; without the words "same" and "different" a small model does not learn
    it."""
    lines = [f"image : {scene.colour} {scene.ground} ."]
    for number, answer in enumerate(shown, 1):
        words = [
            f"{said} {'same' if said == true else 'different'}"
            for said, true in ((answer.colour, scene.colour), (answer.ground, scene.ground))
        ]
        lines.append(f"response {number} : {' '.join(words)} .")
    return " ".join([*lines, f"response {better} is better ."])
