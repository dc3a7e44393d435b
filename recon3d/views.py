"""Posed pictures of one object: folders, six-view grids, silhouettes, and pictures rendered from a mesh."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from recon3d import cameras as cams
from recon3d.cameras import Cameras
from recon3d.isosurface import grid_points
from recon3d.mesh import Mesh
from recon3d.raster import Fragments, antialias, interpolate, opposite_vertices, rasterize, vertex_normals
from vision.images import LoadedImage, as_loaded, image_files, load_image, save_image, to_tensor

Background = Literal["auto", "alpha", "white", "rembg"]
MIN_VIEWS = 2


@dataclass(frozen=True)
class Views:
    """Pictures with cameras and silhouettes.

    `images`: (views, 3, height, width) RGB in [0, 1] on white. `masks`: (views, 1, height, width) in [0, 1].
    `cameras`: one per picture. `depths`: (views, 1, height, width) along the optical axis, 0 on the
    background, or None.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras
    depths: Tensor | None = None

    def __post_init__(self) -> None:
        size = (len(self.cameras), self.cameras.height, self.cameras.width)
        if self.images.shape != (size[0], 3, *size[1:]) or self.masks.shape != (size[0], 1, *size[1:]):
            raise ValueError(
                f"{size[0]} cameras of {size[1]} x {size[2]} pixels need images and masks of that size, got "
                f"{tuple(self.images.shape)} and {tuple(self.masks.shape)}."
            )

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Views:
        """Some of the views."""
        depths = None if self.depths is None else self.depths[index]
        return Views(self.images[index], self.masks[index], self.cameras[index], depths)

    def resized(self, height: int, width: int) -> Views:
        """The views in another size, antialiased; depths are dropped."""
        if (height, width) == (self.cameras.height, self.cameras.width):
            return self

        def scale(pictures: Tensor) -> Tensor:
            resized = torch.nn.functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
            return resized.clamp(0, 1)

        return Views(scale(self.images), scale(self.masks), self.cameras.resized(height, width))

    def moved(self, centre: Tensor, scale: float) -> Views:
        """The same pictures of a world where x becomes (x - centre) * scale."""
        depths = None if self.depths is None else self.depths * scale
        return replace(self, cameras=self.cameras.moved(centre, scale), depths=depths)

    def to(self, device: torch.device | str) -> Views:
        """The views on another device."""
        depths = None if self.depths is None else self.depths.to(device)
        return Views(self.images.to(device), self.masks.to(device), self.cameras.to(device), depths)

    def check(self) -> Views:
        """Return the views, or raise ValueError where no object can be rebuilt from them."""
        if len(self) < MIN_VIEWS:
            raise ValueError(
                f"An object cannot be rebuilt from {len(self)} view; give at least {MIN_VIEWS} from different sides, "
                "better six or more."
            )
        if not torch.isfinite(self.images).all() or not torch.isfinite(self.masks).all():
            raise ValueError("The views hold pixels that are NaN or infinite.")
        if not torch.isfinite(self.cameras.c2w).all() or not torch.isfinite(self.cameras.intrinsics).all():
            raise ValueError("The cameras hold numbers that are NaN or infinite.")
        _check_intrinsics(self.cameras)
        empty = (self.masks.flatten(1).amax(1) < 0.5).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"View {empty[0]} shows no object: its mask is empty.")
        full = (self.masks.flatten(1).mean(1) > 0.995).nonzero().flatten().tolist()
        if full:
            raise ValueError(
                f"View {full[0]} has no background: its mask covers the whole picture. Give pictures with alpha, "
                "on white, or ask for background removal."
            )
        return self


def check_agreement(views: Views) -> None:
    """Raise ValueError when the silhouettes cannot come from one object inside [-1, 1]^3 at these cameras."""
    covered = hull_coverage(views)
    if covered < 0.6:
        raise ValueError(
            f"The silhouettes contradict each other: only {covered:.0%} of them can come from one object at these "
            "cameras. Check poses and intrinsics (focal length, image size) and the masks."
        )


