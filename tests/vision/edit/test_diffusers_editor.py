"""Pipelines of diffusers as editors: every class, what it keeps, step by step, saved and loaded, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from tests.vision.edit.conftest import picture
from tests.vision.edit.tiny_pipelines import EDITORS, TEXT_TO_IMAGE, see_little, tiny_pipeline
from vision.diffusion.pipelines import load_pipeline
from vision.edit import DiffusersEditor, DiffusersOptions
from vision.refine import Trace, Verdict, checkpoints, load_checkpoint
from vision.strategies import Candidate, Cost
from vision.strategies.repair import refine_and_rerank

QUICK = DiffusersOptions(steps=4, seed=3, resolution=32)
PROMPT = "a picture,ill"


@pytest.fixture
def editor() -> DiffusersEditor:
    return DiffusersEditor.from_pretrained("builtin:tiny")


def pipeline_of(name: str):
    pipeline = tiny_pipeline(name)
    if pipeline is None:
        pytest.skip(f"The installed diffusers has no {name}.")
    return pipeline


def region(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A soft mask in the middle."""
    width, height = picture.size
    mask = PIL.Image.new("L", picture.size, 0)
    mask.paste(255, (width // 4, height // 4, width // 2, height // 2))
    mask.paste(100, (width // 2, height // 4, 3 * width // 4, height // 2))
    return mask


@pytest.mark.parametrize("name", [*EDITORS, *TEXT_TO_IMAGE])
def test_pixels_outside_the_mask_are_those_of_the_picture(name, monkeypatch):
    see_little(monkeypatch)
    image = picture(0, 75, 101)
    mask = region(image)
    options = DiffusersOptions(steps=4, resolution=64)
    before, after = (np.asarray(x) for x in DiffusersEditor(pipeline_of(name))(image, "a cat", mask, options))
    outside = np.asarray(mask) == 0
    assert np.array_equal(before, np.asarray(image)) and after.shape == before.shape
    assert np.array_equal(after[outside], before[outside])
    assert (after != before)[~outside].any(axis=1).mean() > 0.5


@pytest.mark.parametrize("name", ["StableDiffusionInpaintPipeline", "StableDiffusion3Pipeline", "FluxKontextPipeline"])
def test_without_a_mask_everything_may_change(name):
    image = picture(0, 75, 101)
    before, after = DiffusersEditor(pipeline_of(name))(image, "a cat", options=DiffusersOptions(steps=2, resolution=64))
    assert (np.asarray(after) != np.asarray(before)).any(axis=2).mean() > 0.9


NAMES = ["StableDiffusionInpaintPipeline", "QwenImageEditPipeline", *TEXT_TO_IMAGE]


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    made = DiffusersEditor(pipeline_of(name))
    made.save_pretrained(tmp_path)
    loaded = DiffusersEditor.from_pretrained(tmp_path)
    assert type(loaded.pipeline) is type(made.pipeline)
    for part, module in made.pipeline.components.items():
        again = loaded.pipeline.components[part]
        if not isinstance(module, torch.nn.Module):
            assert (again is None) == (module is None)
            continue
        own, found = module.state_dict(), again.state_dict()
        assert own.keys() == found.keys() and all(torch.equal(own[key], found[key]) for key in own)


def test_saving_in_fewer_bits_leaves_the_weights_in_memory(editor, image, tmp_path):
    before = editor(image, PROMPT, options=QUICK)
    editor.save_pretrained(tmp_path, torch.float16)
    assert list(before) == list(editor(image, PROMPT, options=QUICK))
    again = DiffusersEditor.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    first, last = again(image, PROMPT, options=QUICK)
    assert np.asarray(last).std() > 0 and first.size == last.size


def test_every_frame_is_an_edit_of_the_one_before(editor, image, square):
    options = replace(QUICK, frames=2)
    steps = list(editor.steps(image, PROMPT, square, options))
    once = list(editor.steps(image, PROMPT, square, replace(QUICK, frames=1)))
    assert torch.equal(steps[0].state.images, once[0].state.images)
    run = editor.start(image, PROMPT, square, options)
    assert torch.equal(editor.next(run, steps[0].state, 2).images, steps[1].state.images)
    outside = run.region.expand(-1, 3, -1, -1) == 0
    for step in steps:
        assert torch.equal(step.state.images[outside], run.original[outside])


def test_schedules_are_spread_over_the_frames(editor, image):
    plain = list(editor.steps(image, PROMPT, None, replace(QUICK, frames=2, strength=0.5)))
    late = list(editor.steps(image, PROMPT, None, replace(QUICK, frames=2, strength=(0.5, 1.0))))
    assert torch.equal(plain[0].state.images, late[0].state.images)
    assert not torch.equal(plain[1].state.images, late[1].state.images)
    prompts = list(editor.steps(image, [PROMPT, "a picture,healthy"], None, replace(QUICK, frames=2, strength=0.5)))
    assert torch.equal(plain[0].state.images, prompts[0].state.images)
    assert not torch.equal(plain[1].state.images, prompts[1].state.images)


def test_a_batch_is_its_pictures_one_by_one(editor):
    images = [picture(0), picture(1)]
    batch = editor(images, [[PROMPT, "a picture,healthy"]], options=QUICK)
    alone = editor(images[1], "a picture,healthy", options=replace(QUICK, seed=QUICK.seed + 1))
    assert list(batch[1]) == list(alone)


def test_scores_stop_the_pictures_that_reach_them_and_the_trace_tells(editor):
    def bright(images):
        return images.mean(dim=(1, 2, 3))

    options, images = replace(QUICK, frames=3), [picture(0), picture(1)]
    plain = editor.simulate(editor.start(images, PROMPT, None, options, score=bright))
    goal, trace = float(plain.scores[1].max()), Trace()
    run = editor.start(images, PROMPT, None, replace(options, stop_score=goal), score=bright)
    found = editor.simulate(run, observers=[trace])
    done = int(plain.scores[1].argmax())
    assert torch.equal(found.images[-1, done], found.images[1, done])
    assert torch.equal(found.images[:, 1 - done], plain.images[: len(found.images), 1 - done])
    assert [row["score"] for row in trace.rows] == [pytest.approx(row) for row in found.scores[1:].tolist()]
    assert len(editor.simulate(editor.start(images, PROMPT, None, replace(options, tolerance=1.0))).images) == 2
    with pytest.raises(ValueError, match="needs a classifier"):
        editor.start(images, PROMPT, None, replace(options, stop_score=0.5))


def test_a_draft_is_repaired_where_that_helps(editor, image, square):
    """Globally with another seed, and the best by an evaluator is kept, as of any other draft."""

    def made(seed: int) -> Candidate:
        frames = editor(image, PROMPT, square, replace(QUICK, seed=seed))
        return Candidate("picture", frames[-1], f"seed {seed}", Cost())

    def bright(candidate: Candidate) -> Verdict:
        return Verdict(float(np.asarray(candidate.value).mean()))

    candidates = [made(seed) for seed in (0, 1, 2)]
    chosen = refine_and_rerank(candidates[0], [lambda draft: candidates[1], lambda draft: candidates[2]], bright)
    assert chosen.chosen == int(np.argmax([bright(candidate).score for candidate in candidates]))


def test_a_resumed_run_is_the_straight_one(editor, image, square, tmp_path):
    options = replace(QUICK, frames=3)
    straight = list(editor.steps(image, PROMPT, square, options))
    checkpoints(tmp_path)(straight[0])
    resume = load_checkpoint(tmp_path, like=straight[0].state)
    rest = list(editor.steps(image, PROMPT, square, options, resume=resume))
    assert len(rest) == 2 and torch.equal(rest[-1].state.images, straight[-1].state.images)
    fixed = list(editor.steps(image, PROMPT, square, replace(options, fixed_noise=True)))
    assert torch.equal(fixed[0].state.images, straight[0].state.images)
    assert not torch.equal(fixed[1].state.images, straight[1].state.images)


def test_a_mask_that_is_nearly_lost_in_the_latents_still_counts():
    image = picture(0, 64, 64)
    mask = PIL.Image.new("L", image.size)
    mask.paste(40, (30, 30, 32, 32))
    editor = DiffusersEditor(pipeline_of("StableDiffusionInpaintPipeline"))
    before, after = (np.asarray(x).astype(int) for x in editor(image, "a cat", mask, replace(QUICK, resolution=64)))
    assert (before != after).any() and (before != after).any(axis=2).sum() <= 4


def test_a_small_region_is_seen_with_what_lies_around_it(editor):
    """All of the change lies in the mask, and none of it reaches the window's border."""
    image, mask = picture(0, 200, 300), PIL.Image.new("L", (300, 200))
    mask.paste(255, (200, 50, 240, 80))
    seen, changed = [], np.asarray(mask) > 0
    for around in (0.0, 2.0):
        options = replace(QUICK, around=around)
        before, after = (np.asarray(x) for x in editor(image, PROMPT, mask, options, observers=[seen.append]))
        assert np.array_equal(before[~changed], after[~changed]) and (before != after)[changed].mean() > 0.5
    whole, part = (step.state.images[0] for step in seen)
    box, size = (180, 35, 260, 95), (part.shape[-1], part.shape[-2])  # twice as wide and high as the mask
    outside = np.asarray(mask.crop(box).resize(size, PIL.Image.Resampling.LANCZOS)) == 0
    crop = np.asarray(image.crop(box).resize(size, PIL.Image.Resampling.LANCZOS)) / 255
    differences = [np.abs(found.permute(1, 2, 0).numpy() - crop)[outside].max() for found in (whole, part)]
    assert differences[0] > 0.1 and differences[1] < 0.01
    with pytest.raises(ValueError, match=r"around must be at least 1 .* got 0\.5"):
        DiffusersOptions(around=0.5)


def test_weights_of_the_prompt_go_by_the_pipelines_names(monkeypatch):
    """Qwen-Image guides by true_cfg_scale, and only where there is a negative prompt."""
    image, editor = picture(0, 64, 64), DiffusersEditor(pipeline_of("QwenImagePipeline"))
    options = DiffusersOptions(steps=2, resolution=32, strength=1.0)
    plain = editor(image, "a cat", options=options)[-1]
    assert plain == editor(image, "a cat", options=replace(options, guidance_scale=4.0))[-1]
    assert plain == editor(image, "a cat", options=replace(options, true_cfg_scale=4.0))[-1]
    assert plain != editor(image, "a cat", options=replace(options, guidance_scale=1.0))[-1]


@pytest.mark.parametrize(
    "name, values, sentence",
    [
        ("FluxKontextPipeline", {"strength": 0.5}, "A FluxKontextPipeline has no strength; leave it out"),
        ("FluxFillPipeline", {"negative_prompt": "rain"}, "has no negative_prompt"),
        ("StableDiffusionImg2ImgPipeline", {"true_cfg_scale": 2.0}, "has no true_cfg_scale"),
        ("StableDiffusionImg2ImgPipeline", {"strength": 0.1}, "strength of 0.1 leaves none of 4 steps"),
        ("StableDiffusionXLPipeline", {"steps": 2}, "strength of 0.3 leaves none of 2 steps"),
        ("StableDiffusionImg2ImgPipeline", {"strength": (0.5, 0.6)}, "strength has 2 entries for 1 frames"),
    ],
)
def test_options_that_a_pipeline_does_not_know_are_refused(name, values, sentence, image):
    with pytest.raises(ValueError, match=sentence):
        DiffusersEditor(pipeline_of(name)).start(image, "a cat", options=replace(QUICK, **values))


def test_impossible_calls(editor, image, square):
    for sentence, arguments in {
        "prompt is needed": (image,),
        "2 prompts for 1 pictures": (image, [[PROMPT, PROMPT]]),
        "one size": ([image, picture(1, 64, 20)], PROMPT),
        "multiples of 8": (torch.rand(1, 3, 36, 32), PROMPT),
        "mask is empty": (image, PROMPT, PIL.Image.new("L", image.size)),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            editor.start(*arguments, **({} if len(arguments) > 3 else {"options": QUICK}))
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        DiffusersOptions(true_cfg_scale=0.5)


def test_results_that_are_none_are_refused(editor, image, monkeypatch):
    checked = monkeypatch.context()
    with checked as patch:
        patch.setattr(editor.pipeline, "run_safety_checker", lambda images, device, dtype: (images, [True]))
        with pytest.raises(ValueError, match="safety checker of this StableDiffusionImg2ImgPipeline refused"):
            editor(image, PROMPT, options=QUICK)
    with torch.no_grad():
        editor.pipeline.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"not finite in torch\.float32; choose float32 or bfloat16"):
        editor(image, PROMPT, options=QUICK)


@pytest.mark.parametrize(
    "index, sentence",
    [
        ({"_class_name": "DDPMPipeline"}, "holds a DDPMPipeline, which does not edit"),
        ({"_class_name": "StableDiffusionControlNetPipeline"}, "which does not edit"),
        ({"_class_name": "MarigoldDepthPipeline"}, "which does not edit"),
        ({"_class_name": ["my_pipeline", "Mine"]}, "names code of its own"),
        ({"_class_name": "MyPipeline"}, "which diffusers .* does not have; no code is loaded"),
        ({"_class_name": "UNet2DModel"}, "names the pipeline 'UNet2DModel'"),
        ({"_class_name": "FluxKontextPipeline"}, "names no scheduler"),
        (
            {"_class_name": "FluxKontextPipeline", "scheduler": ["my", "Code"]},
            "'scheduler' .* is a my.Code; only classes",
        ),
        ({"_class_name": "FluxKontextPipeline", "scheduler": ["diffusers", "logging"]}, "only classes"),
        (
            {"_class_name": "FluxKontextPipeline", "scheduler": [None, "DDIMScheduler"]},
            "is a None.DDIMScheduler; only classes",
        ),
        ({"_class_name": "FluxKontextPipeline", "scheduler": [["diffusers"], {}]}, "only classes"),
    ],
)
def test_folders_that_hold_no_editor_cost_a_sentence(index, sentence, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=sentence):
        load_pipeline(tmp_path)


def test_parts_that_do_not_load_cost_a_sentence(editor, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json; name a folder"):
        load_pipeline(tmp_path)
    editor.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "kept")
    torch.save({}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"only the pickled checkpoint diffusion_pytorch_model\.bin"):
        load_pipeline(tmp_path)
    (tmp_path / "kept").rename(weights)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    (tmp_path / "scheduler").rmdir()
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*scheduler"):
        load_pipeline(tmp_path)
    with pytest.raises(ValueError, match="No pipeline comes with the project"):
        DiffusersEditor.from_pretrained()
    import diffusers

    with pytest.raises(ValueError, match="A DDPMPipeline does not edit"):
        DiffusersEditor(diffusers.DDPMPipeline(None, None))
