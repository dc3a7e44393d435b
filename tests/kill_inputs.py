"""What the works of `tests.kills` need: a few tiny inputs of every kind, made by code."""

from __future__ import annotations

import gzip
import json
import struct
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image

from recon3d.cameras import gtr_rig
from recon3d.mesh_files import save_mesh
from recon3d.render import render
from recon3d.vase import vase
from recon3d.view_files import save_views
from restoration.benchmark_restorers import INPUT, TRUTH
from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from restoration.pasd import PASDRestorer
from restoration.pasd.unet import is_trained
from reward_vlm import R1Judge, SCLCorrector
from reward_vlm.data import preference_json, question_json, write_rows
from reward_vlm.r1.options import R1Config
from reward_vlm.scenes import scene_pairs
from reward_vlm.scl.options import SCLConfig
from reward_vlm.scl.pairs import Pair, pair_json
from reward_vlm.scl.prompts import ask
from reward_vlm.scl.scene_questions import scene_item, scene_questions, scene_reply
from reward_vlm.tiny import tiny_chat_model
from tests.restoration.photographs import photograph
from tests.restoration.test_judge import known_folder
from tests.scripts.test_restore_auto import traces
from vision.edit import PIEEditor
from vision.edit.brain import COLIN_T1, MNI_T1, MNI_WHITE, SLICES
from vision.images import save_image
from vision.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS
from vision.refine import Verdict
from vision.resize import imresize
from vision.strategies import Candidate, Choice, write_choices


