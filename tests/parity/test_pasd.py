"""PASD against the published classes: networks, pipelines and one training step.

Every configuration (widths, heads, depths, sizes, options, seeds, case names) is read from the JSON files, so that
another folder of the same schema runs unchanged. Tolerances are absolute in float32; the reason stands beside each.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.options import COLORIZE, PASDConfig, PASDOptions
from restoration.pasd.prompts import Describer, full_prompt
from restoration.pasd.restorer import PUBLISHED, PASDRestorer
from restoration.pasd.train import pasd_losses
from restoration.pasd.unet import PASDUNet, is_trained
from tests.parity.pasd import FORWARD, HALF, ROOT, cases, checkpoint_of, close, facts, kinds, nets, picture, tensors
from vision.diffusion.backbone import Text, TextEncoders, load_scheduler
from vision.diffusion.latents import posterior
from vision.images import to_uint8

PIPELINE = 1e-5  # first latents
PREDICTED = 5e-6  # root mean square; the small networks barely see the picture, so this must be tight
LATENTS = 1e-3  # relative: the small networks do not denoise, so latents grow to a standard deviation of 16

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference tensors of PASD")


def forward_cases() -> list[tuple[str, str]]:
    return [(kind, case) for kind in kinds() for case in cases(kind)]


class Listener:
    """Outputs of sub-modules during a call."""

    def __init__(self, module: torch.nn.Module, names: list[str]):
        self.heard: dict[str, Tensor] = {}
        self.hooks = [module.get_submodule(name).register_forward_hook(self.hook(name)) for name in names]

    def hook(self, name: str):
        def listen(module, inputs, output):
            self.heard[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return listen

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("kind, case", forward_cases())
@torch.no_grad()
def test_networks(kind, case):
    told, stored = facts(kind)["cases"][case], tensors(kind)
    unet, controlnet = nets(facts(kind)["checkpoint"])
    given = {key.removeprefix(f"{case}.in."): stored[key].float() for key in stored if key.startswith(f"{case}.in.")}
    timestep = torch.tensor(told["timestep"])
    if told["timestep_form"].startswith("1-D"):
        timestep = timestep.expand(told["batch"])
    added = {key: given[key] for key in ("text_embeds", "time_ids") if key in given} or None
    text = given["encoder_hidden_states"]
    arguments = (given["sample"], timestep, text, given["controlnet_cond"])
    options = {"conditioning_scale": told["conditioning_scale"], "guess_mode": told["guess_mode"]}
    rgbs, down, mid = controlnet(*arguments, added_cond_kwargs=added, **options)
    for i, rgb in enumerate(rgbs):
        close(rgb, stored[f"{case}.rgb.{i}"], FORWARD)
    for i, residual in enumerate(down):
        close(residual, stored[f"{case}.down.{i}"], FORWARD)
    assert f"{case}.down.{len(down)}" not in stored
    close(mid, stored[f"{case}.mid"], FORWARD)

    inner = [name.removeprefix(f"{case}.unet.") for name in stored if name.startswith(f"{case}.unet.")]
    with Listener(unet, inner) as listener:
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        noise = unet(given["sample"], timestep, text, added_cond_kwargs=added, **residuals).sample
    for name in inner:
        close(listener.heard[name], stored[f"{case}.unet.{name}"], FORWARD)
    close(noise, stored[f"{case}.noise_pred"], FORWARD)

    if told["fg_mask"]:
        _, down, mid = controlnet(*arguments, fg_mask=stored[f"{case}.fg.mask"], added_cond_kwargs=added, **options)
        for i, residual in enumerate(down):
            close(residual, stored[f"{case}.fg.down.{i}"], FORWARD)
        close(mid, stored[f"{case}.fg.mid"], FORWARD)


MANIFESTS = {  # file, class, variant or options, config in manifest_configs.json
    "manifest_unet_pasd": (PASDUNet, {"variant": "full"}, "unet"),
    "manifest_unet_pasd_light": (PASDUNet, {"variant": "light"}, "unet"),
    "manifest_controlnet_pasd": (PASDControlNet, {}, "controlnet"),
    "manifest_controlnet_pasd_rrdb_extra": (PASDControlNet, {"use_rrdb": True}, "controlnet"),
}


@pytest.mark.parametrize("name", [name for name in MANIFESTS if (ROOT / f"{name}.json").exists()])
def test_published_weights_would_load(name):
    import inspect

    cls, options, part = MANIFESTS[name]
    known = inspect.signature(cls.__mro__[1].__init__).parameters
    config = {key: value for key, value in facts("manifest_configs")[part].items() if key in known}
    with torch.device("meta"):
        net = cls(**options, **config)
    mine = {key: list(value.shape) for key, value in net.state_dict().items()}
    expected = dict(facts(name)["keys"])
    if name.endswith("_extra"):
        expected |= facts("manifest_controlnet_pasd")["keys"]
    assert mine == expected


@cache
def restorer_of(model: str, colorize: bool = False) -> PASDRestorer:
    from diffusers import AutoencoderKL

    unet, controlnet = nets(checkpoint_of(model))
    vae = AutoencoderKL.from_pretrained(ROOT / "tiny_vae").eval()
    scheduler = load_scheduler(ROOT / "scheduler", "UniPCMultistepScheduler")
    config = COLORIZE if colorize else PASDConfig()
    return PASDRestorer(unet, controlnet, vae, TextEncoders((), ()), scheduler, config)


def options_of(told: dict[str, Any], **more: Any) -> PASDOptions:
    """The options that a case's arguments of the published code stand for."""
    given = told["args"]
    named = {
        "steps": given["num_inference_steps"],
        "guidance_scale": given.get("guidance_scale", told.get("guidance_scale")),
        "conditioning_scale": given.get("conditioning_scale", told.get("conditioning_scale")),
        "guess_mode": told.get("guess_mode", False),
        "start": "noise" if given["init_latent_with_noise"] else "image",
        "start_level": given["added_noise_level"],
        "tile": given["latent_tiled_size"],
        "tile_overlap": given["latent_tiled_overlap"],
        "vae_tile": 0,
    }
    return PASDOptions(**(PUBLISHED | named | more))


