"""Every pipeline on the second device, in every precision; what was stopped and saved goes on there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from recon3d import GTRReconstructor
from recon3d.cameras import gtr_rig
from recon3d.gtr.options import GTRConfig, GTROptions
from recon3d.looks import contact_sheet, lit, looks, turntable_frames
from recon3d.render import render
from recon3d.vase import vase
from restoration import ITEROptions, ITERRestorer, OneStepOptions, OneStepRestorer, PASDOptions, PASDRestorer
from reward_vlm import R1Judge, SCLCorrector
from reward_vlm.r1.options import R1Options
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.scl.options import SCLOptions
from tests.vision.edit.tiny_pipelines import see_little, tiny_pipeline
from vision.edit import DiffusersEditor, DiffusersOptions, PIEEditor, PIEOptions, job
from vision.edit.evaluate import PIEEvaluation
from vision.edit.evaluate import evaluate as evaluate_pie
from vision.edit.job import EditOptions, PipelineEditOptions
from vision.refine import checkpoints, load_checkpoint

PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]
RED, BLUE = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")


def noise(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(7))


def agrees(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a result is finite and, in float32, that of the CPU."""
    found = found.detach().cpu()
    return bool(found.isfinite().all()) and (
        dtype != torch.float32 or torch.allclose(found, expected.float(), rtol=0, atol=1e-3)
    )


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("source", ["builtin:tiny", "builtin:tiny-mini"])
def test_iter(source, dtype):
    image, options = noise(2, 3, 16, 20), ITEROptions(threshold=0.5, steps=3)
    restorer = ITERRestorer.from_pretrained(source, device="cuda", dtype=dtype)
    expected = ITERRestorer.from_pretrained(source)(image, options)
    assert agrees(restorer(image, options), expected, dtype)
    assert agrees(restorer(image.cuda(), options), expected, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("source", ["builtin:tiny", "builtin:tiny-light", "builtin:tiny-sdxl"])
def test_pasd(source, dtype, tmp_path):
    image, options = noise(1, 3, 24, 24), PASDOptions(steps=2, scale=2.0, seed=1)
    restorer = PASDRestorer.from_pretrained(source, device="cuda", dtype=dtype)
    expected = PASDRestorer.from_pretrained(source)(image, options)
    assert agrees(restorer(image, options), expected, dtype)
    restorer.save_pretrained(tmp_path)
    again = PASDRestorer.from_pretrained(tmp_path, device="cuda", dtype=dtype)
    assert torch.equal(again(image.cuda(), options), restorer(image.cuda(), options))


PICTURE = Image.fromarray((noise(32, 40, 3) * 255).byte().numpy())
REGION = Image.new("L", PICTURE.size, 0)
REGION.paste(255, (8, 8, 24, 24))
FRAMES = PIEOptions(frames=2, steps=4, seed=3)
PIPELINE = DiffusersOptions(frames=2, steps=4, seed=3, resolution=32)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_pie(dtype):
    found, expected = (
        editor.simulate(editor.start(PICTURE, "a picture,ill", REGION, FRAMES)).images
        for editor in (
            PIEEditor.from_pretrained("builtin:tiny", device="cuda", dtype=dtype),
            PIEEditor.from_pretrained("builtin:tiny"),
        )
    )
    assert agrees(found, expected, dtype)


EDITORS = ["StableDiffusionInpaintPipeline", "StableDiffusion3Pipeline", "FluxKontextPipeline", "QwenImageEditPipeline"]


@pytest.mark.parametrize("dtype", PRECISIONS[:2])
@pytest.mark.parametrize("name", EDITORS)
def test_pipelines_of_diffusers(name, dtype, monkeypatch):
    see_little(monkeypatch)
    options, editor = DiffusersOptions(steps=4, resolution=32), DiffusersEditor(tiny_pipeline(name))
    expected = editor.simulate(editor.start(PICTURE, "a cat", REGION, options)).differences  # frames are rounded
    editor.to("cuda", dtype)
    assert editor.device.type == "cuda" and editor.dtype == dtype
    assert agrees(editor.simulate(editor.start(PICTURE, "a cat", REGION, options)).differences, expected, dtype)


@pytest.mark.parametrize("kind", ["PIE", "pipeline"])
def test_an_interrupted_job_of_edits_goes_on(kind, tmp_path, monkeypatch):
    PICTURE.save(tmp_path / "a.png")
    given = {"prompt": ("a picture,ill",), "box": (0.2, 0.2, 0.7, 0.7), "device": "cuda"}
    files = ((tmp_path / "a.png",), tmp_path / "out")
    if kind == "PIE":
        options = EditOptions(*files, source="builtin:tiny", options=FRAMES, **given)
    else:
        options = PipelineEditOptions(*files, pipeline="builtin:tiny", options=PIPELINE, **given)
    keep, frames = job._keep, [tmp_path / "out" / "a" / f"frame_0{number}.png" for number in range(3)]

    def stop_at_the_last_frame(path, frame):
        if path.name == "frame_0002.safetensors":
            raise KeyboardInterrupt
        keep(path, frame)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "_keep", stop_at_the_last_frame)
        job.edit(options)
    assert job.edit(options).code == 0 and all(frame.exists() for frame in frames)
    assert job.edit(replace(options, out=tmp_path / "straight")).code == 0
    assert frames[2].read_bytes() == (tmp_path / "straight" / "a" / "frame_02.png").read_bytes()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_one_step(dtype):
    image, options = noise(1, 3, 24, 24), OneStepOptions(process_size=32)
    restorer = OneStepRestorer.from_pretrained("builtin:tiny", device="cuda", dtype=dtype)
    assert agrees(restorer(image, options), OneStepRestorer.from_pretrained("builtin:tiny")(image, options), dtype)