def pictures(folder: Path, count: int = 3, side: int = 20) -> None:
    """Smooth colour pictures 0.png, 1.png, ..."""
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (side + 4, side)
        PIL.Image.fromarray(small).resize(size, PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def large_pictures(folder: Path) -> None:
    """As `pictures`, for trainings."""
    pictures(folder, 3, 80)


def views(folder: Path) -> None:
    """Six views of a vase."""
    save_views(render(vase(24, 24, 32), gtr_rig(32)), folder / "views")


def judgements(folder: Path) -> None:
    """Four questions about scenes with two answers each, and a judge's weights."""
    write_rows(folder / "rows.jsonl", [preference_json(pair, folder) for pair in scene_pairs(1, 12)])
    write_rows(folder / "held.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    names = sorted(path.name for path in (folder / "images").iterdir())[:4]
    write_rows(
        folder / "asked.jsonl",
        [{"question": "which ?", "answers": ["a", "b"], "image": f"images/{name}", "id": name} for name in names],
    )
    R1Judge(tiny_chat_model(), R1Config("plain", True, 6, None)).save_pretrained(folder / "start")


def questions(folder: Path) -> None:
    """Questions about scenes, pairs of replies to them, and a corrector's weights."""
    write_rows(folder / "rows.jsonl", [question_json(asked, folder) for asked in scene_questions(3, 4)])
    write_rows(folder / "held.jsonl", [question_json(asked, folder) for asked in scene_questions(98, 2)])
    found = []
    for index in range(6):
        asked, scene = scene_item(1, index)
        wrong = "B" if asked.answer == "A" else "A"
        chosen, rejected = (scene_reply(asked, scene, letter) for letter in (asked.answer, wrong))
        found.append(Pair(asked.id, asked.source, ask(asked, "plain"), chosen, rejected, 2, asked.images))
    write_rows(folder / "pairs.jsonl", [pair_json(pair, folder) for pair in found])
    SCLCorrector(tiny_chat_model(), SCLConfig("plain", max_new_tokens=8)).save_pretrained(folder / "start")


def diffusion_base(folder: Path) -> None:
    """A tiny Stable Diffusion and pictures to train PASD on."""
    from diffusers import UNet2DConditionModel

    tiny = PASDRestorer.from_pretrained("builtin:tiny")
    tiny.save_pretrained(folder / "base")
    stock = UNet2DConditionModel(**{key: value for key, value in tiny.unet.config.items() if key[0] != "_"})
    stock.load_state_dict({name: value for name, value in tiny.unet.state_dict().items() if not is_trained(name)})
    stock.save_pretrained(folder / "base" / "unet")
    (folder / "images").mkdir()
    large_pictures(folder / "images")


def editor(folder: Path) -> None:
    """A tiny editor and pictures of its domain."""
    PIEEditor.from_pretrained("builtin:tiny").save_pretrained(folder / "base")
    (folder / "data").mkdir()
    pictures(folder / "data", 3, 40)


def two_kinds(folder: Path) -> None:
    """Bright and dark pictures."""
    for name, level in (("positive", 200), ("negative", 60)):
        (folder / name).mkdir()
        for number in range(5):
            noise = np.random.default_rng(number).integers(0, 30, (32, 32, 3), dtype=np.uint8)
            PIL.Image.fromarray(noise + np.uint8(level)).save(folder / name / f"{number}.png")


def nothing(folder: Path) -> None:
    """For works that need no files."""


def meshes(folder: Path) -> None:
    """Two vases."""
    for number, sides in enumerate((8, 10)):
        save_mesh(vase(sides, sides, 16), folder / f"{number}.glb")


def small_weights(folder: Path) -> None:
    """Pictures, and weights of ITER to start from."""
    (folder / "photos").mkdir()
    pictures(folder / "photos", 2, 96)
    ITERRestorer.from_pretrained("builtin:tiny-mini").save_pretrained(folder / "start")


def named_photos(folder: Path) -> None:
    """What stands for the photographs that the weights in the project were made from."""
    for number, name in enumerate((*TRAINING_PHOTOS, *HELD_OUT_PHOTOS)):
        small = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        photo = PIL.Image.fromarray(small).resize((260, 260), PIL.Image.Resampling.BICUBIC)
        photo.save(folder / name, "JPEG")


def brains(folder: Path) -> None:
    """What stands for the two brains: balls with a bright core."""
    depth, side = SLICES.stop + 1, 90
    z, y, x = np.meshgrid(np.arange(depth) - SLICES.start, *[np.arange(side) - side / 2] * 2, indexing="ij")
    near = np.clip(1.3 - np.sqrt((z - 15.0) ** 2 + y**2 + x**2) / 40, 0, 1)
    for name, volume in ((MNI_T1, near), (MNI_WHITE, near > 0.6), (COLIN_T1, near)):
        voxels = (255 * volume).astype(np.uint8)
        header = bytearray(352)
        header[0:4], header[344:347] = struct.pack("<i", 348), b"n+1"
        header[40:56], header[70:72] = struct.pack("<8h", 3, *voxels.shape[::-1], 1, 1, 1, 1), struct.pack("<h", 2)
        header[108:112] = struct.pack("<f", 352.0)
        (folder / name).write_bytes(gzip.compress(bytes(header) + voxels.tobytes(), 1))


def choices(folder: Path) -> None:
    """Traces of restorers."""
    traces(folder / "restorers")


def known_restorations(folder: Path) -> None:
    """Photographs, and restorations whose truth is known."""
    for number in range(2):
        save_image(photograph(number, 160), folder / "photos" / f"{number}.png")
    known_folder(folder / "known", range(2))


def samples(folder: Path) -> None:
    """Two samples, of the weights in the project, of a picture whose truth is known."""
    task, high = "0_0/bicubic", photograph(0, 64)
    pictures = folder / "tries" / "pictures" / task
    save_image(high, pictures / TRUTH)
    save_image(imresize(high, 0.25).clamp(0, 1), pictures / INPUT)
    restorer, made = ITERRestorer.from_pretrained(variant="clean"), []
    for seed in range(2):
        made.append(Candidate(task, pictures / f"{seed}.png", "iter:clean@0", seed=seed))
        save_image(restorer(pictures / INPUT, ITEROptions(fidelity=0.0, seed=seed)), made[-1].value)
    write_choices(folder / "tries", [Choice(task, tuple(made), (Verdict(1.0), Verdict(0.0)), 0)])


def masked_pictures(folder: Path) -> None:
    """Two pictures and a region of each."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir()
    pictures(folder / "pictures", 2, 32)
    for number in range(2):
        region = np.zeros((32, 36), dtype=np.uint8)
        region[8:24, 8:24] = 255
        PIL.Image.fromarray(region).save(folder / "masks" / f"{number}.png")


def served(folder: Path) -> None:
    """Judgements to be written, and who writes them."""
    judgements(folder)
    server()


@cache
def server() -> str:
    """The address of a server that writes judgements: of a pair it always says the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            digit = 1 + sum(asked) % 2
            text = f"<think>so {digit}</think><answer>{digit}</answer>"
            body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{running.server_port}/v1"
