"""Materials of glTF as far as they colour a surface without light."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from recon3d.beside import OutsideFolder
from recon3d.gltf_file import GltfFile, numbers, whole
from recon3d.textures import MAX_TEXELS, REPEAT, UnknownTexture, Wrap, read_texture

WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
"""Sampler constant -> what happens outside [0, 1]."""
SPECULAR = "KHR_materials_pbrSpecularGlossiness"
"""The older way to describe a material, with a diffuse colour in place of the base colour."""
OTHER_MAPS = {
    "normalTexture": "normal maps",
    "occlusionTexture": "occlusion maps",
    "emissiveTexture": "emissive maps",
}
"""Maps of a material that are not shown."""


@dataclass(frozen=True)
class Look:
    """What colours a surface."""

    factor: np.ndarray
    """(4,) linear red, green, blue and opacity, in [0, 1]."""
    given: bool = False
    """Whether the file says a colour at all."""
    image: int | None = None
    """The picture that the factor is multiplied with."""
    wrap: Wrap = REPEAT
    """How the picture goes on outside [0, 1]."""
    slot: tuple[str, ...] = ()
    """Keys below the material that lead to the reference to the texture."""
    texcoord: int = 0
    """Which set of texture coordinates."""
    transform: np.ndarray = field(default_factory=lambda: np.eye(2, 3))
    """(2, 3) maps (u, v, 1), v down, before the look-up."""
    alpha: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    """What opacity means."""
    cutoff: float = 0.5
    """Least opacity that a mask shows."""


PLAIN_LOOK = Look(np.ones(4))


def read_look(file: GltfFile, index: Any) -> tuple[Look, list[str]]:
    """How material `index` (None: the default) colours a surface, and sentences on what of it is not shown."""
    if index is None:
        return PLAIN_LOOK, []
    material = file.item("materials", index)
    name = material.get("name") or f"number {index}"
    base, keys = _base(material)
    info = base.get(keys[-1])
    factor = numbers(base.get(keys[-2]), 4, (1, 1, 1, 1), f"the colour of material {name}")
    slot, given = keys[:-2], keys[-2] in base
    emitted = numbers(material.get("emissiveFactor"), 3, (0, 0, 0), f"the emission of material {name}")
    if emitted.any() and not factor[:3].any():  # what only glows shows its glow
        info, slot, given = material.get("emissiveTexture"), (), True
        factor, keys = np.append(emitted, factor[3]), ("emissiveFactor", "emissiveTexture")
    mode = material.get("alphaMode", "OPAQUE")
    if mode not in ("OPAQUE", "MASK", "BLEND"):
        raise ValueError(f"material {name} has the alphaMode {mode!r}")
    cutoff = float(numbers([material.get("alphaCutoff", 0.5)], 1, (0.5,), f"alphaCutoff of material {name}")[0])
    look = Look(factor.clip(0, 1), given, alpha=mode, cutoff=cutoff)
    if info is None:
        return look, []
    if _unused_diffuse(file, base):
        look = replace(look, factor=np.append(np.ones(3), look.factor[3]))
    return _textured(file, look, info, (*slot, keys[-1]), name)


def _unused_diffuse(file: GltfFile, base: dict[str, Any]) -> bool:
    """Whether trimesh made this material of one of an OBJ file: the texture stood in place of the colour there."""
    by_trimesh = "github.com/mikedh/trimesh" in str(file.document.get("asset", {}).get("generator"))
    return by_trimesh and set(base) == {"baseColorFactor", "baseColorTexture", "roughnessFactor"}


def _base(material: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The object that holds the base colour, and the keys of that object, its factor and its texture."""
    specular = material.get("extensions", {}).get(SPECULAR)
    if specular is not None:
        return specular, ("extensions", SPECULAR, "diffuseFactor", "diffuseTexture")
    roughness = "pbrMetallicRoughness"
    return material.get(roughness, {}), (roughness, "baseColorFactor", "baseColorTexture")


def _textured(
    file: GltfFile, look: Look, info: dict[str, Any], slot: tuple[str, ...], name: str
) -> tuple[Look, list[str]]:
    """The look with the texture that `info` refers to."""
    texture = file.item("textures", info.get("index"))
    image = texture.get("source")
    for extension in ("EXT_texture_webp", "EXT_texture_avif", "KHR_texture_basisu", "MSFT_texture_dds"):
        if image is None:
            image = texture.get("extensions", {}).get(extension, {}).get("source")
    if image is None:
        return look, [f"The texture of material {name} names no picture that is read."]
    transform = info.get("extensions", {}).get("KHR_texture_transform", {})
    texcoord = transform.get("texCoord", info.get("texCoord", 0))
    if not whole(texcoord) or texcoord < 0:
        raise ValueError(f"material {name} uses the texture coordinates {texcoord!r}")
    sampler = file.item("samplers", texture["sampler"]) if "sampler" in texture else {}
    try:
        wrap = (WRAPS[sampler.get("wrapS", 10497)], WRAPS[sampler.get("wrapT", 10497)])
    except (KeyError, TypeError):
        raise ValueError(f"a sampler has the unknown wrapping {sampler}") from None
    return replace(
        look, given=True, image=image, wrap=wrap, slot=slot, texcoord=texcoord, transform=uv_transform(transform)
    ), []


def uv_transform(values: dict[str, Any]) -> np.ndarray:
    """(2, 3) the mapping of KHR_texture_transform: scaled, turned, moved.

    The turn is counter-clockwise as seen on the picture, whose v points down: the extension's example (offset (0, 1), a
    quarter turn, scale 0.5) shows the lower left quarter.
    """
    angle = float(numbers([values.get("rotation", 0.0)], 1, (0,), "a texture's rotation")[0])
    scale = numbers(values.get("scale"), 2, (1, 1), "a texture's scale")
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn * scale, numbers(values.get("offset"), 2, (0, 0), "a texture's offset")])


class Pictures:
    """The pictures of a file, each decoded once, all together under the limit of texels."""

    def __init__(self, file: GltfFile) -> None:
        self.file = file
        self.read: dict[int, tuple[Tensor, Tensor | None] | None] = {}
        self.left = MAX_TEXELS
        self.notes: list[str] = []

    def __call__(self, index: int) -> tuple[Tensor, Tensor | None] | None:
        """Colours (height, width, 3) and opacity (height, width) or None; None with a note where it cannot be read."""
        if index not in self.read:
            self.read[index] = None
            entry = self.file.item("images", index)
            uri = entry.get("uri")
            called = uri if isinstance(uri, str) and not uri.startswith("data:") else entry.get("name")
            name = f"The texture {called or index} of {self.file.path.name}"
            try:
                picture = read_texture(self.file.image(index), name, self.left)
            except (UnknownTexture, FileNotFoundError, OutsideFolder) as error:
                self.notes.append(f"{str(error).rstrip('.')}; the surface is shown without it.")
            else:
                self.left -= picture[0].shape[0] * picture[0].shape[1]
                self.read[index] = picture
        return self.read[index]


def other_maps(file: GltfFile, shown: set[tuple[int, tuple[str, ...]]]) -> list[str]:
    """Names of the maps of the materials that are not shown; `shown`: material and keys of those that are."""
    found = set()
    for number, material in enumerate(file.items("materials")):
        found |= {name for key, name in OTHER_MAPS.items() if key in material and (number, (key,)) not in shown}
        if "metallicRoughnessTexture" in material.get("pbrMetallicRoughness", {}):
            found.add("roughness maps")
    return sorted(found)
