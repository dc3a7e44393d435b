"""Meshes that a glTF file holds compressed with Draco, which DracoPy unpacks (the extra `draco`)."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from recon3d.gltf_file import GltfFile

NAME = "KHR_draco_mesh_compression"


def unpack(file: GltfFile, primitive: dict[str, Any]) -> None:
    """Put plain accessors in place of what a primitive has compressed.

    Raises:
        ValueError: DracoPy is not installed, or the data is damaged.
    """
    if importlib.util.find_spec("DracoPy") is None:
        raise ValueError(f"it is compressed ({NAME}); install DracoPy (the extra draco), or export it without")
    import DracoPy

    packed = primitive["extensions"].pop(NAME)
    try:
        mesh = DracoPy.decode(file.view(packed["bufferView"]))
    except (DracoPy.FileTypeException, RuntimeError) as error:
        raise ValueError(f"its compressed data is damaged ({error})") from error
    decoded = {attribute["unique_id"]: attribute["data"] for attribute in mesh.attributes}
    for name, number in packed["attributes"].items():
        normalised = file.item("accessors", primitive["attributes"].get(name)).get("normalized", False)
        primitive["attributes"][name] = file.add(decoded[number], normalized=normalised)
    primitive["indices"] = file.add(np.asarray(mesh.faces, dtype=np.uint32).reshape(-1, 1))
    primitive["mode"] = 4
    for key in ("extensionsRequired", "extensionsUsed"):
        if NAME in file.document.get(key, []):
            file.document[key].remove(NAME)
