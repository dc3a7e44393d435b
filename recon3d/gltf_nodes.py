"""The nodes of a glTF file: where they are, and which of them are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recon3d.gltf_file import GltfFile, numbers, whole


def placed(translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(4, 4) scaled, turned by a quaternion (x, y, z, w), moved."""
    norm = np.linalg.norm(rotation)
    x, y, z, w = rotation / norm if norm > 0 else (0.0, 0.0, 0.0, 1.0)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix[:3, 3] = translation
    return matrix


def _local(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) a node's own transform."""
    if "matrix" in node:
        return numbers(node["matrix"], 16, (), "a node's matrix").reshape(4, 4).T
    return placed(
        numbers(node.get("translation"), 3, (0, 0, 0), "a node's translation"),
        numbers(node.get("rotation"), 4, (0, 0, 0, 1), "a node's rotation"),
        numbers(node.get("scale"), 3, (1, 1, 1), "a node's scale"),
    )


def _children(node: dict[str, Any], what: str = "children") -> list[int]:
    found = node.get(what, [])
    if not isinstance(found, list) or not all(map(whole, found)):
        raise ValueError(f"the {what} of a node or scene are no list of numbers")
    return found


def world_matrices(file: GltfFile) -> dict[int, np.ndarray]:
    """(4, 4) of every node, from its own coordinates to the scene's."""
    nodes = file.items("nodes")
    below = [child for node in nodes for child in _children(node)]
    if len(set(below)) < len(below):
        raise ValueError("a node has two parents")
    world = {}
    ahead = [(number, np.eye(4)) for number in sorted(set(range(len(nodes))) - set(below))]
    while ahead:
        number, parent = ahead.pop()
        world[number] = parent @ _local(file.item("nodes", number))
        ahead += [(child, world[number]) for child in _children(nodes[number])]
    if len(world) < len(nodes):
        raise ValueError("its nodes form a circle")
    return world


def shown_nodes(file: GltfFile, world: dict[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """The nodes with a mesh in the scene that is shown at first, and their matrices."""
    nodes = file.items("nodes")
    if file.items("scenes"):
        ahead = _children(file.item("scenes", file.document.get("scene", 0)), "nodes")[::-1]
    else:
        below = {child for node in nodes for child in _children(node)}
        ahead = sorted(set(world) - below, reverse=True)
    while ahead:
        number = ahead.pop()
        node = file.item("nodes", number)
        if "mesh" in node:
            yield number, world[number]
        ahead += _children(node)[::-1]