def pixels(image: Tensor) -> Tensor:
    return to_uint8(image)[0].permute(1, 2, 0)


def nearly(actual: Tensor, expected: Tensor, most: int = 1) -> None:
    assert actual.shape == expected.shape
    assert int((actual.int() - expected.int()).abs().max()) <= most


def recorded(stored: dict[str, Tensor], case: str) -> Any:
    drawn = iter(
        [stored[f"{case}.noise_{name}"] for name in ("posterior", "1", "2") if f"{case}.noise_{name}" in stored]
    )
    return lambda shape: next(drawn)


@pytest.mark.parametrize("case", cases("pipeline"))
@torch.no_grad()
def test_pipeline(case):
    told, stored = facts("pipeline")["cases"][case], tensors("pipeline")
    restorer, options = restorer_of(told["model"]), options_of(told)
    image = picture(stored.get(f"{case}.image_in_u8", stored["image_u8"]))
    negative = f"{case}.negative_prompt_embeds"
    text = Text(stored[f"{case}.prompt_embeds"]), Text(stored[negative]) if negative in stored else None
    run = restorer.start(
        image,
        options,
        text=text,
        noise=recorded(stored, case),
        latents=stored.get(f"{case}.given_latents"),
        prepared=True,
    )
    assert run.scheduler.timesteps.tolist() == told["timesteps"]
    torch.testing.assert_close(run.scheduler.sigmas, torch.tensor(told["sigmas"]), rtol=1e-6, atol=1e-6)
    close(run.latents, stored[f"{case}.init_latents"], PIPELINE)

    tiles: list[Tensor] = []
    hook = restorer.unet.register_forward_hook(lambda module, inputs, output: tiles.append(output[0]))
    steps = list(restorer.run_steps(run))
    hook.remove()
    for step, noise, latents in zip(steps, stored[f"{case}.noise_pred"], stored[f"{case}.latents"], strict=True):
        close(step.state.noise_pred, noise, FORWARD)
        off = (step.state.noise_pred - noise).square().mean().sqrt()
        assert off < (PREDICTED if noise.dtype == torch.float32 else HALF)
        torch.testing.assert_close(step.state.latents, latents, rtol=LATENTS, atol=LATENTS)
    if f"{case}.step0_tile_outputs" in stored:
        expected = stored[f"{case}.step0_tile_outputs"]
        close(torch.stack(tiles[: len(expected)]), expected, FORWARD)
        assert len(tiles) == len(expected) * len(steps)

    decoded = restorer.decode(steps[-1].state, options)
    if f"{case}.image" in stored:
        close(decoded[0].permute(1, 2, 0), stored[f"{case}.image"], HALF)
    nearly(pixels(decoded), stored[f"{case}.image_u8"])
    if f"{case}.wavelet_u8" in stored:
        nearly(pixels(restorer.finish(run, decoded)), stored[f"{case}.wavelet_u8"], most=2)


@pytest.mark.skipif(not (ROOT / "pipeline.json").exists(), reason="no pipeline tensors")
def test_posterior():
    stored = tensors("pipeline")
    vae = restorer_of(next(iter(facts("pipeline")["cases"].values()))["model"]).vae
    mean, logvar = posterior(vae, picture(stored["image_u8"]))
    close(mean, stored["vae.mean"], FORWARD)
    close(logvar, stored["vae.logvar"], FORWARD)


