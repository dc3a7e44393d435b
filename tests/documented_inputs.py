"""Small files under the names that the documentation's commands give to a user's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image

from tests.documented import PROJECT

EXAMPLES = PROJECT / "examples"
WEIGHTS = {
    "iter": PROJECT / "restoration/pretrained/iter-mini/photo",
    "edit": PROJECT / "vision/pretrained/pie-brain-mini",
    "pasd": PROJECT / "restoration/pretrained/pasd-mini",
    "judge": PROJECT / "reward_vlm/pretrained/r1-mini/scenes",
    "answer": PROJECT / "reward_vlm/pretrained/scl-mini",
    "selector": PROJECT / "restoration/pretrained/selector",
}


def write_inputs(folder: Path) -> None:
    """Everything that a command of the documentation reads, small; examples too."""
    _examples(folder)
    _pictures(folder)
    _scans(folder)
    _rows(folder)
    _objects(folder)
    for name, weights in {
        "FOLDER": "iter",
        "SD_FOLDER": "edit",
        "runs/selector": "selector",
        "runs/sft/weights": "judge",
        "runs/scl/weights": "answer",
        "runs/iter-sharpened/weights": "iter",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(WEIGHTS[weights])


def _examples(folder: Path) -> None:
    shutil.copytree(EXAMPLES, folder / "examples")
    with PIL.Image.open(EXAMPLES / "cat.jpg") as cat:
        cat.resize((48, 48)).save(folder / "examples" / "cat.jpg")


def _pictures(folder: Path) -> None:
    cat = PIL.Image.open(EXAMPLES / "cat.jpg")
    small = cat.crop((40, 30, 72, 58))
    for name in ("photo.jpg", "photo.png"):
        small.save(folder / name)
    for name in ("photos", "pictures", "good_pictures", "small"):
        (folder / name).mkdir()
        cat.crop((40, 40, 104, 104)).save(folder / name / "0.png")
    cat.crop((20, 20, 84, 84)).save(folder / "a.png")
    cat.crop((20, 20, 84, 84)).resize((32, 32)).resize((64, 64)).save(folder / "b.png")


def _scans(folder: Path) -> None:
    import nibabel
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for example, names in (("brain.png", ("scan.png", "brain.png")), ("brain_mask.png", ("region.png", "lesion.png"))):
        for name in names:
            shutil.copy(EXAMPLES / example, folder / name)
    with PIL.Image.open(EXAMPLES / "brain.png") as picture:
        slice_ = np.asarray(picture.convert("L").resize((48, 48)), dtype=np.int16)
    region = np.zeros_like(slice_)
    region[18:26, 20:30] = 1
    for name, plane in (("brain", slice_), ("lesion", region)):
        volume = np.repeat(np.rot90(plane, -1)[..., None], 92, axis=2)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii.gz")  # type: ignore[no-untyped-call]
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    scan = pydicom.Dataset()
    scan.file_meta, scan.SOPClassUID, scan.SOPInstanceUID = meta, CTImageStorage, meta.MediaStorageSOPInstanceUID
    scan.Modality, scan.PhotometricInterpretation, scan.SamplesPerPixel = "MR", "MONOCHROME2", 1
    scan.Rows, scan.Columns = slice_.shape
    scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 12, 11, 0
    scan.PixelData = (slice_.astype(np.uint16) * 4).tobytes()
    scan.save_as(folder / "slice.dcm", enforce_file_format=True)


def _rows(folder: Path) -> None:
    from reward_vlm.data import preference_json, question_json, write_rows
    from reward_vlm.scenes import scene_pairs
    from reward_vlm.scl.pairs import Pair, pair_json
    from reward_vlm.scl.prompts import ask
    from reward_vlm.scl.scene_questions import scene_item, scene_questions, scene_reply
    from reward_vlm.scl.ways import AnswerStrategy, attempts_choice, fit_strategy
    from vision.refine import Verdict
    from vision.strategies import Candidate, Choice, Cost, write_choices

    shutil.copy(EXAMPLES / "scenes" / "0.png", folder / "scene.png")
    pairs = [preference_json(pair, folder) for pair in scene_pairs(1, 8)]
    for name in ("sft", "rl", "judgements"):
        write_rows(folder / f"{name}.jsonl", pairs)
    write_rows(folder / "pairs.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    judge = [{"question": row["question"], "answers": row["answers"], "images": row["images"]} for row in pairs[:2]]
    write_rows(folder / "questions-judge.jsonl", judge)
    write_rows(folder / "questions-answer.jsonl", [question_json(row, folder) for row in scene_questions(3, 2)])
    for name, seed, count in (("train", 7, 8), ("test", 97, 2)):
        write_rows(folder / f"{name}.jsonl", [question_json(row, folder) for row in scene_questions(seed, count)])
    lessons = [
        {"turns": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": "## A ##"}]}
        | {"images": row["images"]}
        for row in pairs[:2]
    ]
    write_rows(folder / "lessons.jsonl", lessons)
    benchmark = [
        {"id": f"{n}", "query": row["question"], "response": row["answers"], "human_ranking": [0, 1]}
        | {"image": row["images"][0]}
        for n, row in enumerate(pairs[:2])
    ]
    write_rows(folder / "data.jsonl", benchmark)

    def pair(index: int) -> Pair:
        question, scene = scene_item(1, index)
        wrong = "B" if question.answer == "A" else "A"
        replies = [scene_reply(question, scene, str(letter)) for letter in (question.answer, wrong)]
        return Pair(question.id, question.source, ask(question, "plain"), *replies, 2, question.images)

    said = [("1", {"first": "A", "review": "B", "votes": "B"}), ("2", {"first": "B", "review": "B", "votes": "A"})]
    facts = {"token_log_prob": -0.1, "reply_log_prob": -1.0}
    choices = [attempts_choice(name, facts, chosen, "A", 2) for name, chosen in said]
    AnswerStrategy(fit_strategy(choices, "regret", 0.0, 0.3), 2, 0).save_pretrained(folder / "runs" / "ways")

    tried = [Candidate("a.png", score, name, Cost(0.1, 1)) for name, score in (("none", 1.0), ("iter", 2.0))]
    verdicts = (Verdict(1.0), Verdict(2.0))
    write_choices(folder / "runs" / "restored", [Choice("a.png", tuple(tried), verdicts, 0, "the first", {})])
    (folder / "runs" / "pairs").mkdir(parents=True)
    made = [pair_json(pair(index), folder / "runs" / "pairs") for index in range(4)]
    write_rows(folder / "runs" / "pairs" / "pairs.jsonl", made)


def _objects(folder: Path) -> None:
    from recon3d.gtr.evaluate import given_cameras
    from recon3d.mesh_files import save_mesh
    from recon3d.render import render
    from recon3d.vase import vase
    from recon3d.view_files import save_views
    from recon3d.views import join_grid
    from vision.images import to_pil

    mesh = vase(rings=12, sides=16, texture_size=32)
    (folder / "MESHES").mkdir()
    (folder / "runs" / "vase").mkdir(parents=True)
    for name in ("OBJECT.glb", "MESHES/a.glb", "runs/vase/vase.glb"):
        save_mesh(mesh, folder / name)
    save_views(render(mesh, given_cameras(48)), folder / "PICTURES")
    six = render(mesh, given_cameras(48, 6))
    to_pil(join_grid(six.images)[None]).save(folder / "SIX_VIEWS.png")
