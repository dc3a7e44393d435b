"""PIE against the published pipeline class: every tensor of every call, preprocessing, schedules, labels, AUC training.

Every configuration is read from the JSON files, so that another folder of the same schema runs unchanged: other
schedulers, prediction types, scaling factors, sizes, eta, given embeddings. Calls are teacher-forced: each starts from
the recorded 8-bit picture of the call before, while one generator runs through all of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conftest import golden_root
from vision.diffusion.backbone import load_scheduler, token_ids
from vision.edit import PIEEditor, PIEOptions, labels
from vision.edit.auc import PESG, AUCMarginLoss
from vision.edit.confidence import classifier_grey, imagenet, to_grey
from vision.edit.masks import to_latents
from vision.edit.one_edit import first_step, prepare
from vision.edit.pictures import floor_sides, resize_and_cut
from vision.images import to_uint8

ROOT = golden_root() / "pie"
RELATIVE = 1e-4  # of a tensor's largest value: float32 sums in another order, over up to fifty steps
FLOAT_IMAGE = 2e-4

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference tensors of PIE")


@cache
def index() -> dict[str, Any]:
    return json.loads((ROOT / "index.json").read_text()) if ROOT.is_dir() else {"cases": {}}


@cache
def tensors(file: str) -> dict[str, Tensor]:
    return load_file(ROOT / file)


@cache
def components(name: str) -> PIEEditor:
    return PIEEditor.from_pretrained(ROOT / name)


def close(actual: Tensor, expected: Tensor, relative: float = RELATIVE) -> None:
    assert actual.shape == expected.shape
    worst = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    assert worst <= relative, f"relative error {worst:.2g}"


def picture(array: Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray(array.numpy())


def editor_of(settings: dict[str, Any]) -> PIEEditor:
    """The editor of a case, with its scheduler: that of the folder, or another one beside it."""
    editor = components(settings["components"])
    folder = ROOT / settings["components"]
    name = settings["scheduler"]
    own = folder / f"scheduler_{name}"
    return PIEEditor(
        editor.unet,
        editor.vae,
        editor.text,
        load_scheduler(own if own.is_dir() else folder / "scheduler"),
        editor.config,
    )


def case_of(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    case = index()["cases"][name]
    return case["settings"], tensors(case["file"])


def started(name: str) -> tuple[PIEEditor, Any]:
    """The editor and run of a case."""
    settings, stored = case_of(name)
    editor = editor_of(settings)
    options = PIEOptions(
        frames=settings["n_steps"],
        strength=settings["strength"],
        steps=settings["num_inference_steps"],
        beta_1=settings["beta_1"],
        beta_2=settings["beta_2"],
        guidance_scale=settings["guidance_scale"],
        negative_prompt=settings.get("negative_prompt") or "",
        eta=settings.get("eta", 0.0),
        seed=settings["seed"],
        resolution=0,
    )
    given: dict[str, Any] = {"prompt": settings["prompt"]}
    if settings.get("use_embeds"):
        embeds = stored["text.prompt_embeds"]
        given = {"prompt": None, "embeds": embeds[-1:]}
        if len(embeds) == 2:
            given["negative_embeds"] = embeds[:1]
    mask = picture(stored["input.mask_u8"]) if "input.mask_u8" in stored else None
    return editor, editor.start(
        picture(stored["input.image_u8"]), given.pop("prompt"), mask=mask, options=options, **given
    )


class Recorder:
    """What the UNet gets and gives, and what each step of a loop leaves."""

    def __init__(self, editor: PIEEditor):
        self.given: list[Tensor] = []
        self.found: list[Tensor] = []
        self.timesteps: list[int] = []
        self.latents: list[Tensor] = []
        self.hook = editor.unet.register_forward_hook(self.hear)

    def hear(self, module, inputs, output):
        self.given.append(inputs[0].clone())
        self.timesteps.append(int(inputs[1]))
        self.found.append(output[0].clone())

    def __call__(self, step):
        self.latents.append(step.candidate.latents)


DRAWS = ("posterior_image", "noise_image", "posterior_init_a", "noise_init_unused", "posterior_init_b", "noise_inter")


@pytest.mark.parametrize("name", list(index()["cases"]))
@torch.no_grad()
def test_calls(name):
    settings, stored = case_of(name)
    editor, run = started(name)
    close(2 * run.original - 1, stored["input.image_tensor"], 0)
    if run.mask is not None:
        assert torch.equal(run.mask, stored["input.mask_latent"])
    texts = [run.texts[0]] if settings["guidance_scale"] <= 1 else [run.negative, run.texts[0]]
    close(torch.cat(texts), stored["text.prompt_embeds"])

    frame = editor.first(run)
    generators = frame.generators
    for number in range(1, settings["n_steps"] + 1):
        call, state = f"call{number}", generators[0].get_state()
        recorder = Recorder(editor)
        edit = editor.edit(run, replace(frame, generators=generators), number, generators, [recorder])
        recorder.hook.remove()

        after, shape = generators[0].get_state(), run.moments.mean.shape
        generators[0].set_state(state)
        for draw in DRAWS:
            assert torch.equal(torch.randn(shape, generator=generators[0]), stored[f"{call}.draw.{draw}"]), draw
        for noise in stored.get(f"{call}.draw.eta_noise", ()):
            assert torch.equal(torch.randn(shape, generator=generators[0]), noise)
        assert torch.equal(generators[0].get_state(), after), "other numbers were drawn than by the published code"

        moments = run.moments if number == 1 else editor.moments(frame.images)
        close(moments.mean, stored[f"{call}.enc_image.mean"])
        close(moments.std, stored[f"{call}.enc_image.std"])
        if number == 1:
            close(run.moments.mean, stored["call1.enc_init.mean"])
            close(run.moments.std, stored["call1.enc_init.std"])
        close(edit.beginning.clean, stored[f"{call}.latents_clean"])
        close(edit.beginning.noisy, stored[f"{call}.latents_noisy"])
        close(edit.beginning.anchor, stored[f"{call}.init_latents"])
        assert recorder.timesteps == stored[f"{call}.timesteps"].tolist()

        total = len(recorder.timesteps)
        begin = first_step(editor.scheduler, settings["num_inference_steps"], settings["strength"])
        behind = stored[f"{call}.inter_latents"]
        places = range(total) if len(behind) == total else (0, total - 1)
        close(torch.cat([edit.beginning.background(begin + i) for i in places]), behind)
        for key, found in (
            ("unet_in", recorder.given),
            ("unet_out", recorder.found),
            ("latents_after_step", recorder.latents),
        ):
            if f"{call}.{key}" in stored:
                close(torch.stack(found), stored[f"{call}.{key}"])
        close(edit.denoised, stored[f"{call}.latents_denoised"])
        close(edit.latents, stored[f"{call}.latents_final"])
        shown = edit.images.permute(0, 2, 3, 1)
        assert (shown - stored[f"{call}.image_float"]).abs().max() <= FLOAT_IMAGE
        eight = to_uint8(shown)[0].int() - stored[f"{call}.image_u8"].int()
        assert eight.abs().max() <= 1

        frame = replace(frame, images=stored[f"{call}.image_u8"].permute(2, 0, 1)[None].float() / 255)


@pytest.mark.parametrize("name", [name for name, case in index()["cases"].items() if case["settings"].get("prompt")])
def test_token_ids(name):
    settings, stored = case_of(name)
    tokenizer = editor_of(settings).text.tokenizers[0]
    texts = [settings["prompt"], settings.get("negative_prompt") or ""]
    assert torch.equal(token_ids(tokenizer, texts, truncate=True), stored["text.input_ids"])


def test_frames_are_chained_in_8_bit():
    """A whole run: every frame is the edit of the one before it, and a run gives what its edits give."""
    for name in index()["cases"]:
        editor, run = started(name)
        steps = list(editor.run_steps(replace(run, options=replace(run.options, frames=2))))
        frame = editor.first(run)
        for step in steps:
            frame = editor.next(run, frame, step.at)
            assert torch.equal(frame.images, step.state.images)
            assert torch.equal(frame.images, to_uint8(frame.images).float() / 255)


def preprocess_cases() -> list[int]:
    return list(range(len(index()["preprocess"]["resolution_R_per_case"]))) if ROOT.is_dir() else []


@pytest.mark.parametrize("number", preprocess_cases())
def test_preprocessing(number):
    told = index()["preprocess"]
    stored = {
        key.split(".", 1)[1]: value for key, value in tensors(told["file"]).items() if key.startswith(f"case{number}.")
    }
    image, mask = picture(stored["image_u8"]), picture(stored["mask_u8"])
    assert torch.equal(2 * floor_sides(image, 8) - 1, stored["image_tensor"])
    assert torch.equal(to_latents(mask, 8), stored["mask_latent"])
    resolution, size = told["resolution_R_per_case"][number], told["confidence_size_S_per_case"][number]
    for key, shown in (("cli_image_u8", image), ("cli_mask_u8", mask)):
        assert np.array_equal(np.asarray(resize_and_cut(shown, resolution)), stored[key].numpy())
    colours = stored["image_u8"].permute(2, 0, 1)[None]
    assert torch.equal(to_grey(colours)[0, 0], stored["gray_u8"])
    seen = imagenet(classifier_grey(colours.float() / 255, size))
    level = 1 / 255 / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert ((seen - stored["confidence_input"]).abs() <= 1.001 * level).all()


def schedules() -> list[dict[str, Any]]:
    return json.loads((ROOT / index()["schedule"]["file"]).read_text()) if ROOT.is_dir() else []


@pytest.mark.parametrize(
    "told", schedules(), ids=lambda t: f"{t['scheduler']}-{t['num_inference_steps']}-{t['strength']}"
)
def test_schedules(told):
    folder = ROOT / next(iter(index()["components"]))
    own = folder / f"scheduler_{told['scheduler']}"
    scheduler = load_scheduler(own if own.is_dir() else folder / "scheduler")
    steps, strength = told["num_inference_steps"], told["strength"]
    assert steps - first_step(scheduler, steps, strength) // scheduler.order == told["n_effective"]
    if not told["timesteps"]:
        with pytest.raises(ValueError, match="leaves none of"):
            prepare(scheduler, steps, strength, torch.device("cpu"))
        return
    found, begin = prepare(scheduler, steps, strength, torch.device("cpu"))
    assert found.timesteps[begin:].tolist() == told["timesteps"]
    assert math.isclose(found.alphas_cumprod[told["timesteps"][0]], told["alphas_cumprod_first"], rel_tol=1e-6)


def told_labels() -> dict[str, Any]:
    return json.loads((ROOT / index()["label_prompts"]["file"]).read_text())


def test_labels_of_chest_pictures():
    told = told_labels()["chexpert"]
    assert list(labels.PATHOLOGIES) == told["pathologies_order"]
    found = labels.chexpert(told["train_csv"])
    assert [(row.path, row.prompt) for row in found] == [(row["path"], row["prompt"]) for row in told["rows"]]
    for row, expected in zip(found, told["rows"], strict=True):
        assert [None if math.isnan(x) else x for x in row.target] == expected["target"]
    if "n_rows_views_PA_only" in told:
        assert len(labels.chexpert(told["train_csv"], views=("PA",))) == told["n_rows_views_PA_only"]


def test_labels_of_eyes_and_skin():
    told = told_labels()
    eyes = labels.retinopathy(told["retinopathy"]["trainLabels_csv"])
    assert [row.prompt for row in eyes] == told["retinopathy"]["prompts"]
    assert [row.target[0] for row in eyes] == told["retinopathy"]["targets"]
    skin = labels.skin(told["isic"]["HAM10000_metadata_csv"])
    assert [row.prompt for row in skin] == told["isic"]["prompts"]
    assert [row.path for row in skin] == [path.split("/")[-1] for path in told["isic"]["paths"]]


def test_auc_margin_training():
    told, stored = index()["aucm_pesg"]["settings"], tensors(index()["aucm_pesg"]["file"])
    layer = torch.nn.Linear(stored["x"].shape[2], 1)
    layer.load_state_dict({"weight": stored["init.weight"], "bias": stored["init.bias"]})
    loss = AUCMarginLoss(told["margin"])
    optimizer = PESG(
        layer.parameters(),
        loss,
        learning_rate=told["lr"],
        epoch_decay=told["epoch_decay"],
        weight_decay=told["weight_decay"],
        reference=[stored[f"init.model_ref.{i}"] for i in range(4)],
    )
    for i, (x, y) in enumerate(zip(stored["x"], stored["y"], strict=True)):
        if i == told["update_regularizer_before_step_index"]:
            optimizer.reset(told["decay_factor"])
        optimizer.zero_grad()
        value = loss(torch.sigmoid(layer(x)), y)
        value.backward()
        close(value.detach()[None], stored["loss"][i : i + 1], 1e-5)
        close(layer.weight.grad, stored["grad_weight"][i], 1e-5)
        optimizer.step()
        state = {"weight": layer.weight, "bias": layer.bias, "a": loss.a, "b": loss.b, "alpha": loss.alpha}
        for key, tensor in state.items():
            close(tensor.detach(), stored[f"{key}_after"][i], 1e-5)
    for i, reference in enumerate(optimizer.reference):
        close(reference, stored[f"final.model_ref.{i}"], 1e-5)
