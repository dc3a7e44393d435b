"""What `tests.fuzz` damages: a few samples of everything that people bring, and the function that reads it."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from recon3d import load_mesh, orbit, save_mesh
from recon3d.camera_files import load_gtr_camera, load_transforms, save_gtr_camera, save_transforms
from recon3d.colmap import load_colmap
from recon3d.gtr.options import GTRConfig
from recon3d.vase import vase
from restoration import ITERRestorer
from restoration.iter.options import ITERConfig
from reward_vlm import R1Judge, data, parse
from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint, EndpointError
from reward_vlm.r1.options import R1Config
from reward_vlm.scl.options import SCLConfig
from tests.fuzz import Reader, change_bytes, change_json, change_text, change_words
from vision.checkpoints import load_state, save_state
from vision.config import load_config, to_dict
from vision.edit.options import PIEConfig
from vision.edit.scans import read_scan
from vision.images import load_image
from vision.records import Record
from vision.refine import checkpoints, load_checkpoint, refine_steps

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)


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


def pictures(_: Path) -> list[tuple[str, bytes]]:
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
    return found


def read_picture(path: Path) -> object:
    """Pixels and what goes with them."""
    return load_image(path).rgb.load()


def scans(folder: Path) -> list[tuple[str, bytes]]:
    """A NIfTI volume, plain and packed."""
    import nibabel

    image = nibabel.Nifti1Image((NOISE[..., :3].astype(np.int16)), np.diag([1.0, 1.2, 2.0, 1.0]))
    for name in ("scan.nii", "scan.nii.gz"):
        image.to_filename(folder / name)
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def read_slices(path: Path) -> object:
    """The volume."""
    return read_scan(path)


# ---- meshes, cameras


def meshes(folder: Path) -> list[tuple[str, bytes]]:
    """A small vase in every format."""
    for kind in ("glb", "obj", "ply"):
        save_mesh(vase(6, 5, 8), folder / f"mesh.{kind}")
    import trimesh

    plain = trimesh.creation.icosphere(0)
    for kind in ("off", "stl", "ply", "glb"):
        plain.export(folder / f"plain.{kind}")
    plain.export(folder / "plain.gltf", embed_buffers=True)
    kinds = (".glb", ".obj", ".ply", ".off", ".stl", ".gltf")
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix in kinds]


def cameras(folder: Path) -> list[tuple[str, bytes]]:
    """Poses as NeRF, COLMAP and the GTR release write them."""
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


# ---- rows, replies


SIMPLE = {"id": "1", "question": "which ?", "answers": ["a", "b"], "better": 1, "image": "0.png", "category": "x"}
MESSAGE = [{"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "which ?"}]}]
SHARE = {"from": "human", "value": "<image>which ?"}
ROWS: list[dict[str, Any]] = [
    SIMPLE,
    SIMPLE | {"image": None, "images": ["0.png"], "rationale": "so", "difficulty": 0.5},
    {"id": 1, "message": json.dumps(MESSAGE), "answer": ["<answer>2</answer>"], "image": "0.png"},
    {"message": MESSAGE, "answer": "1", "target": "<think>a</think><answer>1</answer>", "difficulty": 1.0},
    {"question": "what ?", "options": {"A": "red", "B": "blue"}, "answer": "A", "image": "0.png", "source": "s"},
    {"prompt": MESSAGE, "chosen": [{"role": "assistant", "content": "a"}],
     "rejected": [{"role": "assistant", "content": "b"}], "images": ["0.png"]},
    {"messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}],
     "rejected_response": "b", "images": ["0.png"]},
    {"conversations": [SHARE], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"},
     "images": ["0.png"]},
]  # fmt: skip
MAKERS = (data.preference, data.judgement, data.question, data.open_question)


def read_json_rows(row: Any, folder: Path) -> object:
    """One row in a file of lines, read as everything that rows can be."""
    PIL.Image.fromarray(NOISE).save(folder / "0.png")
    path = folder / "rows.jsonl"
    path.write_bytes(json.dumps(row).encode("utf-8", "surrogatepass") + b"\n")
    return [_pictures(data.read_rows(path, make, skip_bad=True)[0]) for make in MAKERS]


def _pictures(rows: list[Any]) -> list[Any]:
    """The pictures of rows that were read; those that cannot be read are told with a sentence."""
    return [data.open_picture(image) for row in rows for image in getattr(row, "images", ())]


def row_files(folder: Path) -> list[tuple[str, bytes]]:
    """Whole files: lines, an array, parquet."""
    import pandas

    table = [SIMPLE | {"id": str(number)} for number in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (folder / "rows.json").write_text(json.dumps(table))
    pandas.DataFrame(table).to_parquet(folder / "rows.parquet")
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def read_row_file(path: Path) -> object:
    """All rows, bad ones left out."""
    return data.read_rows(path, data.preference, skip_bad=True)


REPLIES = [
    "<think>The first names the colour.</think><answer>1</answer>",
    "<think>a</think>\n<answer>Response 2 is better.</answer>",
    "Overall Judgment: Answer 1 is better.\n1.5 2", "\\boxed{2}", "Score: [[8]] and 7/10", "## B ##", "It is (C).",
]  # fmt: skip


def read_reply(text: str, _: Path) -> object:
    """Everything that is read out of what a model wrote."""
    from reward_vlm.r1.rewards import result_reward

    found = [parse.first_answer(text), parse.reasoning(text), parse.well_formed(text), parse.choice(text)]
    found += [parse.lenient_choice(text), result_reward(text, ("<answer>1</answer>",))]
    return found + [published(text) for published in parse.PUBLISHED_PARSERS.values()]


def said(_: Path) -> list[bytes]:
    """What a chat server sends."""
    reply = {"choices": [{"message": {"role": "assistant", "content": "hello"}}], "usage": {"total_tokens": 3}}
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "hello"}]}}]}
    return [json.dumps(value).encode() for value in (reply, parts, {"error": {"message": "busy"}})]


def change_reply(random: Any, sample: bytes, others: list[bytes]) -> bytes:
    """As a tree, or as bytes."""
    if random.random() < 0.7:
        trees = [json.loads(other) for other in others]
        return json.dumps(change_json(random, json.loads(sample), trees)).encode("utf-8", "surrogatepass")
    return change_bytes(random, sample, others)


def read_endpoint(content: bytes, _: Path) -> object:
    """A reply is a text or the error that took its place."""
    with _serving(content) as url:
        (reply,) = Endpoint(url, "m", tries=1, pause_seconds=0.0).complete([Dialogue().user("hello ?")])
    if not isinstance(reply, (str, EndpointError)):
        raise TypeError(f"{reply!r} is no reply.")
    return reply


_server: dict[str, Any] = {}


@contextmanager
def _serving(content: bytes) -> Any:
    """The address of a server on this machine that sends `content` with status 200; one server for all."""
    if not _server:

        class Sends(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(_server["content"])))
                self.end_headers()
                self.wfile.write(_server["content"])

            def log_message(self, *_: Any) -> None:
                pass

        _server["server"] = HTTPServer(("127.0.0.1", 0), Sends)
        threading.Thread(target=_server["server"].serve_forever, daemon=True).start()
    _server["content"] = content
    yield f"http://127.0.0.1:{_server['server'].server_port}/v1"


# ---- options, states, folders


CONFIGS = (GTRConfig, ITERConfig, R1Config, SCLConfig, PIEConfig)


def configs(_: Path) -> list[Any]:
    """Configurations as they lie beside weights: which class, and its values."""
    made = (GTRConfig(), ITERRestorer.from_pretrained("builtin:tiny-mini").config, R1Config(), SCLConfig(), PIEConfig())
    return [[number, to_dict(config)] for number, config in enumerate(made)]


def change_config(random: Any, sample: Any, others: list[Any]) -> Any:
    """The values change, the class does not."""
    return [sample[0], change_json(random, sample[1], [other[1] for other in others])]


def read_config(sample: Any, folder: Path) -> object:
    """The configuration."""
    path = folder / "config.json"
    path.write_bytes(json.dumps(sample[1]).encode("utf-8", "surrogatepass"))
    return load_config(CONFIGS[sample[0]], path)


COMMANDS = [
    "restore a.png b.png --out x --scale 4 --compare", "restore a.png --out x --system pasd --seed 3 --best-of 2",
    "edit a.png --out x --ellipse 0.5 0.5 0.2 0.2 --frames 3 --strength 0.5",
    "edit scan.nii.gz --box 1 2 30 40 --slices 2 3 --seed 4",
    "reconstruct --views folder --out x --texture-seconds 2 --device cpu",
    "reconstruct --mesh a.glb --views folder --out x --max-faces 900",
    "judge --image a.png --question q --answers a b --votes 3", "judge --rows a.jsonl --out b.jsonl",
    "answer --image a.png --question q --choices a b", "answer --rows a.jsonl --out b.jsonl --max-new-tokens 9",
    "train iter --stage vqgan --images folder --steps 3 --learning-rate 1e-4", "train iter --recipe mini --photos x",
    "train pasd --base x --images y --variant light", "train pie --base x --data y",
    "train gtr --stage volume --steps 2",
    "train r1 --rows a.jsonl --start b --folder c --steps 3", "train scl --pairs a.jsonl --folder c --start d",
    "evaluate iter --hr folder --out x", "convert iter --checkpoint a.pth --out x",
]  # fmt: skip


def read_words(words: list[str], _: Path) -> object:
    """The options of a command; a wrong line ends with code 2 and one sentence on stderr."""
    import importlib

    if not words or words[0] not in {line.split()[0] for line in COMMANDS}:
        return None
    parse_words = importlib.import_module(f"scripts.{words[0]}").parse
    with redirect_stderr(io.StringIO()) as said:
        try:
            return parse_words(words[1:])
        except SystemExit as stop:
            sentence = said.getvalue()
            if stop.code == 2 and sentence.strip() and sentence.count("\n") == 1:
                raise ValueError(sentence) from None
            if stop.code:
                raise AssertionError(f"code {stop.code}, said {sentence!r}") from None
            return None


def states(folder: Path) -> list[tuple[str, bytes]]:
    """A training's state, and that of a stopped run."""
    save_state(folder / "checkpoint.safetensors", {"weight": torch.ones(3, 2)}, {"step": 3})
    state = {"tokens": torch.zeros(2, 3), "generator": torch.Generator().manual_seed(1), "texts": ["a", None, 2.5]}
    keep = checkpoints(folder)
    for step in refine_steps(state, lambda state, _: state, range(2)):
        keep(step)
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def read_states(sample: tuple[str, bytes], folder: Path) -> object:
    """The one or the other."""
    (folder / sample[0]).write_bytes(sample[1])
    return load_checkpoint(folder) if sample[0].startswith("step") else load_state(folder / sample[0])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def records(folder: Path) -> list[tuple[str, bytes]]:
    """What lies in `.done` beside results."""
    record = Record(folder, "a.png")
    content = {"origin": {"input": "/a.png", "content": "1", "key": "2"}, "files": {"a.png": "3"}, "facts": {"seed": 1}}
    return [(f"{record.id}.json", json.dumps(content).encode())]


