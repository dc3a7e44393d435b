"""Files that people bring, for `tests.fuzz`: small samples of every kind, and what reads them."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import trimesh
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

from recon3d import load_mesh, load_views, orbit, save_mesh
from recon3d.camera_files import load_gtr_camera, load_transforms, save_gtr_camera, save_transforms
from recon3d.colmap import load_colmap
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import save_views
from restoration.networks import NetworkRestorer
from tests.fuzz import Reader, change_bytes, change_json
from tests.recon3d.test_colmap import write_binary
from tests.vision.edit.test_scans import dicom
from vision.edit.scans import read_scan
from vision.images import as_loaded, load_frames
from vision.inputs import read_list
from vision.painted import painted
from vision.png import write_png

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)


def together(make: Callable[[Path], object], read: Callable[[Path], object], share: float) -> Reader:
    """A reader of a folder whose files belong together; one of them is damaged.

    Args:
        make: writes the folder.
        read: reads it.
        share: see `Reader`.
    """
    kept: dict[str, bytes] = {}

    def samples(folder: Path) -> list[tuple[str, bytes]]:
        make(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        kept.update((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)
        return list(kept.items())

    def read_damaged(sample: tuple[str, bytes], folder: Path) -> object:
        for name, content in (kept | dict([sample])).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return read(folder)

    return Reader(samples, read_damaged, change_file, share, alike=True)


def as_file(read: Callable[[Path], object]) -> Callable[[Any, Path], object]:
    """A reader of (name, content): the file is written first."""

    def from_file(sample: tuple[str, bytes], folder: Path) -> object:
        (folder / sample[0]).write_bytes(sample[1])
        return read(folder / sample[0])

    return from_file


def change_file(random: Any, sample: tuple[str, bytes], others: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The content changes; the name, which decides about the format, now and then."""
    name = random.choice(others)[0] if random.random() < 0.05 else sample[0]
    content = sample[1]
    text = name.endswith((".json", ".jsonl", ".txt", ".obj", ".mtl", ".gltf", ".off")) and random.random() < 0.7
    if text and name.endswith((".json", ".gltf")):
        try:
            tree = change_json(random, json.loads(content), [json.loads(sample[1])])
            return name, json.dumps(tree).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):  # the name was that of another sample
            pass
    if text:
        return name, _numbers(random, content)
    packed = content[:2] == b"\x1f\x8b" and random.random() < 0.8
    content = gzip.decompress(content) if packed else content
    content = change_bytes(random, content, [other for _, other in others])
    return name, gzip.compress(content, 1) if packed else content


def _numbers(random: Any, content: bytes) -> bytes:
    """A text whose words are exchanged for wrong ones."""
    words = content.split(b" ")
    for _ in range(random.choice((1, 1, 3))):
        wrong = [
            b"nan",
            b"inf",
            b"-1",
            b"0",
            b"1e400",
            b"9" * 30,
            b"",
            b"\xff",
            b"1/2",
            b"a",
            b"\n",
            b"../x",
            b"/dev/zero",
            b"0x1",
        ]
        words[random.randrange(len(words))] = random.choice(wrong)
    return b" ".join(words)


# ---- pictures, scans


def pictures(folder: Path) -> list[tuple[str, bytes]]:
    """Small pictures of many formats and modes."""
    rgba = PIL.Image.fromarray(NOISE)
    rgb, found = rgba.convert("RGB"), []

    def add(image: PIL.Image.Image, kind: str, **more: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **more)
        found.append((f"picture.{kind.lower()}", file.getvalue()))

    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "made by code"
    add(rgba, "PNG", dpi=(72, 72))
    add(rgb.quantize(9), "PNG", transparency=3)
    add(PIL.Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG")
    add(rgb.convert("1"), "PNG")
    add(rgb, "JPEG", exif=exif)
    add(rgb.convert("CMYK"), "JPEG", progressive=True)
    add(rgb, "TIFF", compression="tiff_lzw")
    add(PIL.Image.fromarray(NOISE[..., 0].astype(np.float32) / 255), "TIFF")
    add(rgba, "WEBP", lossless=True)
    add(rgb, "BMP")
    add(rgb.quantize(16), "GIF")
    add(rgb, "PPM")
    add(rgb, "JPEG2000")
    add(rgba, "AVIF")
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        add(rgb, "HEIF")
    if importlib.util.find_spec("pillow_jxl") is not None:
        importlib.import_module("pillow_jxl")
        add(rgb, "JXL")
    deep = np.ascontiguousarray(NOISE).astype(np.uint16) * 255
    write_png(folder / "deep.png", [deep], width=20, height=24, channels=4, bits=16)
    return [*found, ("deep.png", (folder / "deep.png").read_bytes())]


def animations(_: Path) -> list[tuple[str, bytes]]:
    """Files of several frames or pages."""
    first, found = PIL.Image.fromarray(NOISE).convert("RGB"), []
    for kind in ("PNG", "GIF", "WEBP", "TIFF"):
        file = io.BytesIO()
        first.save(file, kind, save_all=True, append_images=[first.rotate(180)])
        found.append((f"frames.{kind.lower()}", file.getvalue()))
    return found


def read_picture(path: Path) -> object:
    """Pixels of all frames, and what goes with them."""
    return [frame.rgb.load() for frame in load_frames(path)]


def read_mask(path: Path) -> object:
    """The region that is painted."""
    return painted(as_loaded(path))


def scans(folder: Path) -> list[tuple[str, bytes]]:
    """A NIfTI volume, plain and packed, and a DICOM slice."""
    import nibabel

    image = nibabel.Nifti1Image((NOISE[..., :3].astype(np.int16)), np.diag([1.0, 1.2, 2.0, 1.0]))
    for name in ("scan.nii", "scan.nii.gz"):
        image.to_filename(folder / name)
    dicom(folder / "scan.dcm", NOISE[..., 0].astype(np.uint16))
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


# ---- meshes, cameras


def meshes(folder: Path) -> list[tuple[str, bytes]]:
    """A small vase in every format."""
    for kind in ("glb", "obj", "ply"):
        save_mesh(vase(6, 5, 8), folder / f"mesh.{kind}")
    plain = trimesh.creation.icosphere(0)
    for kind in ("off", "stl", "ply", "glb"):
        plain.export(folder / f"plain.{kind}")
    plain.export(folder / "plain.gltf", embed_buffers=True)
    kinds = (".glb", ".obj", ".ply", ".off", ".stl", ".gltf")
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix in kinds]


