"""Pictures of objects for people: contact sheets and turntables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import PIL.Image
import torch
from torch import Tensor

from recon3d.cameras import Cameras, orbit, turntable
from recon3d.gtr.fit import Fit, MeshFit
from recon3d.mesh import Mesh
from recon3d.raster import interpolate, rasterize, vertex_normals
from recon3d.render import render
from vision.images import to_pil
from vision.report import labelled, strip


def looks(state: Fit | MeshFit | Mesh, cameras: Cameras, grid_size: int = 64, level: float = 10.0) -> Tensor:
    """(views, 3, height, width) an object at any moment of its refinement, unlit on white."""
    with torch.no_grad():
        if isinstance(state, Fit):
            vertices, faces = state.surface(grid_size, level)
            if len(faces) == 0:
                return vertices.new_ones(len(cameras), 3, cameras.height, cameras.width)
            return render(Mesh(vertices, faces), cameras, color=state.color).images
        return render(state if isinstance(state, Mesh) else state.current(), cameras).images


@torch.no_grad()
def lit(mesh: Mesh, cameras: Cameras, *, bare: bool = False, supersample: int = 2) -> Tensor:
    """(views, 3, height, width) a mesh on white under one soft light beside the camera; `bare` shows it in plain grey.

    The light comes from the upper left and wraps around the object, so that nothing is black.
    """
    places, place = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    normals = vertex_normals(places, place[mesh.faces])[place].float()  # seams of textures are no edges
    fine = cameras.resized(cameras.height * supersample, cameras.width * supersample).to(mesh.vertices.device)
    light = torch.nn.functional.normalize(fine.c2w[:, :3, :3] @ fine.c2w.new_tensor([-0.5, -0.6, -0.8]), dim=-1).float()
    pictures = []
    for number, clip in enumerate(fine.clip(mesh.vertices).float()):
        fragments = rasterize(clip, mesh.faces, (fine.height, fine.width))
        facing = interpolate(normals, mesh.faces, fragments) @ light[number]
        color = 0.75 if bare else mesh.surface_color(fragments.visible, fragments.bary).clamp(0, 1)
        shade = (0.3 + 0.7 * ((facing + 0.25) / 1.25).clamp(0, 1))[:, None].expand(-1, 3)
        pictures.append(fragments.scatter(color * shade, 1.0))
    return torch.nn.functional.avg_pool2d(torch.stack(pictures).permute(0, 3, 1, 2), supersample)


def contact_sheet(columns: Sequence[tuple[str, Tensor]], height: int = 192) -> PIL.Image.Image:
    """One column per label with its pictures (views, 3, height, width) below each other; the views are rows."""
    if not columns:
        raise ValueError("A contact sheet needs at least one column.")
    made = []
    for label, pictures in columns:
        tiles = [to_pil(picture[None]) for picture in pictures.clamp(0, 1)]
        width = max(1, round(tiles[0].width * height / tiles[0].height))
        tiles = [tile.resize((width, height), PIL.Image.Resampling.BICUBIC) for tile in tiles]
        made.append(labelled(strip(tiles, vertical=True), label))
    return strip(made)


def spread_views(count: int, most: int = 4) -> list[int]:
    """Numbers of at most `most` views, spread over `count`."""
    most = min(most, count)
    return [round(n * (count - 1) / max(1, most - 1)) for n in range(most)]


def turntable_frames(mesh: Mesh, frames: int = 36, size: int = 256) -> Iterator[PIL.Image.Image]:
    """Pictures of a full turn around a mesh under a soft light, with its bare shape beside it."""
    placed = mesh.normalised()
    cameras = turntable(frames, radius=2.7, size=size)
    for number in range(len(cameras)):
        camera = cameras[number]
        yield to_pil(torch.cat([lit(placed, camera), lit(placed, camera, bare=True)], -1))


def gallery_cameras(size: int = 256) -> Cameras:
    """Six views for looking at a mesh: four sides, from above and from below."""
    return orbit([30.0, 120.0, 210.0, 300.0, 45.0, 225.0], [15.0, 15.0, 15.0, 15.0, 65.0, -50.0], size=size)