def _check_intrinsics(cameras: Cameras) -> None:
    for number, (fx, fy, cx, cy) in enumerate(cameras.intrinsics.tolist()):
        if fx <= 0 or fy <= 0:
            raise ValueError(f"The focal lengths of view {number} must be positive, got {fx:g} and {fy:g} pixels.")
        if not (0 < cx < cameras.width and 0 < cy < cameras.height):
            raise ValueError(
                f"The principal point of view {number} ({cx:g}, {cy:g}) lies outside its picture of "
                f"{cameras.width} x {cameras.height} pixels; the intrinsics belong to another image size."
            )
        if not 0.5 < fx / fy < 2:
            raise ValueError(f"View {number} has very unequal focal lengths ({fx:g} and {fy:g} pixels).")


# Rendering ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """What a camera sees of a mesh, channels last.

    `fragments`: visibility. `position`: (fragments, 3) world points. `mask`: (height, width, 1) antialiased coverage.
    `depth`: (height, width, 1) along the optical axis, 0 outside. `normal`: (height, width, 3) antialiased and
    normalised.
    """

    fragments: Fragments
    position: Tensor
    mask: Tensor
    depth: Tensor
    normal: Tensor | None


def render_surface(
    vertices: Tensor,
    faces: Tensor,
    camera: Cameras,
    *,
    opposite: Tensor | None = None,
    normals: bool = True,
) -> Surface:
    """Rasterise a mesh for one camera as the mesh stage of GTR does, with gradients to the vertices."""
    clip = camera.clip(vertices)[0]
    fragments = rasterize(clip, faces, (camera.height, camera.width))
    opposite = opposite_vertices(faces) if opposite is None else opposite
    position = interpolate(vertices, faces, fragments)
    mask = antialias(fragments.mask[..., None], fragments, clip, faces, opposite)
    axis = camera.c2w[0, :3, 2]
    depth = fragments.scatter(((position - camera.c2w[0, :3, 3]) @ axis)[:, None])
    normal = None
    if normals:
        smooth = fragments.scatter(interpolate(vertex_normals(vertices, faces), faces, fragments))
        smooth = antialias(smooth, fragments, clip, faces, opposite)
        normal = torch.nn.functional.normalize(smooth, dim=-1)
    return Surface(fragments, position, mask, depth, normal)


@torch.no_grad()
def render(
    mesh: Mesh,
    cameras: Cameras,
    *,
    supersample: int = 2,
    color: Callable[[Tensor], Tensor] | None = None,
) -> Views:
    """Unlit pictures of a mesh on white.

    Args:
        supersample: samples per pixel side; their mean is the pixel.
        color: maps surface points (points, 3) to colours (points, 3); None takes the mesh's own colours.

    Returns:
        Views with masks (share of covered samples) and depths (mean over covered samples).
    """
    fine = cameras.resized(cameras.height * supersample, cameras.width * supersample).to(mesh.vertices.device)
    images, masks, depths = [], [], []
    for number, clip in enumerate(fine.clip(mesh.vertices)):
        fragments = rasterize(clip, mesh.faces, (fine.height, fine.width))
        position = interpolate(mesh.vertices, mesh.faces, fragments)
        rgb = mesh.surface_color(fragments.visible, fragments.bary) if color is None else color(position)
        depth = (position - fine.c2w[number, :3, 3]) @ fine.c2w[number, :3, 2]
        images.append(fragments.scatter(rgb.clamp(0, 1), 1.0))
        masks.append(fragments.mask[..., None])
        depths.append(fragments.scatter(depth[:, None]))

    def shrink(pictures: list[Tensor]) -> Tensor:
        return torch.nn.functional.avg_pool2d(torch.stack(pictures).permute(0, 3, 1, 2), supersample)

    mask = shrink(masks)
    depth = torch.where(mask > 0, shrink(depths) / mask.clamp(min=1e-6), 0.0)
    return Views(shrink(images), mask, cameras.to(mesh.vertices.device), depth)


# Silhouettes --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def visual_hull(views: Views, resolution: int = 48, tolerance: int = 0, radius: float = 1.0) -> Tensor:
    """(n, n, n) bool: grid points of the box [-radius, radius]^3 inside the silhouettes of all views but `tolerance`.

    A point outside a picture counts as inside its silhouette only where the silhouette touches the border: such a
    picture may cut the object off.
    """
    points = grid_points((resolution,) * 3, views.masks.device) * radius
    votes = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for number in range(len(views)):
        votes += _silhouette_hits(views, number, points)
    return (votes >= len(views) - tolerance).view((resolution,) * 3)


def _silhouette_hits(views: Views, number: int, points: Tensor) -> Tensor:
    clip = views.cameras[number].clip(points)[0]
    xy = clip[:, :2] / clip[:, 3:].clamp(min=1e-6)
    mask = views.masks[number][None]
    value = torch.nn.functional.grid_sample(mask, xy[None, None], padding_mode="border", align_corners=False).flatten()
    outside = (xy.abs() > 1).any(-1)
    cut_off = max(float(edge.amax()) for edge in (mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1])) > 0.5
    return torch.where(outside, torch.full_like(outside, cut_off), value > 0.25) & (clip[:, 3] > 0)


@torch.no_grad()
def hull_coverage(views: Views, resolution: int = 40) -> float:
    """Share of the silhouettes' pixels that the visual hull explains: about 1 when cameras and masks agree."""
    small = views.resized(64, max(1, round(64 * views.cameras.width / views.cameras.height)))
    points = grid_points((resolution,) * 3, views.masks.device)[visual_hull(small, resolution).flatten()]
    if len(points) == 0:
        return 0.0
    height, width = small.cameras.height, small.cameras.width
    shares = []
    for clip, mask in zip(small.cameras.clip(points), small.masks[:, 0] > 0.75, strict=True):
        xy = (clip[:, :2] / clip[:, 3:].clamp(min=1e-6) + 1) / 2
        column, row = (xy[:, 0] * width).long().clamp(0, width - 1), (xy[:, 1] * height).long().clamp(0, height - 1)
        drawn = torch.zeros(1, 1, height, width, device=mask.device)
        drawn[0, 0, row, column] = 1
        # Grid points are further apart than pixels.
        drawn = torch.nn.functional.max_pool2d(drawn, 7, 1, 3)[0, 0] > 0
        if mask.any():
            shares.append(float((drawn & mask).sum() / mask.sum()))
    return float(np.mean(shares)) if shares else 0.0


