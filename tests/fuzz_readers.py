"""What `tests.fuzz` damages: a few samples of everything that people bring, and the function that reads it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from recon3d import GTRReconstructor
from recon3d.gtr.options import GTRConfig
from restoration import ITERRestorer, OneStepRestorer, PASDRestorer
from restoration.iter.options import ITERConfig
from reward_vlm import R1Judge, SCLCorrector, data, parse
from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint, EndpointError
from reward_vlm.fields import open_picture
from reward_vlm.r1.options import R1Config
from reward_vlm.scl.options import SCLConfig
from tests.fuzz import Reader, change_bytes, change_json, change_text, change_words
from tests.fuzz_files import FILES, NOISE, as_file, change_file, pictures, together
from vision.checkpoints import load_state, save_state
from vision.config import load_config, to_dict
from vision.edit import DiffusersEditor, PIEEditor
from vision.edit.options import PIEConfig
from vision.records import Record
from vision.refine import checkpoints, load_checkpoint, refine_steps
from vision.scale.shards import Sample, ShardWriter, read_samples

# ---- rows, replies


SIMPLE = {"id": "1", "question": "which ?", "answers": ["a", "b"], "better": 1, "image": "0.png", "category": "x"}
MESSAGE = [{"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "which ?"}]}]
SHARE = {"from": "human", "value": "<image>which ?"}
ROWS: list[dict[str, Any]] = [
    SIMPLE,
    SIMPLE | {"image": None, "images": ["0.png"], "rationale": "so", "difficulty": 2},
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
    return [open_picture(image) for row in rows for image in getattr(row, "images", ())]


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
    "edit scan.nii.gz --out x --box 1 2 30 40 --slices 2 3 --seed 4",
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


def row_pictures(folder: Path) -> list[tuple[str, bytes]]:
    """Pictures that are written into rows."""
    return [sample for sample in pictures(folder) if sample[0].endswith((".png", ".jpeg", ".webp", ".avif"))]


def read_row_picture(sample: tuple[str, bytes], folder: Path) -> object:
    """A row whose picture is base64 text, and one whose picture is bytes."""
    found = []
    for image in (base64.b64encode(sample[1]).decode(), {"bytes": sample[1], "path": sample[0]}):
        found.append(_pictures([data.preference(SIMPLE | {"image": image}, folder)]))
    return found


def shards(folder: Path) -> list[tuple[str, bytes]]:
    """Tar files of samples, with short and long names."""
    for name, key in (("a.tar", "a/1"), ("b.tar", "b" * 300)):
        with ShardWriter(folder / name) as writer:
            writer.add(Sample(key, {"png": b"p" * 700, "json": b"{}"}))
            writer.add(Sample("2", {"txt": b""}))
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def read_shard(path: Path) -> object:
    """All samples of a shard."""
    with open(path, "rb") as file:
        return list(read_samples(file, path.name))


def saved(load: Callable[[Any], Any], name: str = "builtin:tiny", share: float = 0.04) -> Reader:
    """A reader of a folder of weights, one of whose files is damaged."""
    return together(lambda folder: load(name).save_pretrained(folder), load, share)


READERS: dict[str, Reader] = {
    "rows": Reader(lambda _: ROWS, read_json_rows, change_json, 3.0),
    "row files": Reader(row_files, as_file(read_row_file), change_file),
    "pictures in rows": Reader(row_pictures, read_row_picture, change_file),
    "replies": Reader(lambda _: REPLIES, read_reply, change_text, 2.0),
    "endpoint": Reader(said, read_endpoint, change_reply),
    "configs": Reader(configs, read_config, change_config, 2.0),
    "words": Reader(lambda _: [line.split() for line in COMMANDS], read_words, change_words, 0.3),
    "states": Reader(states, read_states, change_file),
    "records": Reader(records, read_record, change_file),
    "shards": Reader(shards, as_file(read_shard), change_file),
    **FILES,
    "ITER": saved(ITERRestorer.from_pretrained, "builtin:tiny-mini", 0.3),
    "PASD": saved(PASDRestorer.from_pretrained),
    "one step": saved(OneStepRestorer.from_pretrained),
    "PIE": saved(PIEEditor.from_pretrained),
    "pipelines": saved(DiffusersEditor.from_pretrained),
    "GTR": saved(GTRReconstructor.from_pretrained),
    "R1": saved(R1Judge.from_pretrained),
    "SCL": saved(SCLCorrector.from_pretrained),
}
"""By name; the last number is a reader's share of the cases."""