def read_record(sample: tuple[str, bytes], folder: Path) -> object:
    """What was made."""
    record = Record(folder, "a.png")
    record.path.parent.mkdir()
    record.path.write_bytes(sample[1])
    return record.read(), record.holds("2")


def folder_files(make: Callable[[Path], object]) -> Callable[[Path], list[tuple[str, bytes]]]:
    """The files of a folder of weights, by name; folders inside are not part of it."""

    def samples(folder: Path) -> list[tuple[str, bytes]]:
        make(folder)
        return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]

    return samples


def read_folder(make: Callable[[Path], object], load: Callable[[Path], object]) -> Callable[[Any, Path], object]:
    """A folder of weights with one damaged file."""
    kept: dict[str, bytes] = {}

    def read(sample: tuple[str, bytes], folder: Path) -> object:
        if not kept:
            made = folder.parent / "made"
            kept.update(folder_files(make)(_made(made)))
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        (folder / sample[0]).write_bytes(sample[1])
        return load(folder)

    return read


def tiny_iter(folder: Path) -> object:
    """The smallest restorer's folder."""
    return ITERRestorer.from_pretrained("builtin:tiny-mini").save_pretrained(folder)


def tiny_judge(folder: Path) -> object:
    """The smallest judge's folder, with its tokenizer and processor."""
    return R1Judge.from_pretrained("builtin:tiny").save_pretrained(folder)