def test_the_evaluation_of_pie(tmp_path):
    for name, picture in (("inputs", PICTURE), ("masks", REGION)):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png")
    folders = {"inputs": tmp_path / "inputs", "masks": tmp_path / "masks", "out": tmp_path / "out"}
    evaluate_pie(PIEEvaluation(**folders, source="builtin:tiny", seeds=1, options=FRAMES))
    assert (tmp_path / "out" / "methods.csv").exists()


RUNS = {
    "iter": (ITERRestorer, "builtin:tiny-mini", (noise(1, 3, 16, 16),), ITEROptions(threshold=1.1, steps=4), "tokens"),
    "pasd": (PASDRestorer, "builtin:tiny", (noise(1, 3, 24, 24),), PASDOptions(steps=3, scale=2.0, seed=1), "latents"),
    "pie": (PIEEditor, "builtin:tiny", (PICTURE, "a picture,ill", REGION), FRAMES, "images"),
    "pipeline": (DiffusersEditor, "builtin:tiny", (PICTURE, "a picture,ill", REGION), PIPELINE, "images"),
}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", RUNS)
def test_a_saved_run_goes_on(name, dtype, tmp_path):
    kind, source, subject, options, part = RUNS[name]
    system = kind.from_pretrained(source, device="cuda", dtype=dtype)
    straight = []
    for step in system.steps(*subject, options):
        straight.append(step)
        if len(straight) == 1:
            checkpoints(tmp_path)(step)
    resume = load_checkpoint(tmp_path, like=straight[0].state, device="cuda")
    again = list(system.steps(*subject, options, resume=resume))
    assert len(again) == len(straight) - 1
    assert torch.equal(getattr(again[-1].state, part), getattr(straight[-1].state, part))


QUICK = GTROptions(
    volume_steps=60, rays=160, geometry_steps=2, texture_steps=3, view_size=32, grid_size=24, texture_size=32,
    max_faces=300, texture="vertex",
)  # fmt: skip


@pytest.mark.parametrize("far", [False, True], ids=["unit box", "own world"])
def test_gtr_without_weights(far):
    views = render(vase(24, 24, 32), gtr_rig(32))
    reconstructor = GTRReconstructor(GTRConfig(plane_channels=6, plane_size=24, width=16)).to("cuda")
    if far:
        views = views.moved(torch.tensor([5.0, 0.0, -3.0]), 0.2)
    found = reconstructor(views, QUICK)
    assert len(found.faces) > 20 and found.vertices.isfinite().all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_gtr_with_a_generator(dtype):
    views = render(vase(24, 24, 32), gtr_rig(32))
    reconstructor = GTRReconstructor.from_pretrained("builtin:tiny", device="cuda", dtype=dtype)
    found = reconstructor(views, QUICK)
    assert len(found.faces) > 20 and found.vertices.isfinite().all()


def test_pictures_of_meshes():
    mesh, cameras = vase(12, 12, 16), gtr_rig(16)
    for bare in (False, True):
        assert agrees(lit(mesh.to("cuda"), cameras, bare=bare), lit(mesh, cameras, bare=bare), torch.float32)
    shown = looks(mesh.to("cuda"), cameras)
    assert agrees(shown, looks(mesh, cameras), torch.float32)
    assert contact_sheet([("mesh", shown)]).size[0] > 16
    assert len(list(turntable_frames(mesh.to("cuda"), frames=2, size=16))) == 2


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_judges(dtype):
    judge = R1Judge.from_pretrained("builtin:tiny", device="cuda", dtype=dtype)
    options = R1Options(max_new_tokens=6)
    found = judge([RED, BLUE], "which is red ?", ["the first", "the second"], options)
    assert found.scores.isfinite().all() and len(found.votes) == 2
    if dtype == torch.float32:
        expected = R1Judge.from_pretrained("builtin:tiny")(
            [RED, BLUE], "which is red ?", ["the first", "the second"], options
        )
        assert [vote.reply.text for vote in found.votes] == [vote.reply.text for vote in expected.votes]
    pictures = PictureJudge(judge, windows=1)([noise(1, 3, 64, 64).cuda(), noise(1, 3, 64, 64)], options)
    assert pictures.scores.isfinite().all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_correctors(dtype):
    corrector = SCLCorrector.from_pretrained("builtin:tiny", device="cuda", dtype=dtype)
    options = SCLOptions(("Sure ?",), max_new_tokens=5)
    found = corrector(RED, "what is it ?", ["red", "blue"], options)
    assert len(found.tried) == 2
    if dtype == torch.float32:
        expected = SCLCorrector.from_pretrained("builtin:tiny")(RED, "what is it ?", ["red", "blue"], options)
        assert found.dialogue.texts() == expected.dialogue.texts()
