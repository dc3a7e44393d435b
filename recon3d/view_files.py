"""Posed pictures from files: folders with cameras, six-view grids, objects cut out of their background."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
import torch
from scipy import ndimage
from torch import Tensor

from recon3d.camera_files import Shot, load_colmap, load_gtr_camera, load_transforms, save_transforms
from recon3d.cameras import Cameras, gtr_rig
from recon3d.views import Views, check_cameras, split_grid
from vision.images import LoadedImage, as_loaded, image_files, load_image, save_image, to_tensor

Background = Literal["auto", "alpha", "white", "rembg"]


def cut_out(picture: LoadedImage, background: Background, name: str) -> tuple[Tensor, Tensor]:
    """Separate an object from its background.

    Args:
        background: "alpha" takes the transparency, "white" what differs from white around it, "rembg" the
        network of that
            package; "auto" takes alpha when there is one, else rembg when it is installed, else white.

    Returns:
        The picture on white (1, 3, height, width) and its mask (1, 1, height, width).
    """
    if background == "auto":
        has_rembg = importlib.util.find_spec("rembg") is not None
        background = "alpha" if picture.alpha is not None else "rembg" if has_rembg else "white"
    image = to_tensor(picture)
    if background == "alpha":
        if picture.alpha is None:
            raise ValueError(f"{name} has no transparency; use a white background or background removal instead.")
        mask = torch.from_numpy(np.array(picture.alpha, dtype=np.float32) / 255)
    elif background == "rembg":
        if importlib.util.find_spec("rembg") is None:
            raise ValueError("Background removal needs the package rembg; install it, or give pictures with alpha.")
        import rembg

        cut = rembg.remove(picture.rgb)
        mask = torch.from_numpy(np.array(cut.getchannel("A"), dtype=np.float32) / 255)
    else:
        mask = _not_white(image[0], name)
    mask = mask[None, None]
    return image * mask + (1 - mask), mask


def _not_white(image: Tensor, name: str) -> Tensor:
    """(height, width) 1 where the picture is not part of the white that touches its border."""
    white = (image.amin(0) > 0.96).numpy()
    border = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]])
    if border.mean() < 0.5:
        raise ValueError(
            f"{name} has neither transparency nor a white background; cut the object out first, or install rembg and "
            "ask for background removal."
        )
    labels, _ = ndimage.label(white)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return torch.from_numpy(~np.isin(labels, outside[outside > 0])).float()


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

    Cameras come from `transforms.json` (also `transforms_train.json`), from a COLMAP text model (`cameras.txt` and
    `images.txt` in the folder, in `sparse/0` or in `sparse`), or from one text camera per picture in the
    format of the GTR release. `rig="gtr"` takes six pictures in the order of their names as the views of GTR.

    Raises:
        FileNotFoundError: the folder or a picture is missing.
        ValueError: no cameras, pictures of different sizes, or intrinsics that do not belong to them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    shots = _rig_shots(folder) if rig == "gtr" else _find_shots(folder)
    images, masks = [], []
    for shot in shots:
        image, mask = cut_out(load_image(_picture(folder, shot.name)), background, shot.name)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"All views must have one size: {shots[0].name} has {_size(images[0])} pixels and {shot.name} "
                f"{_size(image)}. Resize or crop them first, intrinsics included."
            )
        images.append(image)
        masks.append(mask)
    height, width = images[0].shape[-2:]
    intrinsics = torch.stack([shot.intrinsics(height, width) for shot in shots])
    cameras = Cameras(torch.stack([shot.c2w for shot in shots]), intrinsics, height, width)
    check_cameras(cameras)
    return Views(torch.cat(images), torch.cat(masks), cameras)


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"


def _rig_shots(folder: Path) -> list[Shot]:
    files = image_files(folder)
    if len(files) != 6:
        raise ValueError(f"The GTR rig has six views, but {folder} holds {len(files)} pictures.")
    lens = {"camera_angle_x": math.radians(30.0)}
    return [Shot(file.name, c2w, lens) for file, c2w in zip(files, gtr_rig(1).c2w, strict=True)]


def _find_shots(folder: Path) -> list[Shot]:
    """The pictures of a folder with whichever camera files it has."""
    for name in ("transforms.json", "transforms_train.json"):
        if (folder / name).is_file():
            return load_transforms(folder / name)
    for model in (folder, folder / "sparse" / "0", folder / "sparse"):
        if (model / "cameras.txt").is_file() and (model / "images.txt").is_file():
            return load_colmap(model)
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no pictures.")
    texts = [file.with_suffix(".txt") for file in files]
    if not all(text.is_file() for text in texts):
        hint = " If they are the six views of GTR in order, choose that rig." if len(files) == 6 else ""
        raise ValueError(
            f"{folder} holds {len(files)} pictures without poses: give a transforms.json, a COLMAP text model or one "
            f"text camera per picture.{hint}"
        )
    return [load_gtr_camera(text, file.name) for text, file in zip(texts, files, strict=True)]


def _picture(folder: Path, name: str) -> Path:
    """The picture `name` below the folder, also without its ending or in a sub-folder `images`."""
    for base in (folder, folder / "images"):
        path = base / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"The camera file names a picture outside its own folder: {name}. It is not read.")
        for candidate in (path, path.with_name(path.name + ".png"), path.with_name(path.name + ".jpg")):
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(f"The camera file names the picture {name}, which is missing in {folder}.")


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
