"""A painted vase made by code: a closed, textured object to try everything on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recon3d.mesh import Mesh

SOURCE = Path(__file__)
"""What results of the vase are made from: its code."""


def vase(rings: int = 96, sides: int = 128, texture_size: int = 256) -> Mesh:
    """A small closed vase with a painted wall, made by code: something to try everything on."""
    t = torch.linspace(0, 1, rings)
    height = t * 1.6 - 0.8
    radius = 0.34 + 0.16 * torch.sin(2 * math.pi * (t * 0.9 + 0.05)) - 0.08 * t
    radius = torch.where((t == 0) | (t == 1), 0.0, radius)
    around = torch.linspace(0, 2 * math.pi, sides + 1)
    ribs = 1 + 0.05 * torch.cos(8 * around)
    ring = torch.stack([torch.cos(around) * ribs, torch.zeros_like(around), torch.sin(around) * ribs], -1)
    ring[-1] = ring[0]  # exactly, so that the wall closes
    vertices = ring[None] * radius[:, None, None]
    vertices[..., 1] = height[:, None]
    uv = torch.stack(torch.broadcast_tensors(around[None] / (2 * math.pi), t[:, None]), -1)
    index = torch.arange(rings * (sides + 1)).view(rings, sides + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    mesh = Mesh(vertices.view(-1, 3), faces, None, uv.reshape(-1, 2), (_vase_texture(texture_size),))
    mesh = replace(mesh, face_texture=torch.zeros(len(faces), dtype=torch.int64))
    return mesh.keep_faces(mesh.face_areas() > 1e-7)


def _vase_texture(size: int) -> Tensor:
    v, u = torch.meshgrid(torch.linspace(1, 0, size), torch.linspace(0, 1, size), indexing="ij")
    clay, glaze, white = (torch.tensor(c) for c in ([0.72, 0.36, 0.22], [0.1, 0.28, 0.5], [0.95, 0.92, 0.84]))
    band = ((v > 0.3) & (v < 0.7)).float()[..., None]
    zigzag = ((u * 12) % 1 - 0.5).abs() * 0.2 + 0.4
    leaf = (((u * 6) % 1 - 0.5) ** 2 * 4 + ((v - 0.58) * 14) ** 2 < 0.5).float()[..., None]
    line = ((v - zigzag).abs() < 0.025).float()[..., None]
    ground = glaze * band + clay * (1 - band)
    return ground * (1 - line) * (1 - leaf * band) + white * line + white * leaf * band * (1 - line)