def cameras(folder: Path) -> list[tuple[str, bytes]]:
    """Poses as NeRF, COLMAP and the published GTR write them."""
    three = orbit(torch.arange(3.0) * 120, 20.0, size=32)
    save_transforms(folder / "transforms.json", ["0.png", "1.png", "2.png"], three)
    save_gtr_camera(folder / "camera.txt", three[0])
    (folder / "cameras.txt").write_text("# list\n1 PINHOLE 32 32 40 40 16 16\n2 SIMPLE_RADIAL 32 32 40 16 16 0\n")
    (folder / "images.txt").write_text("1 1 0 0 0 0 0 3 1 0.png\n\n2 0.7 0 0.7 0 0 0 3 2 1.png\n1 2 3\n")
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def read_cameras(path: Path) -> object:
    """Whatever the name stands for."""
    if path.name == "transforms.json":
        return load_transforms(path)
    if path.name == "camera.txt":
        return load_gtr_camera(path, "0.png")
    two = "1 PINHOLE 32 32 40 40 16 16\n2 SIMPLE_RADIAL 32 32 40 16 16 0\n"
    others = {"cameras.txt": two, "images.txt": "1 1 0 0 0 0 0 3 1 0.png\n\n"}
    for name, text in others.items():
        if name != path.name:
            (path.parent / name).write_text(text)
    return load_colmap(path.parent)


def binary_cameras(folder: Path) -> None:
    """A COLMAP model as COLMAP writes it."""
    write_binary(folder)


def textured_obj(folder: Path) -> None:
    """An OBJ file with its materials and pictures."""
    save_mesh(vase(6, 5, 8), folder / "mesh.obj")


def gltf_parts(folder: Path) -> None:
    """A glTF file with its buffers and pictures beside it."""
    save_mesh(vase(6, 5, 8), folder / "mesh.glb")
    scene = trimesh.load_scene(folder / "mesh.glb")
    for name, content in trimesh.exchange.gltf.export_gltf(scene).items():
        (folder / ("mesh.gltf" if name.endswith(".gltf") else name)).write_bytes(content)
    (folder / "mesh.glb").unlink()


def posed_pictures(folder: Path) -> None:
    """Three pictures, their poses and a mask."""
    save_views(render(vase(6, 5, 8), orbit(torch.arange(3.0) * 120, 20.0, size=24)), folder)
    (folder / "masks").mkdir()
    PIL.Image.new("L", (24, 24), 255).save(folder / "masks" / "view_000.png.png")


def network(folder: Path) -> None:
    """A small network of others, pickled."""
    torch.manual_seed(0)
    net = Compact(num_feat=4, num_conv=1, upscale=2)
    torch.save({"params_ema": net.state_dict()}, folder / "network.pth")


def safe_network(folder: Path) -> None:
    """The same without pickles."""
    network(folder)
    tensors = torch.load(folder / "network.pth", weights_only=True)["params_ema"]
    (folder / "network.pth").unlink()
    save_file(tensors, folder / "network.safetensors")


def lists(folder: Path) -> list[tuple[str, bytes]]:
    """Lists of pictures."""
    text = 'a.png\n"b c.png"\n# comment\n../x/d.png\n'
    return [("list.txt", text.encode(code)) for code in ("utf-8", "utf-8-sig", "utf-16")]


FILES: dict[str, Reader] = {
    "pictures": Reader(pictures, as_file(read_picture), change_file, 3.0),
    "animations": Reader(animations, as_file(read_picture), change_file),
    "masks": Reader(pictures, as_file(read_mask), change_file, 0.5),
    "lists": Reader(lists, as_file(read_list), change_file, 0.2),
    "scans": Reader(scans, as_file(read_scan), change_file),
    "meshes": Reader(meshes, as_file(load_mesh), change_file, 2.0),
    "OBJ and materials": together(textured_obj, lambda folder: load_mesh(folder / "mesh.obj"), 1.0),
    "glTF and parts": together(gltf_parts, lambda folder: load_mesh(folder / "mesh.gltf"), 1.0),
    "cameras": Reader(cameras, as_file(read_cameras), change_file, 1.5),
    "COLMAP": together(binary_cameras, load_colmap, 1.0),
    "views": together(posed_pictures, load_views, 1.0),
    "networks": together(network, lambda folder: NetworkRestorer.from_pretrained(folder / "network.pth"), 0.3),
    "safe networks": together(
        safe_network, lambda folder: NetworkRestorer.from_pretrained(folder / "network.safetensors"), 0.3
    ),
}
"""Readers by name."""
