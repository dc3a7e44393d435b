"""One-step restorers: published files at parity with peft and diffusers, folders, tiles, the command, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import nn

from restoration import OneStepConfig, OneStepOptions, OneStepRestorer
from restoration.one_step.convert import convert
from restoration.pasd.sizes import finish
from restoration.restorer import find_system
from scripts.convert import OneStepFiles
from scripts.convert import main as convert_files
from scripts.restore import main, parse
from tests.vision.edit.conftest import picture
from vision.diffusion.backbone import save_backbone
from vision.images import to_tensor

RANK = 4
GROUPS = {"encoder": ("conv_in", "down_blocks"), "decoder": ("up_blocks", "conv_out"), "others": ("mid_block",)}
LAYERS = ("to_k", "to_q", "to_v", "to_out.0", "conv", "proj_in", "proj_out", "ff.net.2", "ff.net.0.proj")


@pytest.fixture(scope="module")
def base() -> OneStepRestorer:
    return OneStepRestorer.from_pretrained("builtin:tiny")


@pytest.fixture(scope="module")
def base_folder(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    modules = {"unet": base.unet, "vae": base.vae}
    save_backbone(folder, "StableDiffusionPipeline", modules, base.text, base.scheduler)
    return folder


def tuned(network: nn.Module, adapters: dict[str, list[str]], more: str = "lora") -> nn.Module:
    """A copy with LoRAs of peft that do something, all of them at work; `more` names other weights that are tuned."""
    from peft import LoraConfig

    network, generator = copy.deepcopy(network), torch.Generator().manual_seed(5)
    for name, layers in adapters.items():
        network.add_adapter(LoraConfig(r=RANK, target_modules=layers), adapter_name=name)
    for name, value in network.named_parameters():
        if "lora" in name or more in name:
            value.data.add_(0.05 * torch.randn(value.shape, generator=generator))
    network.set_adapter(list(adapters))
    return network.eval()


def layers_of(network: nn.Module, places: tuple[str, ...]) -> list[str]:
    names = [name.removesuffix(".weight") for name, value in network.named_parameters() if value.ndim > 1]
    return [name for name in names if name.startswith(places) and any(layer in name for layer in LAYERS)]


def osediff(base: OneStepRestorer) -> tuple[dict[str, Any], nn.Module, nn.Module]:
    """A file in the published form, and the networks that it was made of."""
    groups = {name: layers_of(base.unet, places) for name, places in GROUPS.items()}
    encoder = [*layers_of(base.vae, ("encoder",)), "quant_conv"]
    unet = tuned(base.unet, {f"default_{name}": layers for name, layers in groups.items()}, "conv_in")
    vae = tuned(base.vae, {"default_encoder": encoder})
    kept = {name: value for name, value in unet.state_dict().items() if "lora" in name or "conv_in" in name}
    file = {f"unet_lora_{name}_modules": layers for name, layers in groups.items()}
    file |= {"vae_lora_encoder_modules": encoder, "rank_unet": RANK, "rank_vae": RANK, "state_dict_unet": kept}
    file["state_dict_vae"] = {name: value for name, value in vae.state_dict().items() if "lora" in name}
    return file, unet, vae


def pisa(base: OneStepRestorer) -> tuple[dict[str, Any], nn.Module, nn.Module]:
    """The same of the other form: LoRAs for pixels and for meaning on the same layers."""
    file, adapters = {"lora_rank_unet_pix": RANK, "lora_rank_unet_sem": RANK}, {}
    for kind in ("pix", "sem"):
        for name, places in GROUPS.items():
            layers = layers_of(base.unet, places)
            file[f"unet_lora_{name}_modules_{kind}"] = adapters[f"default_{name}_{kind}"] = layers
    unet = tuned(base.unet, adapters)
    file["state_dict_unet"] = {name: value for name, value in unet.state_dict().items() if "lora" in name}
    return file, unet, base.vae


@torch.no_grad()
@pytest.mark.parametrize("form", [osediff, pisa])
def test_a_converted_file_gives_what_its_own_networks_give(form, base, base_folder):
    file, unet, vae = form(base)
    restorer = convert(file, base_folder)
    image, options = to_tensor(picture(0, 20, 24)), OneStepOptions(scale=2.0, process_size=32, color="none")
    run = restorer.start(image, options)
    seen = 2 * run.image - 1
    latents = vae.encode(seen).latent_dist.mean * vae.config.scaling_factor
    level = torch.tensor([restorer.config.level])
    said = unet(latents, level, encoder_hidden_states=base.text([""]).embeds).sample
    if form is osediff:
        scheduler = DDPMScheduler.from_config(base.scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(1)
        clean = scheduler.step(said, level, latents).prev_sample
    else:
        clean = latents - said
    wanted = vae.decode(clean / vae.config.scaling_factor).sample.clamp(-1, 1) / 2 + 0.5
    (step,) = restorer.steps(image, options)
    torch.testing.assert_close(step.state.latents, clean, rtol=1e-4, atol=1e-4 * float(clean.abs().max()))
    torch.testing.assert_close(restorer.decode(step.state), wanted, rtol=0, atol=1e-3)
    result = restorer(image, options)
    assert result.shape == (1, 3, 40, 48)
    torch.testing.assert_close(result, finish(wanted, run.image, run.sizes.output, "none"), rtol=0, atol=1e-3)
    plain = OneStepRestorer(base.unet, base.vae, base.text, base.scheduler, restorer.config)
    assert (plain(image, options) - result).abs().max() > 0.01, "the LoRAs do nothing, so nothing was tested"


def test_files_that_do_not_fit_cost_a_sentence(base, base_folder):
    file, _, _ = osediff(base)
    lost = {name: value for name, value in file["state_dict_unet"].items() if "up_blocks" not in name}
    for sentence, wrong in {
        "has no state_dict_unet": {"state_dict": {}},
        "neither state_dict_vae": {"state_dict_unet": {}},
        "lists layers whose LoRA it lacks: up_blocks": file | {"state_dict_unet": lost},
        "does not fit the base": file | {"state_dict_unet": {"conv_out.weight": torch.zeros(1)}},
        "which this model does not have": file
        | {
            "vae_lora_encoder_modules": [],
            "state_dict_vae": {
                f"encoder.other.{f}.default_encoder.weight": torch.ones(4, 4) for f in ("lora_A", "lora_B")
            },
        },
    }.items():
        with pytest.raises(ValueError, match=sentence):
            convert(wrong, base_folder)


def test_saved_and_loaded_is_the_same(base, tmp_path):
    image = to_tensor(picture(1, 20, 24))
    base.save_pretrained(tmp_path)
    loaded = OneStepRestorer.from_pretrained(tmp_path)
    assert loaded.config == base.config and torch.equal(loaded(image), base(image))
    with pytest.raises(FileNotFoundError, match="burnish convert one-step"):
        OneStepRestorer.from_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="No one-step weights come with the project"):
        OneStepRestorer.from_pretrained()


def test_pictures_of_a_batch_are_restored_alone_and_grey_ones_stay_grey(base):
    grey = to_tensor(picture(0, 20, 24).convert("L").convert("RGB"))
    images = torch.cat([grey, to_tensor(picture(1, 20, 24))])
    found = base(images, OneStepOptions(color="wavelet"))
    assert torch.equal(found[1:], base(images[1:], OneStepOptions(color="wavelet")))
    alone = base(grey)
    assert torch.equal(alone[:, 0], alone[:, 1]) and alone.isfinite().all()


def test_tiles_see_what_the_whole_sees_where_the_network_is_local(base):
    """Without attention over the tile and statistics of it, only the context at a tile's edge could differ."""
    local = copy.copy(base)
    local.config = OneStepConfig(scale=1.0, process_size=32, level=1, says="change", color="none")
    local.unet = _Local()
    image = to_tensor(picture(2, 320, 256))
    whole = local(image, OneStepOptions(tile=0, vae_tile=0))
    tiled = local(image, OneStepOptions(tile=16, tile_overlap=4, vae_tile=0))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
    assert local.unet.sides == [(40, 32), *[(16, 16)] * (len(local.unet.sides) - 1)] and len(local.unet.sides) > 6


