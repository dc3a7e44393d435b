"""Finishing a small PASD on the pictures of its own sampler.

The published losses are about latents. With networks of a few million parameters, what is lost between the degraded
picture and the decoder shows: the VAE blurs, and a few steps leave noise that it was never shown. Here the sampler runs
as it does for a user, and gradients of the finished picture go through the decoder and the last step's prediction into
pixel attention and ControlNet (as in one-step restorers, Wu et al. 2024, OSEDiff, section 3.2, but with the sampler's
steps kept). The base's UNet and the encoder stay as they are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.compare import degraded_samples, measure
from restoration.pasd.options import PASDOptions
from restoration.pasd.restorer import PASDRestorer, base_alone
from restoration.pasd.unet import is_trained
from vision.diffusion.denoise import At, denoise_steps
from vision.efficientnet import load_efficientnet
from vision.files import atomic_path
from vision.images import to_uint8
from vision.losses import feature_difference, gradient_difference, pattern_difference, texture_difference
from vision.refine import drain
from vision.report import plot_panels
from vision.resize import imresize

EDGES, TEXTURE, PATTERN, TONES, HEADS = 0.5, 0.4, 1.0, 0.25, 0.05
"""Weights of the losses beside the absolute error."""
STEPS = 3
"""Denoising steps of the pictures that are learnt from."""
MEASURED = ("psnr_y", "niqe", "tex")
"""What is measured on pictures that no training sees."""


class Finishing(nn.Module):
    """Pixel attention, ControlNet and decoder, with the loss of the restored picture.

    Args:
        restorer: all networks; samples with the defaults of its config, but `STEPS` steps and no guidance.
        perceptual: weight of the features of EfficientNet-Lite2; 0 does without that network.

    Raises:
        FileNotFoundError: the weights of EfficientNet-Lite2 are missing.
    """

    def __init__(self, restorer: PASDRestorer, perceptual: float = 0.0):
        super().__init__()
        self.unet, self.controlnet, vae = restorer.unet, restorer.controlnet, restorer.vae
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv
        self.perceptual = perceptual
        judge = load_efficientnet(2) if perceptual else None
        self.frozen = (restorer, judge)  # a tuple, so that their networks are no parts of this module
        self.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(is_trained(name))
        vae.encoder.requires_grad_(False)

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs of high (b, 3, h, w) and low (b, 3, h / scale, w / scale) in [0, 1]."""
        high, low = batch["high"], batch["low"]
        restored, decoded, heads = self.restore(low, generator)
        error, edges = F.l1_loss(restored, high), gradient_difference(restored, high)
        texture, pattern = texture_difference(restored, high), pattern_difference(restored, high)
        tones = F.l1_loss(F.avg_pool2d(decoded, 8), F.avg_pool2d(high, 8))  # the colour transfer hides them
        pictures = sum(F.l1_loss(head, F.interpolate(2 * high - 1, head.shape[-2:], mode="bilinear")) for head in heads)
        loss = error + EDGES * edges + TEXTURE * texture + PATTERN * pattern + TONES * tones + HEADS * pictures
        logs = {"error": error, "edges": edges, "texture": texture, "pattern": pattern}
        logs |= {"tones": tones, "heads": pictures}
        if self.perceptual:
            features = feature_difference(self.frozen[1], restored, high)
            return loss + self.perceptual * features, logs | {"features": features}
        return loss, logs

    def restore(self, low: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The restored pictures (b, 3, h, w), what they were before the colour transfer, and those of the image
        encoder's heads; the last step has gradients."""
        restorer = self.frozen[0].to(low.device)
        # At the first noise level a start from the picture is noise too, but costs an encoding.
        side = round(min(low.shape[-2:]) * restorer.config.scale)
        options = PASDOptions(steps=STEPS, start="noise", guidance_scale=1.0, tile=0, vae_tile=0, process_size=side)
        text = restorer.text([restorer.config.added_prompt] * len(low))
        run = restorer.start(
            low, options, text=(text, None), noise=lambda shape: torch.randn(shape, generator=generator)
        )
        last, heads = len(run.scheduler.timesteps) - 1, []

        def predict(latents: Tensor, at: At) -> Tensor:
            with torch.set_grad_enabled(at.index == last):
                heads[:], down, mid = self.controlnet(
                    latents, at.timestep, text.embeds, run.image, conditioning_scale=run.options.conditioning_scale
                )
                return self.unet(
                    latents,
                    at.timestep,
                    text.embeds,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                    return_dict=False,
                )[0]

        latents = drain(denoise_steps(run.latents, predict, run.scheduler)).state.latents
        picture = self.decoder(self.post_quant_conv(latents / restorer.vae.config.scaling_factor)) / 2 + 0.5
        return restorer.finish(run, picture).to(low.device), picture, heads


class HeldOut:
    """Measures a restorer on pictures that no training sees, beside bicubic and the base alone.

    Args:
        folder: good pictures.
        restorer: gives what the trained modules lack.
        crop: middle of the pictures, in pixels.
        how: degradation.
    """

    def __init__(self, folder: Path, restorer: PASDRestorer, crop: int = 256, how: str = "blind"):
        scale = round(restorer.config.scale)
        self.restorer, self.scale = restorer, scale
        self.samples = [read() for _, read in degraded_samples(folder, how, scale=scale, crop=crop)]

    def __call__(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Means of `MEASURED` of networks in training."""
        (networks,) = modules.values()
        measured = self.measure({"PASD": with_trained(self.restorer, networks)})["PASD"]
        return {f"held_out.{name}": value for name, value in measured.items()}

    def levels(self) -> dict[str, dict[str, float]]:
        """Means of bicubic, of the restorer as it is, and of its base alone."""
        return self.measure({"bicubic": None, "base alone": base_alone(self.restorer), "PASD": self.restorer})

    @torch.inference_mode()
    def measure(self, restorers: Mapping[str, PASDRestorer | None]) -> dict[str, dict[str, float]]:
        """Means of `MEASURED` by name, without those whose weights are missing; None stands for bicubic."""
        found = {}
        for name, restorer in restorers.items():
            enlarge = restorer or (lambda low: imresize(low, self.scale))
            rows = [measure(to_uint8(enlarge(low)).float() / 255, high)[0] for low, high in self.samples]
            known = [key for key in MEASURED if all(row[key] is not None for row in rows)]
            found[name] = {key: sum(row[key] for row in rows) / len(rows) for key in known}
        return found


def with_trained(restorer: PASDRestorer, networks: nn.Module) -> PASDRestorer:
    """A restorer with copies of the networks of a `Finishing`, or of `PASDNetworks`, in evaluation mode.

    It lies where these are: parts that a stage left on its device come along.
    """
    found = copy.copy(restorer)
    found.unet, found.controlnet = (copy.deepcopy(net).eval() for net in (networks.unet, networks.controlnet))
    if isinstance(networks, Finishing):
        found.vae = copy.deepcopy(restorer.vae)
        found.vae.decoder.load_state_dict(networks.decoder.state_dict())
        found.vae.post_quant_conv.load_state_dict(networks.post_quant_conv.state_dict())
        found.vae.eval()
    return found.to(next(networks.parameters()).device)


def write_levels(path: Path, levels: Mapping[str, Mapping[str, float]]) -> None:
    """Write what `HeldOut.levels` found."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(levels, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def draw_curves(folder: Path, picture: Path) -> None:
    """Draw what a recipe's folder says about its last two stages, over their updates.

    Args:
        folder: with `pasd/log.jsonl`, `finish/log.jsonl` and `levels.json`.
        picture: file to write.

    Raises:
        FileNotFoundError: one of these is missing.
    """
    logs = {}
    for stage in ("pasd", "finish"):
        logs[stage] = [json.loads(line) for line in (folder / stage / "log.jsonl").read_text().splitlines()]
    levels = json.loads((folder / "levels.json").read_text())
    before = max(row["step"] for row in logs["pasd"])
    rows = logs["pasd"] + [{"step": before, **{f"held_out.{name}": value for name, value in levels["PASD"].items()}}]
    rows += [row | {"step": before + row["step"]} for row in logs["finish"]]
    panels = {}
    for title, key in (("velocity error (stage pasd)", "noise"), ("texture error (stage finish)", "texture")):
        panels[title] = {"training": _curve(rows, key)}
    ends = [min(row["step"] for row in rows), max(row["step"] for row in rows)]
    for title, name in (("NIQE", "niqe"), ("texture distance", "tex"), ("PSNR", "psnr_y")):
        panels[title] = {"PASD": _curve(rows, f"held_out.{name}")}
        panels[title] |= {level: (ends, [levels[level].get(name)] * 2) for level in ("bicubic", "base alone")}
    plot_panels(picture, panels, columns=len(panels), xlabel="updates of both stages")


def _curve(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    found = sorted({row["step"]: row[key] for row in rows if key in row}.items())
    return [step for step, _ in found], [value for _, value in found]
