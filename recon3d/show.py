"""Pictures of objects for people: contact sheets and turntables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import PIL.Image
import torch
from torch import Tensor

from recon3d.cameras import Cameras, orbit, turntable
from recon3d.gtr.fit import Fit, MeshFit
from recon3d.mesh import Mesh
from recon3d.raster import vertex_normals
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


def shaded(mesh: Mesh, cameras: Cameras) -> Tensor:
    """(views, 3, height, width) the bare shape, lit from the camera: for looking at geometry."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    pictures = []
    for number in range(len(cameras)):
        light = -cameras.forward[number]
        grey = (0.15 + 0.8 * (normals @ light).clamp(min=0))[:, None].expand(-1, 3)
        pictures.append(render(Mesh(mesh.vertices, mesh.faces, grey), cameras[number]).images)
    return torch.cat(pictures)


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
    """Pictures of a full turn around a mesh, brought into the box of half-size 0.8 first."""
    placed = mesh.normalised()
    cameras = turntable(frames, size=size)
    for number in range(len(cameras)):
        yield to_pil(render(placed, cameras[number]).images)


def gallery_cameras(size: int = 256) -> Cameras:
    """Six views for looking at a mesh: four sides, from above and from below."""
    return orbit([30.0, 120.0, 210.0, 300.0, 45.0, 225.0], [15.0, 15.0, 15.0, 15.0, 65.0, -50.0], size=size)