def place(views: Views, how: Literal["auto", "unit"] = "auto") -> tuple[Tensor, float]:
    """Centre (3,) and scale with which (x - centre) * scale lies in [-1, 1]^3.

    "unit": the world as it is. "auto": the same when the silhouettes meet there and fill a fair part of the box, else
    `fit_box`.
    """
    as_it_is = torch.zeros(3, device=views.masks.device), 1.0
    if how == "unit":
        return as_it_is
    hull = visual_hull(views, 48)
    if hull.any():
        index = hull.nonzero()
        extent = int((index.amax(0) - index.amin(0)).max()) / 47
        if 0.3 < extent < 0.98 and hull_coverage(views) > 0.9:
            return as_it_is
    return fit_box(views)


def fit_box(views: Views, size: float = 1.6) -> tuple[Tensor, float]:
    """Centre (3,) and scale that bring the object of arbitrary cameras into [-size / 2, size / 2]^3.

    The centre is where the optical axes come closest to each other; the size follows from the silhouettes and is then
    corrected by the visual hull.

    Raises:
        ValueError: when the cameras all look the same way or the silhouettes do not meet.
    """
    positions, axes = views.cameras.positions.double(), views.cameras.forward.double()
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    system = across.sum(0)
    if float(torch.linalg.eigvalsh(system)[0]) < 1e-3 * len(views):
        raise ValueError("All cameras look in the same direction; the size of the object cannot be found from them.")
    centre = torch.linalg.solve(system, (across @ positions[:, :, None]).sum(0)[:, 0]).float()
    reach = []
    for number, mask in enumerate(views.masks[:, 0] > 0.5):
        rows, columns = mask.nonzero(as_tuple=True)
        fx, fy, cx, cy = views.cameras.intrinsics[number].tolist()
        angle = max(float((columns - cx).abs().max()) / fx, float((rows - cy).abs().max()) / fy)
        reach.append(angle * float((positions[number].float() - centre).norm()))
    scale = 0.9 / max(reach)
    for _ in range(2):
        hull = visual_hull(views.moved(centre, scale), 64)
        points = grid_points((64,) * 3)[hull.flatten()]
        if len(points) < 8:
            raise ValueError(
                "The silhouettes do not meet in space; check poses, intrinsics and masks, "
                "or give the box of the object."
            )
        low, high = points.amin(0), points.amax(0)
        centre = centre + (low + high) / 2 / scale
        scale = scale * size / float((high - low + 2 / 63).amax())
    return centre, scale