READERS: dict[str, Reader] = {
    "rows": Reader(lambda _: ROWS, read_json_rows, change_json, 3.0),
    "row files": Reader(row_files, as_file(read_row_file), change_file),
    "replies": Reader(lambda _: REPLIES, read_reply, change_text, 3.0),
    "endpoint": Reader(said, read_endpoint, change_reply),
    "configs": Reader(configs, read_config, change_config, 2.0),
    "words": Reader(lambda _: [line.split() for line in COMMANDS], read_words, change_words, 0.3),
    "states": Reader(states, read_states, change_file),
    "records": Reader(records, read_record, change_file),
    "restorers": Reader(
        folder_files(tiny_iter), read_folder(tiny_iter, ITERRestorer.from_pretrained), change_file, 0.5
    ),
    "judges": Reader(folder_files(tiny_judge), read_folder(tiny_judge, R1Judge.from_pretrained), change_file, 0.1),
    "pictures": Reader(pictures, as_file(read_picture), change_file, 3.0),
    "scans": Reader(scans, as_file(read_slices), change_file),
    "meshes": Reader(meshes, as_file(load_mesh), change_file, 3.0),
    "cameras": Reader(cameras, as_file(read_cameras), change_file, 2.0),
}
"""By name; the last number is a reader's share of the cases."""
