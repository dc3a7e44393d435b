"""The editor: batches, schedules, modes, chaining, stopping, resuming, saving, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.vision.edit.conftest import picture
from vision.diffusion.latents import decode_latents
from vision.edit import PIEConfig, PIEEditor, PIEOptions, one_edit
from vision.edit.editor import PROGRESS
from vision.edit.evaluate import PIEEvaluation, stops
from vision.edit.options import at_frame, several
from vision.refine import checkpoints, load_checkpoint

QUICK = PIEOptions(frames=2, steps=4, seed=3)


def frames(editor, image, options=QUICK, *, resume=None, earlier=(), **more):
    run = editor.start(image, options=options, **more)
    with torch.no_grad():
        return editor.simulate(run, resume=resume, earlier=earlier)


def test_a_batch_is_its_pictures_one_by_one(editor, colours):
    images = [picture(i) for i in range(3)]
    batch = frames(editor, images, mask=[colours, picture(7), colours])
    for i, mask in enumerate((colours, picture(7), colours)):
        alone = frames(editor, images[i], replace(QUICK, seed=QUICK.seed + i), mask=mask)
        torch.testing.assert_close(batch.images[:, i], alone.images[:, 0], rtol=0, atol=1.01 / 255)


def test_a_mask_of_ones_with_a_full_step_is_no_mask(editor, image):
    white = PIL.Image.new("RGB", image.size, "white")
    with_mask = frames(editor, image, replace(QUICK, beta_2=1.0), mask=white)
    torch.testing.assert_close(with_mask.images, frames(editor, image).images, rtol=0, atol=1.01 / 255)


def test_nothing_kept_outside_gives_the_decoded_original(editor, image, square):
    run = editor.start(image, mask=square, options=replace(QUICK, beta_1=0.0))
    run = replace(run, mask=torch.zeros_like(run.mask))
    frame = editor.first(run)
    edit = editor.edit(run, frame, 1, frame.generators)
    torch.testing.assert_close(edit.images, decode_latents(editor.vae, edit.beginning.anchor), rtol=0, atol=1e-6)


def test_pixels_outside_stay_exactly_the_same(editor, image, square):
    found = frames(editor, image, replace(QUICK, paste_outside=True), mask=square)
    black = torch.from_numpy(np.array(square)) == 0
    original = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    for frame in found.images[:, 0]:
        assert torch.equal(frame[:, black], original[:, black])
    assert (found.images[-1, 0] != original)[:, ~black].any()
    assert (frames(editor, image, mask=square).images[-1, 0] != original)[:, black].any()


def test_colours_are_held(editor, image, square):
    outside = torch.from_numpy(np.array(square)) == 0
    held, free = (
        frames(editor, image, replace(QUICK, color_lock=lock, chain="pixels"), mask=square).images[:, 0]
        for lock in (True, False)
    )
    wanted = held[0][:, outside].mean(dim=1)
    drifts = [(found[-1][:, outside].mean(dim=1) - wanted).abs().max() for found in (held, free)]
    assert drifts[0] < 0.02 and drifts[0] < drifts[1]


def test_colours_are_held_at_the_own_size_of_a_picture_too(editor, image, square):
    outside = torch.from_numpy(np.array(square)) == 0
    held, free = (
        frames(editor, image, replace(QUICK, color_lock=lock, size="own"), mask=square).differences[-1, 0]
        for lock in (True, False)
    )
    drifts = [found[..., outside].mean(dim=-1).abs().max() for found in (held, free)]
    assert drifts[0] < 0.02 and drifts[0] < drifts[1]


def test_fixed_noise_converges_and_fresh_noise_does_not(editor, image, square):
    options = PIEOptions(frames=8, steps=4, strength=0.5, guidance_scale=1.0, beta_2=0.2, chain="latents")
    changes = {}
    for fixed in (True, False):
        steps = list(editor.steps(image, mask=square, options=replace(options, fixed_noise=fixed)))
        changes[fixed] = [float(step.state.change) for step in steps]
    assert changes[True][-1] < 0.01 * changes[True][0]
    assert changes[False][-1] > 10 * changes[True][-1]


def test_inversion_draws_nothing(editor, image):
    run = editor.start(image, options=replace(QUICK, mode="inversion"))
    first = editor.first(run)
    edits = [editor.edit(run, first, 1, [torch.Generator().manual_seed(seed)]) for seed in (1, 2)]
    assert torch.equal(edits[0].latents, edits[1].latents)


def test_inversion_comes_back_the_better_the_more_steps(editor, image):
    run = editor.start(image, options=replace(QUICK, mode="inversion"))

    def error(steps, predict):
        scheduler, begin = one_edit.prepare(editor.ddim(), steps, 0.6, editor.device)
        beginning = one_edit.inverted(editor.vae, scheduler, begin, run.moments, run.moments, predict)
        back = one_edit.denoise(beginning, predict, scheduler, begin, None, generators=[torch.Generator()])
        moved = (beginning.noisy - beginning.clean).norm()
        return float((back - beginning.clean).norm() / moved)

    assert error(10, lambda latents, at: torch.full_like(latents, 0.3)) < 1e-5
    coarse, fine = (error(steps, lambda latents, at: 0.5 * latents) for steps in (20, 200))
    assert fine < 0.02 and fine < 0.2 * coarse


def test_background_of_an_inversion_rises_to_its_start(editor, image, square):
    options = PIEOptions(frames=1, steps=10, mode="inversion")
    run = editor.start(image, mask=square, options=options)
    frame = editor.first(run)
    beginning = editor.edit(run, frame, 1, frame.generators).beginning
    assert torch.equal(beginning.background(5), beginning.noisy)  # frame 1 starts from the original itself


def test_schedules_are_spread_over_the_frames():
    assert [at_frame("abc", i, 7) for i in range(1, 8)] == ["a", "a", "a", "b", "b", "c", "c"]


def test_a_schedule_of_the_weights_fits_every_number_of_frames():
    config = PIEConfig(frames=10, beta_2=tuple(i / 40 for i in range(1, 11)), strength=0.5)
    for count in range(1, 31):
        options = PIEOptions(frames=count).resolved(config)
        values = [at_frame(several(options.beta_2), n, count) for n in range(1, count + 1)]
        assert values[-1] == 0.25 and values == sorted(set(values)) and options.strength == 0.5
        assert count == 1 or values[0] == 0.025
    assert several(PIEOptions().resolved(config).beta_2) == config.beta_2
    with pytest.raises(ValueError, match="beta_2 has 3 entries for 2 frames"):
        PIEOptions(frames=2, beta_2=(0.1, 0.2, 0.3)).resolved(config)


def test_scheduled_options_change_their_frames_alone(editor, image, square):
    plain = frames(editor, image, replace(QUICK, beta_2=0.2), mask=square)
    late = frames(editor, image, replace(QUICK, beta_2=(0.2, 0.9)), mask=square)
    assert torch.equal(plain.images[1], late.images[1])
    assert not torch.equal(plain.images[2], late.images[2])
    prompts = frames(editor, image, prompt=["a picture,ill", "a picture,healthy"], mask=square)
    once = frames(editor, image, prompt="a picture,ill", mask=square)
    assert torch.equal(prompts.images[1], once.images[1]) and not torch.equal(prompts.images[2], once.images[2])


def test_one_prompt_for_each_picture(editor):
    images = [picture(1), picture(1)]
    found = frames(editor, images, prompt=[["a picture,ill", "a picture,healthy"]])
    alone = frames(editor, images[0], prompt="a picture,ill")
    torch.testing.assert_close(found.images[:, 0], alone.images[:, 0], rtol=0, atol=1.01 / 255)
    assert not torch.equal(found.images[:, 0], found.images[:, 1])


def test_items_that_reach_the_score_stay(editor):
    images = [picture(i) for i in range(3)]
    plain = frames(editor, images, replace(QUICK, frames=3), score=lambda x: x.mean(dim=(1, 2, 3)))
    target = float(plain.scores[1].sort().values[1])
    options = replace(QUICK, frames=3, stop_score=target)
    found = frames(editor, images, options, score=lambda x: x.mean(dim=(1, 2, 3)))
    done = plain.scores[1] >= target
    assert done.sum() == 2
    for i in range(3):
        if done[i]:
            assert torch.equal(found.images[-1, i], found.images[1, i])
        else:
            torch.testing.assert_close(
                found.images[:, i], plain.images[: len(found.images), i], rtol=0, atol=1.01 / 255
            )


def test_items_whose_score_rises_no_more_stay(editor):
    images = [picture(i) for i in range(3)]
    shown = lambda x: 0.5 + x.mean(dim=(1, 2, 3)) / 2  # noqa: E731
    plain = frames(editor, images, replace(QUICK, frames=4), score=shown)
    found = frames(editor, images, replace(QUICK, frames=4, stop="progress"), score=shown)
    gains = plain.scores.diff(dim=0)
    for i in range(3):  # frame 1 has no frame before it that was scored
        before = plain.scores[:, i]
        ends = next((number for number in range(2, 5) if gains[number - 1, i] < PROGRESS * before[number - 1]), 4)
        last = found.images[: ends + 1, i]
        torch.testing.assert_close(last, plain.images[: len(last), i], rtol=0, atol=1.01 / 255)
        assert all(torch.equal(frame, last[-1]) for frame in found.images[ends:, i])
    with pytest.raises(ValueError, match="stop must be end or progress"):
        PIEOptions(stop="soon")


@pytest.mark.parametrize(
    ("chances", "ends"),
    [
        ((0.020, 0.024, 0.030, 0.031), 4),  # small steps at the beginning go on
        ((0.020, 0.500, 0.503, 0.900), 3),
        ((0.020, 0.600, 0.500, 0.900), 3),
        ((0.300, 0.995, 0.999, 1.000), 2),  # there is nothing left to gain
        ((0.020, 0.010, 0.010, 0.600), 4),  # before the condition is there a rest is no end
    ],
)
def test_progress_goes_on_from_small_chances_and_ends_at_large_ones(editor, chances, ends):
    given = iter((0.025, *chances))
    found = frames(
        editor, [picture(0)], replace(QUICK, frames=4, stop="progress"), score=lambda x: next(given) + 0 * x[:, 0, 0, 0]
    )
    assert len(found.images) == ends + 1


def test_where_progress_would_end_is_where_it_ends(editor):
    curves = torch.tensor(
        [
            [0.02, 0.01, 0.01, 0.30, 0.995, 0.999],
            [0.20, 0.60, 0.601, 0.900, 0.99, 1.00],
            [0.02, 0.03, 0.04, 0.05, 0.05, 0.05],
            [0.50, 0.992, 0.999, 1.00, 1.00, 1.00],
        ],
        dtype=torch.float64,
    ).T
    made = [0] * 4
    for item in range(4):
        given = iter(curves[:, item])
        options = replace(QUICK, frames=5, stop="progress")
        found = frames(editor, [picture(item)], options, score=lambda x: next(given).expand(len(x)))  # noqa: B023
        made[item] = len(found.images) - 1
    assert made == [4, 2, 5, 1]
    at_the_end, progress, *fixed = stops(curves)
    assert progress["frames"] == 3 and progress["of all"] == pytest.approx(0.6)
    assert progress["probability"] == pytest.approx((0.995 + 0.601 + 0.05 + 0.992) / 4)
    assert at_the_end["frames"] == 5 and at_the_end["least"] == pytest.approx(0.05)
    assert [row["ends"] for row in fixed] == ["after frame 3"] and fixed[0]["sure"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="leave rules to stop out"):
        PIEEvaluation(Path("runs"), options=PIEOptions(stop="progress"))


def test_pictures_alone_spare_the_classifier(editor, image):
    asked = []

    def score(images):
        asked.append(len(images))
        return images.mean(dim=(1, 2, 3))

    editor.classifier = score
    editor(image, options=QUICK)
    assert not asked
    editor(image, options=replace(QUICK, stop_score=1.0))
    assert asked


def test_a_small_change_ends_the_run(editor, image):
    assert len(frames(editor, image, replace(QUICK, tolerance=1e6)).images) == 2
    assert len(frames(editor, image, replace(QUICK, tolerance=1e-6)).images) == 3


def test_a_resumed_run_is_the_straight_one(editor, image, square, tmp_path):
    options = replace(QUICK, frames=3)
    straight = frames(editor, image, options, mask=square)
    run = editor.start(image, mask=square, options=options)
    kept = [editor.first(run)]
    keep = checkpoints(tmp_path)
    for step in editor.run_steps(run):
        keep(step)
        kept.append(step.state)
        if step.at == 1:
            break
    resume = load_checkpoint(tmp_path, like=kept[0])
    found = frames(editor, image, options, mask=square, resume=resume, earlier=kept)
    assert torch.equal(found.images, straight.images) and torch.equal(found.scores, straight.scores)


def test_trajectories_are_runs_with_seeds_that_follow(editor, image, square):
    found = editor.trajectories(image, count=3, batch_size=2, mask=square, options=QUICK)
    assert found.images.shape[1] == 3 and found.scores.shape[1] == 3
    alone = frames(editor, image, replace(QUICK, seed=QUICK.seed + 2), mask=square)
    torch.testing.assert_close(found.images[:, 2], alone.images[:, 0], rtol=0, atol=1.01 / 255)
    torch.testing.assert_close(found.spread()[0], torch.zeros_like(found.spread()[0]))
    assert found.spread()[-1].mean() > 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB", "1", "LA"])
def test_grey_stays_grey_and_transparency_stays(editor, image, square, mode):
    given = image.convert(mode)
    if "A" in mode:
        given.putalpha(square)
    found = editor(given, mask=square, options=QUICK)
    assert len(found) == 3 and {x.mode for x in found} == {"L" if mode == "1" else mode}
    assert {x.size for x in found} == {(32, 32)}


def test_published_frames_are_those_of_the_networks(editor, image, square):
    big = image.resize((96, 64))
    found = editor(big, mask=square.resize((96, 64)), options=replace(QUICK, size="published"))
    assert {x.size for x in found} == {(32, 32)} and found[0].mode == "RGB"


def test_what_comes_in_comes_out(editor, image):
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    found = editor(tensor, options=QUICK)
    assert found.shape == (3, 1, 3, 32, 32)
    assert editor(tensor[0], options=QUICK).shape == (3, 3, 32, 32)
    pictures = editor([image, image], options=QUICK)
    assert len(pictures) == 2 and np.array_equal(np.array(pictures[0][0]), np.array(image))


def test_a_mask_of_another_size_is_resized_with_a_note(editor, image, square):
    with pytest.warns(UserWarning, match="mask of 64 x 64 pixels is resized to the picture's 32 x 32"):
        editor.start(image, mask=square.resize((64, 64)), options=QUICK)


def test_saved_and_loaded_is_the_same(editor, image, square, tmp_path):
    editor.save_pretrained(tmp_path)
    loaded = PIEEditor.from_pretrained(tmp_path)
    assert loaded.config == editor.config
    wanted, found = (frames(e, image, mask=square) for e in (editor, loaded))
    assert torch.equal(wanted.images, found.images) and torch.equal(wanted.scores, found.scores)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(editor, tmp_path, part):
    import shutil

    editor.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / part)
    with pytest.raises(FileNotFoundError, match=part):
        PIEEditor.from_pretrained(tmp_path)


def test_a_damaged_network_is_named(editor, tmp_path):
    from safetensors.torch import load_file, save_file

    editor.save_pretrained(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"conv_in\.weight"):
        PIEEditor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"strength": 0.0}, r"strength must lie in \(0, 1\], got 0"),
        ({"strength": 1.5}, "got 1.5"),
        ({"beta_2": -0.1}, "beta_2 must lie"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"eta": 2.0}, "eta must lie"),
        ({"mode": "other"}, "mode must be"),
        ({"chain": "other"}, "chain must be"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"tries": 4}, "tries are made with a look-ahead"),
    ],
)
def test_impossible_options(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        PIEOptions(**values)


def test_impossible_calls(editor, image, square, pndm):
    def refuse(sentence, *arguments, **more):
        with pytest.raises(ValueError, match=sentence):
            editor.start(*arguments, **{"options": QUICK, **more})

    refuse("empty", image, mask=PIL.Image.new("L", image.size))
    refuse("mean nothing to these weights; they know: [a-z]", image, "a purple picture")
    refuse("schedule|entries for 2 frames", image, ["a picture,ill"] * 3)
    refuse("2 masks for 1 pictures", image, mask=[square, square])
    refuse("one size", [picture(0), picture(1, 32, 64)], options=replace(QUICK, resolution=0))
    refuse("multiples of 4", torch.rand(1, 3, 30, 32))
    refuse("not both", image, "a picture,ill", embeds=torch.zeros(1, 8, 16))
    refuse("got the empty ''", image, ["a picture,ill", ""])
    refuse("leaves none of 4 steps", image, options=replace(QUICK, strength=0.1))
    editor.scheduler = pndm
    refuse("takes no eta", image, options=replace(QUICK, eta=0.5))
    editor.classifier = None
    refuse("needs a classifier", image, options=replace(QUICK, stop_score=0.5))
    editor.config = replace(editor.config, prompt="")
    refuse("prompt is needed", image)
