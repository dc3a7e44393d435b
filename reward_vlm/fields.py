"""Fields of rows: texts, pictures and films, checked, and paths that are relative to the file."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import PIL.Image

from reward_vlm.dialogue import Video
from vision.files import named_path
from vision.images import SUFFIXES, load_image, read_image

Picture = PIL.Image.Image | Path

MAX_NAME = 4096
"""Signs of a path on all common systems."""
ABOUT = re.compile(
    r"(^|_)(scores?|ratings?|margin|ranking|reason|model|dataset|ds|source|split|idx|index|id|meta|metadata|path|lang"
    r"|language|tags?|subset|task|license|licence|version|hash|sha256|created)($|_)",
    re.IGNORECASE,
)
"""Names of columns that say something about a row and are not read."""


def open_picture(image: Picture) -> PIL.Image.Image:
    """A picture as upright RGB; paths are read."""
    return load_image(image).rgb if isinstance(image, Path) else image


def read_video(folder: Path, frames: int = 32) -> Video:
    """At most `frames` pictures of a folder, evenly spaced in the order of their names.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: it holds no pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} of frames.")
    names = re.compile(r"(\d+)")
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES),
        key=lambda path: [int(part) if part.isdigit() else part for part in names.split(path.name)],
    )
    if not paths:
        raise ValueError(f"The folder {folder} holds no pictures.")
    count = min(frames, len(paths))
    places = [int(i * (len(paths) - 1) / max(count - 1, 1)) for i in range(count)]
    return Video(tuple(load_image(paths[place]).rgb for place in places))


def check_fields(data: Mapping[str, Any], allowed: Iterable[str], needed: Iterable[str]) -> None:
    """Refuse unknown and missing fields; null is missing, as tables write it where a row has none.

    What data sets tell about their rows beside (`ABOUT`) is passed over.
    """
    allowed = list(allowed)
    unknown = [name for name in data if name not in allowed and data[name] is not None and not ABOUT.search(name)]
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), allowed, 1)
        hint = f" Is {near[0]} meant?" if near else " Leave it out."
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(allowed)}.{hint}")
    missing = [name for name in needed if data.get(name) is None]
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing.")


def text_of(data: Mapping[str, Any], name: str) -> str:
    """A text field, empty when it is absent or null."""
    value = "" if data.get(name) is None else data[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}.")
    return value


def id_of(data: Mapping[str, Any]) -> str:
    """The `id`, a text or number, as text; empty when it is absent or null."""
    return "" if data.get("id") is None else str(data["id"])


def count_of(data: Mapping[str, Any], name: str) -> int | None:
    """A whole number from 0 on, which tables may write as 2.0; None when it is absent or null."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0 or value % 1:
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    return int(value)


def answer_of(value: Any, folder: Path) -> str | Picture:
    """An answer: a text, or a picture {"image": path}."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"image"}:
        return picture_of(value["image"], folder)
    raise ValueError(f'an answer must be a text or {{"image": path}}, got {value!r}.')


def pictures_of(data: Mapping[str, Any], folder: Path) -> tuple[Picture, ...]:
    """The pictures under `image` or `images`."""
    return tuple(picture_of(name, folder) for name in named_pictures(data))


def named_pictures(data: Mapping[str, Any]) -> list[Any]:
    """What a row holds under `image`, one picture or a list, or under `images`.

    Raises:
        ValueError: under both, or `images` is no list.
    """
    one, several = data.get("image"), data.get("images")
    if one is None and several is None:
        return []
    if one is not None and several:
        raise ValueError("a row has its pictures under image or under images, not under both.")
    names = several if one is None else one if isinstance(one, list) else [one]
    if not isinstance(names, list):
        raise ValueError(f"images must be a list of pictures, got {names!r}.")
    return names


def picture_of(value: Any, folder: Path) -> Picture:
    """A picture by its path relative to `folder` (or file:// address), by the content of its file as bytes or base64
    text (or data: address), or as the library datasets keeps it, {bytes, path}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return read_image(value, "the picture in the row").rgb
    if isinstance(value, str) and (content := _base64(value, folder)) is not None:
        return read_image(content, "the encoded picture").rgb
    return existing(folder, value)


def _base64(value: str, folder: Path) -> bytes | None:
    """What a text holds if it is the base64 text of a file and no path of one."""
    address = re.match(r"data:[^,]{0,200};base64,", value)
    text = value[address.end() :] if address else value
    if not address and (len(text) < 64 or not re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}", text.strip())):
        return None
    if not address and _is(Path.is_file, folder / text):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        if address:
            raise ValueError("the picture's base64 text is damaged.") from None
        return None


def video_of(data: Mapping[str, Any], folder: Path) -> Path | None:
    """The folder of frames under `video`."""
    return None if data.get("video") is None else existing(folder, data["video"], kind="folder")


def existing(folder: Path, name: Any, kind: str = "picture") -> Path:
    """The path of a picture that can be read, or of a folder, relative to `folder`."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a {kind} must be named by its path, got {name!r:.200}.")
    if len(name) > MAX_NAME:
        raise ValueError(f"a {kind} must be named by its path, got {len(name):,} signs that are none: {name:.40}...")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) and not name.startswith("file://"):
        raise ValueError(f"a {kind} must be a file of this machine, got the address {name}; download it first.")
    address = name.startswith("file://")
    path = folder / url2pathname(urlsplit(name).path) if address else named_path(folder, name)
    if kind == "folder":
        if _is(Path.is_file, path):
            raise ValueError(f"{path} is a file, and a film must be a folder of its frames.")
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}.")
    elif _is(Path.exists, path) and not path.is_file():
        raise ValueError(f"{path} is no regular file.")
    else:
        load_image(path)
    return path


def _is(check: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path passes a check; names that cannot be (too long, a null byte) do not."""
    try:
        return check(path)
    except (OSError, ValueError):
        return False
