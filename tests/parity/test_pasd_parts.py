"""PASD against the published code beside its networks: sizes, prompts, noise, tiles, the VAE, colours and LoRAs."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration.pasd import sizes
from restoration.pasd.controlnet import DegradationRemoval
from restoration.pasd.options import PASDConfig
from restoration.pasd.prompts import Describer, full_prompt, prompt_with_caption
from restoration.pasd.style import merge_lora
from tests.parity.pasd import FORWARD, ROOT, cases, checkpoint_of, close, facts, nets, picture, tensors
from vision.diffusion.denoise import set_steps
from vision.diffusion.latents import add_noise, decode_latents, posterior, signal_and_noise, vae_tiles
from vision.diffusion.tiling import GaussianTiles
from vision.images import blur, match_color, split_frequencies, to_uint8

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference tensors of PASD")


def encoder_cases() -> list[str]:
    return sorted({key.split(".state.")[0] for key in tensors("misc") if ".state.conv_in." in key})


@pytest.mark.parametrize("case", encoder_cases() if (ROOT / "misc.safetensors").exists() else [])
@torch.no_grad()
def test_image_encoder(case):
    stored = tensors("misc")
    prefix = f"{case}.state."
    state = {key.removeprefix(prefix): value.float() for key, value in stored.items() if key.startswith(prefix)}
    widths = [state["conv_in.weight"].shape[0]]
    widths += [state[f"blocks.{i}.weight"].shape[0] for i in range(1, 99, 2) if f"blocks.{i}.weight" in state]
    heads, dense = (any(key.startswith(part) for key in state) for part in ("to_rgbs", "preprocesser"))
    encoder = DegradationRemoval(state["conv_out.weight"].shape[0], 3, widths, heads, dense)
    encoder.load_state_dict(state)
    given = [key for key in stored if key.endswith(".in")]  # the encoders may share their picture
    image = stored[f"{case}.in" if f"{case}.in" in given else given[0]]
    embedding, rgbs = encoder(image.float())
    close(embedding, stored[f"{case}.embedding"], FORWARD)
    assert (rgbs is not None) == heads
    for i, rgb in enumerate(rgbs or []):
        close(rgb, stored[f"{case}.rgb.{i}"], FORWARD)


@pytest.mark.skipif(not (ROOT / "sizes.json").exists(), reason="no sizes")
def test_sizes():
    for row in facts("sizes"):
        width, height = row["input_wh"]
        output = (width * row["upscale"], height * row["upscale"])
        planned = sizes.plan(width, height, output, row["process_size"])
        assert list(planned.resized) == row["after_resize_wh"]
        assert list(planned.processed) == row["pipeline_wh"]
        assert list(planned.output) == row["output_wh"]


def recogniser(row: dict[str, Any]) -> tuple[str, Any]:
    """What the published stub recognisers say: (kind, function of the picture)."""
    seen, kind = row["high_level"], row["args"]["high_level_info"]
    if kind == "classification":
        from torchvision.models import ResNet50_Weights

        first = ResNet50_Weights.DEFAULT.meta["categories"][0]  # gets the rest of the probability
        chances = [(seen["class_name"], seen["score"]), (first, 1 - seen["score"])]
        return "classes", lambda picture: chances
    if kind == "detection":
        return "objects", lambda picture: [seen["names"][str(i)] for i in seen["class_ids"]]
    return "caption", lambda picture: seen["decoded"]


@pytest.mark.parametrize("number", range(len(facts("prompts")["rows"]) if (ROOT / "prompts.json").exists() else 0))
def test_prompts(number):
    row = facts("prompts")["rows"][number]
    if row["args"]["high_level_info"] is None:
        prompt = Describer("none")(None, row["args"]["prompt"])
    elif row["args"]["use_blip"]:
        prompt = prompt_with_caption(row["args"]["prompt"], row["high_level"]["blip_caption"], ", ")
    else:
        prompt = Describer(*recogniser(row))(None, row["args"]["prompt"])
    assert prompt == row["prompt"]
    if "added_prompt" in row["args"]:
        assert full_prompt(prompt, row["args"]["added_prompt"]) == row["full_prompt"]
    else:
        assert full_prompt(prompt, PASDConfig().added_prompt) == row["full_prompt"]


@pytest.mark.parametrize("count", [count for count in cases("scheduler_table", "table") if count.isdigit()])
def test_noise_schedule(count):
    from diffusers import UniPCMultistepScheduler

    told = facts("scheduler_table")["table"][count]
    scheduler = set_steps(UniPCMultistepScheduler.from_config(facts("scheduler_table")["config"]), int(count))
    assert scheduler.timesteps.tolist() == told["timesteps"]
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(told["sigmas"]), rtol=1e-6, atol=1e-6)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for level, said in told["add_noise"].items():
        signal = add_noise(scheduler, one, zero, int(level), "published").item()
        noise = add_noise(scheduler, zero, one, int(level), "published").item()
        assert (signal, noise) == pytest.approx((said["signal"], said["noise"]), abs=1e-6)
        exact = signal_and_noise(scheduler, told["timesteps"][said["index"]])
        assert exact == pytest.approx((said["signal"], said["noise"]), abs=1e-5)
    for level, kept in facts("scheduler_table")["table"]["alphas_cumprod"].items():
        assert float(scheduler.alphas_cumprod[int(level)]) == pytest.approx(float(kept), rel=1e-6)


@pytest.mark.parametrize("number", range(len(facts("tiles")["latent"]) if (ROOT / "tiles.json").exists() else 0))
def test_tiles(number):
    row = facts("tiles")["latent"][number]
    height, width, size, overlap = (row[key] for key in ("latent_h", "latent_w", "tile", "overlap"))
    tiles = GaussianTiles(size, overlap)
    boxes = tiles.boxes(height, width)
    assert [[b.left, b.top, b.right - b.left, b.bottom - b.top] for b in boxes] == row["tile_xywh"]
    assert (len(boxes) > 1) == row["tiled"]
    number = iter(range(1, len(boxes) + 1))
    blended = tiles.run(lambda part: torch.full_like(part, next(number)), torch.zeros(1, 1, height, width))
    expected = tensors("tiles")[f"stitch.{height}x{width}_t{size}_o{overlap}"]
    close(blended[0, 0], expected, 1e-5)


@pytest.mark.parametrize(
    "name", [key for key in tensors("tiles") if key.startswith("weights.")] if (ROOT / "tiles.json").exists() else []
)
def test_tile_weights(name):
    expected = tensors("tiles")[name]
    torch.testing.assert_close(GaussianTiles.weights(len(expected)), expected, rtol=1e-12, atol=0)


@pytest.mark.skipif(not (ROOT / "tiled_vae.json").exists(), reason="no tensors of the tiled VAE")
@torch.no_grad()
def test_vae():
    """Whole results to parity; tiled ones come closer to them than the published tiling does."""
    from diffusers import AutoencoderKL

    told, stored = facts("tiled_vae"), tensors("tiled_vae")
    vae = AutoencoderKL.from_pretrained(ROOT / "tiny_vae").eval()
    vae.post_quant_conv = vae.quant_conv = None  # the reference calls encoder and decoder alone
    z, x = stored["z"] * vae.config.scaling_factor, (stored["x"].float() + 1) / 2

    def decoded(tiles: Any) -> Tensor:
        return decode_latents(vae, z, tiles)[..., ::4, ::4]

    def encoded(tiles: Any) -> Tensor:
        return torch.cat(posterior(vae, x, tiles), dim=1)

    whole = (stored["decode.untiled"] / 2 + 0.5).clamp(0, 1)
    mean, logvar = stored["encode.untiled"].chunk(2, dim=1)
    moments = torch.cat([mean, logvar.clamp(-30, 20)], dim=1)
    close(decoded(None), whole, FORWARD)
    close(encoded(None), moments, FORWARD)

    # The published tiles have a margin of 11 latents and 32 pixels beside their size.
    ours, published = decoded(vae_tiles(told["decoder_tile"] + 22, 11)), stored["decode.tiled_single_norm"] / 2 + 0.5
    assert (ours - whole).square().mean() < (published.clamp(0, 1) - whole).square().mean()
    ours, published = encoded(vae_tiles(told["encoder_tile"] + 64, 32, 8)), stored["encode.tiled_single_norm"]
    assert (ours - moments).square().mean() < (published - moments).square().mean()


def color_cases() -> list[str]:
    path = ROOT / "colorfix.safetensors"
    return sorted({key.split(".")[0] for key in tensors("colorfix")}) if path.exists() else []


@pytest.mark.parametrize("case", color_cases())
def test_colors(case):
    stored = tensors("colorfix")
    target, source = picture(stored[f"{case}.target_u8"]), picture(stored[f"{case}.source_u8"])
    for method in ("wavelet", "adain"):
        matched = match_color(target, source, method)
        close(matched, stored[f"{case}.{method}_float"], 1e-5)
        found = to_uint8(matched.clamp(0, 1), truncate=True)[0].permute(1, 2, 0)
        off = (found.int() - stored[f"{case}.{method}_u8"].int()).abs()
        assert int(off.max()) <= 1 and off.bool().float().mean() < 1e-3
    high, low = split_frequencies(target, 3)
    close(high, stored[f"{case}.target_high_l3"], 1e-5)
    close(low, stored[f"{case}.target_low_l3"], 1e-5)
    close(blur(target, 4), stored[f"{case}.blur_r4"], 1e-5)


def loras() -> list[str]:
    path = ROOT / "misc.safetensors"
    return sorted({key.split(".merged.")[0] for key in tensors("misc") if ".merged." in key}) if path.exists() else []


@pytest.mark.parametrize("case", loras())
def test_lora(case):
    """Merged without alpha, as published. The multiplier is told in words, beside that of another set of tensors."""
    stored = tensors("misc")
    prefix = f"{case}.merged."
    expected = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    prefix = f"{case}.state."
    state = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    words = next(text for name, text in facts("misc")["names"].items() if name.split(".")[0] == case)
    distances = []
    for multiplier in map(float, re.findall(r"\d+\.\d+", words)):
        unet = copy.deepcopy(nets(checkpoint_of("std"))[0])
        changed = merge_lora({"unet": unet}, state, multiplier, use_alpha=False)
        assert sorted(changed) == sorted(expected)
        weights = unet.state_dict()
        distances.append(max(float((weights[name] - value).abs().max()) for name, value in expected.items()))
    assert min(distances) < 1e-6