@pytest.mark.parametrize("case", cases("cli"))
@torch.no_grad()
def test_command_line(case):
    told, stored = facts("cli")["cases"][case], tensors("cli")
    given = told["args"]
    colorize = given["control_type"] == "grayscale"
    restorer = restorer_of("light" if given.get("use_pasd_light") else "std", colorize)
    more = {} if colorize else {"scale": given["upscale"]}
    options = options_of(
        told,
        prompt=given["prompt"],
        added_prompt=given["added_prompt"],
        process_size=given["process_size"],
        **more,
    )
    image = picture(stored[f"{case}.input_u8"])

    resolved = options.resolved(restorer.config)
    prompt = full_prompt(Describer("none")(None, given["prompt"]), resolved.added_prompt, colorize)
    assert prompt == told["call"]["prompt"]
    assert (resolved.negative_prompt if colorize else given["negative_prompt"]) == told["call"]["negative_prompt"]

    texts = [stored[f"{case}.{name}"] if f"{case}.{name}" in stored else stored[name] for name in TEXTS]
    run = restorer.start(image, options, text=tuple(map(Text, texts)), noise=recorded(stored, case))
    assert list(run.sizes.processed) == told["processed_size_wh"]
    assert torch.equal(pixels(run.image), stored[f"{case}.processed_u8"])
    assert list(reversed(restorer.output_size(*image.shape[-2:], options))) == told["output_size_wh"]

    last = list(restorer.run_steps(run))[-1]
    decoded = restorer.decode(last.state, options)
    nearly(pixels(decoded), stored[f"{case}.pipeline_u8"])
    # From the recorded result on, so that no rounding of the networks is passed on.
    finished = restorer.finish(run, picture(stored[f"{case}.pipeline_u8"]))
    nearly(pixels(finished), stored[f"{case}.output_u8"], most=2 if colorize else 1)


TEXTS = ("prompt_embeds", "negative_prompt_embeds")


def trained_nets(told: dict[str, Any]) -> tuple[PASDUNet, PASDControlNet]:
    """The networks with as many tensors to train as a case has."""
    every = [nets(facts(kind)["checkpoint"]) for kind in kinds()]
    counts = [len(dict(unet.trained_parameters())) for unet, _ in every]
    return every[counts.index(told["trainable_unet_tensors"])]


@pytest.mark.parametrize("case", cases("train_step"))
def test_training_step(case):
    from diffusers import DDPMScheduler

    told, prefix = facts("train_step")["cases"][case], f"{case}."
    stored = {key.removeprefix(prefix): value for key, value in tensors("train_step").items() if key.startswith(prefix)}
    unet, controlnet = copy.deepcopy(trained_nets(told))
    scheduler = DDPMScheduler.from_config(json.loads((ROOT / "scheduler" / "scheduler_config.json").read_text()))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(is_trained(name))
    trained = dict(unet.trained_parameters())
    assert len(trained) == told["trainable_unet_tensors"]
    assert sum(parameter.numel() for parameter in trained.values()) == told["trainable_unet_params"]
    assert sum(parameter.numel() for parameter in controlnet.parameters()) == told["controlnet_params"]

    noisy = scheduler.add_noise(stored["latents"], stored["noise"], stored["timesteps"])
    close(noisy, stored["noisy_latents"], 1e-6)
    losses = pasd_losses(
        unet,
        controlnet,
        scheduler,
        latents=stored["latents"],
        noise=stored["noise"],
        timesteps=stored["timesteps"],
        text=stored["encoder_hidden_states"],
        cond=stored["cond"].float(),
        target=stored["pixel_values"].float(),
        colorize=bool(told["colorful"]),
    )
    close(losses.prediction.detach(), stored["pred"], FORWARD)
    assert losses.noise.item() == pytest.approx(told["mse"], abs=1e-5)
    assert [loss.item() for loss in losses.pictures] == pytest.approx(told["l1"], abs=1e-5)
    for said in told["colorful"]:
        assert losses.color.item() == pytest.approx(said, abs=1e-4)
    loss = losses.total(1e-3 * len(told["colorful"]))  # the published code adds it once for each of the pictures
    assert loss.item() == pytest.approx(told["loss"], abs=1e-5)

    loss.backward()
    parameters = {"unet": dict(unet.named_parameters()), "controlnet": dict(controlnet.named_parameters())}
    gradients = {key: value for key, value in stored.items() if key.startswith("grad.")}
    rounding = 1e-8 * max((float(gradient.abs().max()) for gradient in gradients.values()), default=0.0)
    for key, gradient in gradients.items():  # some are 0 but for rounding
        net, name = key.removeprefix("grad.").split(".", 1)
        close(parameters[net][name].grad, gradient, max(1e-4 * float(gradient.abs().max()), rounding))
    every = [p.grad for net in parameters.values() for p in net.values() if p.grad is not None]
    assert float(torch.stack([g.norm() for g in every]).norm()) == pytest.approx(told["grad_norm_all"], rel=1e-4)