# Pictures from outside ----------------------------------------------------------------------------------------------


def split_grid(image: Tensor, rows: int = 3, columns: int = 2) -> Tensor:
    """(rows * columns, 3, h, w) tiles of a grid (3, height, width), row by row."""
    _, height, width = image.shape[-3:]
    if height % rows or width % columns:
        raise ValueError(f"A picture of {height} x {width} pixels does not divide into {rows} x {columns} tiles.")
    tiles = image.reshape(-1, 3, rows, height // rows, columns, width // columns)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, height // rows, width // columns)


def join_grid(images: Tensor, rows: int = 3, columns: int = 2) -> Tensor:
    """(3, height, width) grid of tiles (rows * columns, 3, h, w); undoes `split_grid`."""
    h, w = images.shape[-2:]
    return images.view(rows, columns, 3, h, w).permute(2, 0, 3, 1, 4).reshape(3, rows * h, columns * w)


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
    return Views(images, masks, cams.gtr_rig(images.shape[-1]))


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
    if rig == "gtr":
        files = image_files(folder)
        if len(files) != 6:
            raise ValueError(f"The GTR rig has six views, but {folder} holds {len(files)} pictures.")
        poses = cams.gtr_rig(1).c2w
        sizes: list[tuple[int, int] | None] = [None] * 6
        lenses: list[Tensor | dict[str, float] | None] = [None] * 6
    else:
        files, sizes, poses, lenses = _find_cameras(folder)
    images, masks = [], []
    for file in files:
        image, mask = cut_out(load_image(file), background, file.name)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"All views must have one size: {files[0].name} has {_size(images[0])} pixels and {file.name} "
                f"{_size(image)}. Resize or crop them first, intrinsics included."
            )
        images.append(image)
        masks.append(mask)
    height, width = images[0].shape[-2:]
    intrinsics = []
    for file, size, lens in zip(files, sizes, lenses, strict=True):
        if size is not None and size != (height, width):
            raise ValueError(
                f"The camera of {file.name} is for {size[0]} x {size[1]} pixels, "
                f"but the picture has {height} x {width}."
            )
        if isinstance(lens, dict):
            lens = cams.lens_to_intrinsics(lens, height, width, file.name)
        intrinsics.append(cams.intrinsics_from_fov(30.0, height, width)[0] if lens is None else lens)
    cameras = Cameras(poses.float(), torch.stack(intrinsics), height, width)
    _check_intrinsics(cameras)
    return Views(torch.cat(images), torch.cat(masks), cameras)


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"


def _find_cameras(
    folder: Path,
) -> tuple[list[Path], list[tuple[int, int] | None], Tensor, list[Tensor | dict[str, float] | None]]:
    """Picture files, sizes, poses (views, 4, 4) and lenses of a folder, from whichever camera files it has."""
    for name in ("transforms.json", "transforms_train.json"):
        if (folder / name).is_file():
            names, sizes, poses, lenses = cams.load_transforms(folder / name)
            return [_picture(folder, n) for n in names], sizes, poses, lenses
    for model in (folder, folder / "sparse" / "0", folder / "sparse"):
        if (model / "cameras.txt").is_file() and (model / "images.txt").is_file():
            names, sizes, poses, intrinsics = cams.load_colmap(model)
            return [_picture(folder, n) for n in names], list(sizes), poses, list(intrinsics)
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
    read = [cams.load_gtr_camera(text) for text in texts]
    return files, [(h, w) for _, _, h, w in read], torch.stack([c for c, _, _, _ in read]), [k for _, k, _, _ in read]


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
        _save_rgba(np.concatenate([rgb, a], -1), folder / name)
    cams.save_transforms(folder / "transforms.json", names, views.cameras)


def _save_rgba(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    save_image(Image.fromarray(pixels), path)