class _Local(nn.Module):
    """A UNet of one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.config = type("Config", (), {"block_out_channels": (8, 8)})
        self.device, self.dtype, self.sides = torch.device("cpu"), torch.float32, []

    def forward(self, latents, timestep, text, return_dict):
        self.sides.append(tuple(latents.shape[-2:]))
        return (self.conv(latents),)


def test_the_published_file_goes_through_the_commands(base, base_folder, tmp_path, capsys):
    torch.save(osediff(base)[0], tmp_path / "osediff.pkl")
    Image.fromarray(np.asarray(picture(0, 20, 24))).save(tmp_path / "photo.png")
    folder, out = tmp_path / "weights", tmp_path / "out"
    files = OneStepFiles(tmp_path / "osediff.pkl", folder, base=base_folder, half=True)
    assert convert_files(files) == folder
    with pytest.raises(ValueError, match="holds files already"):
        convert_files(files)
    words = [str(tmp_path / "photo.png"), "--system", f"one-step:{folder}", "--out", str(out), "--process-size", "64"]
    assert main(parse([*words, "--scale", "3", "--previews"])) == 0
    with Image.open(out / "photo.png") as result:
        assert result.size == (72, 60)
    assert len(list((out / "previews" / "photo").iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="no folder behind the colon"):
        find_system("one-step:")
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        find_system("one-step:nowhere")


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: OneStepOptions(scale=0), "scale must lie"),
        (lambda: OneStepOptions(tile=-1), "tile must be at least 0"),
        (lambda: OneStepOptions(process_size=0), "process_size must be at least 1"),
        (lambda: OneStepOptions(color="red"), "color must be one of"),  # type: ignore[arg-type]
        (lambda: OneStepConfig(level=1000), "level must lie"),
        (lambda: OneStepConfig(says="nothing"), "says must be"),  # type: ignore[arg-type]
    ],
)
def test_impossible_values(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
