"""Pictures drawn by code whose truth is known exactly: text, line art, flat graphics, screenshots, patterns, shading.

Networks that learn from photographs alone rewrite letters, bend straight lines and put grain on flat colours. Every
function takes a numpy generator and a size and returns (size, size, 3) uint8; what is drawn depends on the generator
alone. Shapes are drawn twice as large and shrunk, so that edges are antialiased.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?()-+=%&/äöüßéèçñ"


def drawn_crop(rng: np.random.Generator, size: int) -> np.ndarray:
    """A crop of a kind chosen at random; one in six is grey."""
    kind = (text_page, text_page, line_art, flat_graphic, screenshot, pattern, shading)[rng.integers(7)]
    crop = kind(rng, size)
    if rng.random() < 1 / 6:
        crop = np.repeat(np.asarray(Image.fromarray(crop).convert("L"))[..., None], 3, axis=2)
    return crop


def text_page(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of random words in one font on a plain ground, letters 20 to 72 pixels high."""
    paper, ink = _contrasting(rng)
    image = Image.new("RGB", (size, size), paper)
    _write(rng, ImageDraw.Draw(image), (0, 0, size, size), ink, int(np.exp(rng.uniform(np.log(20), np.log(72)))))
    return _turned(rng, image)


def line_art(rng: np.random.Generator, size: int) -> np.ndarray:
    """Strokes, circles and curves of one to six pixels on paper."""
    paper, ink = _contrasting(rng)
    image = Image.new("RGB", (2 * size, 2 * size), paper)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(6, 40))):
        width, points = int(rng.integers(2, 13)), rng.uniform(-0.2, 1.2, (4, 2)) * 2 * size
        choice = rng.integers(3)
        if choice == 0:
            draw.line([tuple(point) for point in points[: rng.integers(2, 5)]], fill=ink, width=width, joint="curve")
        elif choice == 1:
            radius = rng.uniform(0.03, 0.5) * size
            x, y = points[0]
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=width)
        else:
            t = np.linspace(0, 1, 40)[:, None]
            curve = (1 - t) ** 3 * points[0] + 3 * t * (1 - t) ** 2 * points[1]
            curve = curve + 3 * t**2 * (1 - t) * points[2] + t**3 * points[3]
            draw.line([tuple(point) for point in curve], fill=ink, width=width, joint="curve")
    return _shrunk(image)


def flat_graphic(rng: np.random.Generator, size: int) -> np.ndarray:
    """Overlapping shapes in flat colours, half of them outlined, as in comics, logos and charts."""
    image = Image.new("RGB", (2 * size, 2 * size), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 16))):
        outline, width = (_colour(rng) if rng.random() < 0.5 else None), int(rng.integers(2, 10))
        x, y = rng.uniform(-0.2, 1.0, 2) * 2 * size
        w, h = np.exp(rng.uniform(np.log(0.05), np.log(0.8), 2)) * 2 * size
        choice = rng.integers(4)
        if choice == 0:
            draw.rectangle((x, y, x + w, y + h), _colour(rng), outline, width)
        elif choice == 1:
            draw.ellipse((x, y, x + w, y + h), _colour(rng), outline, width)
        elif choice == 2:
            draw.rounded_rectangle(
                (x, y, x + w, y + h), min(w, h) * rng.uniform(0.1, 0.5), _colour(rng), outline, width
            )
        else:
            corners = [tuple(point) for point in rng.uniform(0, 1, (rng.integers(3, 7), 2)) * (w, h) + (x, y)]
            draw.polygon(corners, _colour(rng), outline, width)
    return _shrunk(image)


