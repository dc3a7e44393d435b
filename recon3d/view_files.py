"""Posed pictures from files: folders with cameras, six-view grids."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import PIL.Image
import torch

from recon3d.camera_files import Shot, load_gtr_camera, load_transforms, save_transforms
from recon3d.cameras import Cameras, gtr_rig, same_sides
from recon3d.colmap import find_colmap, load_colmap
from recon3d.cut_out import Background, cut_out, with_mask
from recon3d.lens import undistort
from recon3d.named_files import NamedFiles, is_foreign
from recon3d.views import Views, check_cameras, join_views, split_grid
from vision.images import SUFFIXES, LoadedImage, as_loaded, image_files, load_image, save_image

MAX_PIXELS = 60_000_000
"""Of all views together; with their masks this is 1 GB of numbers."""


def views_from_grid(picture: str | Path, background: Background = "auto", rig: str = "gtr") -> Views:
    """Six views in a grid of three rows and two columns, in the order of Zero123++, at the cameras of GTR.

    Args:
        picture: the grid, portrait with sides 3 : 2.
    """
    if rig != "gtr":
        raise ValueError(f'The only six-view rig of grids is "gtr", got {rig!r}.')
    loaded = as_loaded(Path(picture) if isinstance(picture, str) else picture)
    if loaded.rgb.height * 2 != loaded.rgb.width * 3:
        raise ValueError(
            f"A six-view grid has three rows and two columns of square pictures (sides 3 : 2), got "
            f"{loaded.rgb.height} x {loaded.rgb.width} pixels."
        )
    image, mask = cut_out(loaded, background, str(picture))
    images, masks = split_grid(image[0]), split_grid(mask[0].expand(3, -1, -1))[:, :1]
    return Views(images, masks, gtr_rig(images.shape[-1]))


def load_views(folder: str | Path, background: Background = "auto", rig: Literal["files", "gtr"] = "files") -> Views:
    """Read a folder of pictures with cameras.

    Cameras come from `transforms.json` (also `transforms_train.json`), from a COLMAP model (binary or text, in the
    folder, in `sparse/0` or in `sparse`), or from one text camera per picture in the format of the published GTR.
    `rig="gtr"` takes six pictures in the order of their names as the views of GTR. Masks are those that the camera file
    names, else those in the sub-folder `masks`. Pictures of different sizes are brought to one, and lens distortion is
    removed; `notes` of the views say so.

    Raises:
        FileNotFoundError: the folder or a picture is missing.
        ValueError: no cameras, or cameras that do not belong to the pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    shots = _rig_shots(folder) if rig == "gtr" else _find_shots(folder)
    files, done = NamedFiles(folder, SUFFIXES), Counter()
    paths = [_picture(files, shot.name) for shot in shots]
    for number, path in enumerate(paths):
        first = paths.index(path)
        if first != number:
            raise ValueError(
                f"The cameras of {shots[first].name} and {shots[number].name} are for one picture, {path}."
            )
    views = []
    for shot, path in zip(shots, paths, strict=True):
        picture = load_image(path) if rig == "gtr" else _load(path, shot)
        mask = _mask(files, shot, path) if background in ("auto", "alpha") else None
        done["{} masks were read from files."] += mask is not None
        view = _view(shot, picture if mask is None else with_mask(picture, mask), background)
        done["The lens distortion of {} pictures was removed."] += bool(shot.distortion)
        small = _limited(view, MAX_PIXELS // len(shots))
        done["{} pictures were made smaller, for the memory that all need together."] += small is not view
        views.append(small)
    height, width = (max(getattr(view.cameras, side) for view in views) for side in ("height", "width"))
    for number, (shot, view) in enumerate(zip(shots, views, strict=True)):
        views[number] = _brought_to(view, height, width, shot.name)
        done[f"{{}} pictures were brought to the size of the others, {height} x {width}."] += views[number] is not view
    notes = tuple(sentence.format(count) for sentence, count in done.items() if count)
    made = replace(join_views(views), notes=notes)
    check_cameras(made.cameras)
    return made


def _rig_shots(folder: Path) -> list[Shot]:
    files = image_files(folder)
    if len(files) != 6:
        raise ValueError(f"The GTR rig has six views, but {folder} holds {len(files)} pictures.")
    lens = {"camera_angle_x": math.radians(30.0)}
    return [Shot(file.name, c2w, lens) for file, c2w in zip(files, gtr_rig(1).c2w.double(), strict=True)]


def _find_shots(folder: Path) -> list[Shot]:
    """The pictures of a folder with whichever camera files it has."""
    for name in ("transforms.json", "transforms_train.json"):
        if (folder / name).is_file():
            return load_transforms(folder / name)
    model = find_colmap(folder)
    if model is not None:
        return load_colmap(model)
    files = image_files(folder)
    texts = [file.with_suffix(".txt") for file in files]
    if not files or not all(text.is_file() for text in texts):
        hint = " If they are the six views of GTR in order, choose that rig." if len(files) == 6 else ""
        raise ValueError(
            f"{folder} holds {len(files)} pictures and no poses: give a transforms.json, a COLMAP model (in the "
            f"folder, in sparse/0 or in sparse) or one text camera per picture.{hint}"
        )
    return [load_gtr_camera(text, file.name) for text, file in zip(texts, files, strict=True)]


def _picture(files: NamedFiles, name: str) -> Path:
    """The picture of this name in the folder or its sub-folder `images`."""
    found = files.find(name, ("", "images"))
    if found is not None:
        return found
    if is_foreign(name):
        raise ValueError(
            f"The camera file names a picture outside its own folder, {name}, which is not read; put it into "
            f"{files.folder / 'images'}."
        )
    raise FileNotFoundError(f"The camera file names the picture {name}, which is missing in {files.folder}.")


def _mask(files: NamedFiles, shot: Shot, picture: Path) -> Path | None:
    """The mask of a picture: the one that is named, else NAME.png or NAME in the folder `masks`."""
    if shot.mask is None:
        path = PurePosixPath(shot.name.replace("\\", "/"))
        names = (f"{name}{ending}" for name in (path, path.name) for ending in (".png", ""))
        found = (files.find(name, ("masks",)) for name in (*names, path.stem))
        return next((mask for mask in found if mask is not None), None)
    found = files.find(shot.mask, ("", "masks"))
    if found is None or found == picture:
        raise FileNotFoundError(f"The camera file names the mask {shot.mask}, which is missing in {files.folder}.")
    return found


def _load(path: Path, shot: Shot) -> LoadedImage:
    """A picture with the pixels that its camera is for.

    Programs that find poses look at pixels as they are stored, whatever EXIF says about turning them.
    """
    stored = load_image(path, upright=False)
    if shot.fits(stored.rgb.height, stored.rgb.width):
        return stored
    turned = load_image(path)
    if turned.rgb.size != stored.rgb.size and not shot.fits(turned.rgb.height, turned.rgb.width):
        raise ValueError(
            f"The camera of {shot.name} is for {shot.size[0]} x {shot.size[1]} pixels, but the picture has "
            f"{stored.rgb.height} x {stored.rgb.width}, or {turned.rgb.height} x {turned.rgb.width} turned as its EXIF "
            "orientation says."
        )
    return turned


def _view(shot: Shot, picture: LoadedImage, background: Background) -> Views:
    """One view, without lens distortion."""
    height, width = picture.rgb.height, picture.rgb.width
    intrinsics = shot.intrinsics(height, width)
    image, mask = cut_out(picture, background, shot.name)
    if shot.distortion:
        try:
            both, intrinsics = undistort(torch.cat([image, mask], 1), intrinsics, shot.distortion)
        except ValueError as error:
            raise ValueError(f"The camera of {shot.name} cannot be used: {error}.") from error
        image, mask = both.split([3, 1], 1)
    return Views(image, mask, Cameras(shot.c2w[None], intrinsics[None], height, width))


def _limited(view: Views, pixels: int) -> Views:
    """A view of at most so many pixels."""
    height, width = view.cameras.height, view.cameras.width
    scale = math.sqrt(pixels / (height * width))
    return view if scale >= 1 else view.resized(max(1, int(height * scale)), max(1, int(width * scale)))


def _brought_to(view: Views, height: int, width: int, name: str) -> Views:
    """A view as large as fits into this size, with white added at the right or below.

    Raises:
        ValueError: white would be added where the object is cut off.
    """
    if same_sides((view.cameras.height, view.cameras.width), (height, width)):
        return view.resized(height, width)
    scale = min(height / view.cameras.height, width / view.cameras.width)
    sides = round(view.cameras.height * scale), round(view.cameras.width * scale)
    cut_off = view.masks[..., -1, :] if sides[0] < height else view.masks[..., -1]
    if float(cut_off.amax()) > 0.5:
        raise ValueError(
            f"{name} has other sides than the other pictures ({view.cameras.height} : {view.cameras.width}), and its "
            "object is cut off by the border; crop all pictures to one shape, intrinsics included."
        )
    return view.resized(*sides).padded(height, width)


def save_views(views: Views, folder: str | Path) -> None:
    """Write pictures with transparency and their `transforms.json`, to be read by `load_views`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"view_{number:03d}.png" for number in range(len(views))]
    for name, image, mask in zip(names, views.images, views.masks, strict=True):
        # Pictures are on white; transparency needs the colour before that.
        alpha = (mask * 255).round() / 255
        plain = torch.where(alpha > 0, (image - (1 - alpha)) / alpha.clamp(min=1 / 255), torch.ones_like(image))
        rgb = (plain.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        a = (alpha * 255).to(torch.uint8)[0, ..., None].numpy()
        save_image(PIL.Image.fromarray(np.concatenate([rgb, a], -1)), folder / name)
    save_transforms(folder / "transforms.json", names, views.cameras)