def screenshot(rng: np.random.Generator, size: int) -> np.ndarray:
    """Panels with frames, small icons and labels, pixel-sharp and not antialiased between panels."""
    image = Image.new("RGB", (size, size), _colour(rng, pale=True))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 7))):
        x, y = (int(value) for value in rng.integers(-size // 8, size, 2))
        w, h = (int(value) for value in rng.integers(size // 6, size, 2))
        ground = _colour(rng, pale=rng.random() < 0.7)
        draw.rectangle((x, y, x + w, y + h), ground, _colour(rng), int(rng.integers(0, 3)))
        ink = (20, 20, 20) if sum(ground) > 380 else (240, 240, 240)
        _write(rng, draw, (x + 6, y + 4, x + w - 6, y + h - 4), ink, int(rng.integers(12, 30)))
        for _ in range(int(rng.integers(0, 4))):
            side, left, top = int(rng.integers(6, 24)), int(rng.integers(x, x + w)), int(rng.integers(y, y + h))
            draw.rectangle((left, top, left + side, top + side), _colour(rng))
    return np.asarray(image)


def pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes, checks, bricks or meshes at any angle, coarse enough that a quarter of the size still shows them."""
    angle, period = rng.uniform(0, math.pi), np.exp(rng.uniform(np.log(9), np.log(48)))
    y, x = np.mgrid[0 : 2 * size, 0 : 2 * size] / 2.0
    squeeze = 1 + rng.uniform(0, 0.6) * y / size  # lines that converge, as on buildings
    u = (x * math.cos(angle) + y * math.sin(angle)) * squeeze / period
    v = (-x * math.sin(angle) + y * math.cos(angle)) * squeeze / period * rng.uniform(0.5, 2)
    duty, choice = rng.uniform(0.2, 0.8), rng.integers(4)
    if choice == 0:
        mask = u % 1 < duty
    elif choice == 1:
        mask = (u % 1 < 0.5) ^ (v % 1 < 0.5)
    elif choice == 2:
        mask = (v % 1 < 0.15) | ((u + 0.5 * (np.floor(v) % 2)) % 1 < 0.08)
    else:
        mask = (u % 1 < 0.2) | (v % 1 < 0.2)
    first, second = (np.array(_colour(rng), dtype=float) for _ in range(2))
    light = 1 + rng.uniform(-0.3, 0.3) * (x + y - size) / size
    image = np.where(mask[..., None], first, second) * light[..., None]
    return _shrunk(Image.fromarray(image.clip(0, 255).astype(np.uint8)))


def shading(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth shading without grain: sky, walls, skin; sometimes one flat colour, sometimes with an edge in it."""
    first, second = (np.array(_colour(rng), dtype=float) for _ in range(2))
    y, x = np.mgrid[0:size, 0:size] / size
    if rng.random() < 0.25:
        second = first
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        t = x * math.cos(angle) + y * math.sin(angle)
    else:
        cx, cy = rng.uniform(-0.5, 1.5, 2)
        t = np.hypot(x - cx, y - cy)
    t = ((t - t.min()) / max(float(np.ptp(t)), 1e-6))[..., None] * rng.uniform(0.2, 1)
    image = first + (second - first) * t
    if rng.random() < 0.4:
        edge = (x - rng.uniform(0, 1)) * rng.normal() + (y - rng.uniform(0, 1)) * rng.normal() > 0
        image = np.where(edge[..., None], image, image * 0.5 + np.array(_colour(rng)) * 0.5)
    return np.floor(image + rng.random((size, size, 1))).clip(0, 255).astype(np.uint8)


def _write(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    ink: tuple[int, int, int],
    height: int,
) -> None:
    """Fill a box with lines of words, cut off at its right and lower edge."""
    files = fonts()
    font = ImageFont.truetype(files[rng.integers(len(files))], height)
    left, top, right, bottom = box
    y = top + rng.uniform(-0.5, 0.5) * height
    while y < bottom - height:
        words = ("".join(rng.choice(list(LETTERS), rng.integers(1, 10))) for _ in range(12))
        line = " ".join(words)
        while line and draw.textlength(line, font=font) > right - left:
            line = line[: int(len(line) * 0.8)]
        draw.text((left + rng.uniform(0, 1), y), line, fill=ink, font=font)
        y += height * rng.uniform(1.1, 1.7)


@lru_cache(maxsize=1)
def fonts() -> tuple[str, ...]:
    """Font files that matplotlib brings along, symbols left out."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = sorted(path.name for path in folder.glob("*.ttf"))
    kept = [name for name in names if name.startswith(("DejaVu", "STIXGeneral"))]
    return tuple(str(folder / name) for name in kept if "NonUni" not in name)


def _colour(rng: np.random.Generator, *, pale: bool = False) -> tuple[int, int, int]:
    low = 170 if pale else 0
    values = rng.integers(low, 256, 3)
    if rng.random() < 0.3:
        values[:] = values[0]
    return int(values[0]), int(values[1]), int(values[2])


def _contrasting(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Paper and ink: black on white most often."""
    if rng.random() < 0.5:
        paper, ink = int(rng.integers(225, 256)), int(rng.integers(0, 60))
        pair = (paper,) * 3, (ink,) * 3
    else:
        pair = _colour(rng, pale=True), tuple(int(value) for value in rng.integers(0, 110, 3))
    return (pair[1], pair[0]) if rng.random() < 0.2 else pair


def _turned(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Half of the pages lie a little askew."""
    if rng.random() < 0.5:
        return np.asarray(image)
    angle = float(rng.normal(0, 4))
    return np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0))))


def _shrunk(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX))
