"""PASD's weights: saved folders, published layouts, styles, single files, LoRAs and concepts."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from restoration.pasd import PASDConfig, PASDOptions, PASDRestorer
from restoration.pasd.style import merge_lora
from restoration.pasd.unet import PASDUNet, is_trained
from tests.restoration.pasd.conftest import FAST, photo


def test_saved_and_loaded_gives_equal_results(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    again = PASDRestorer.from_pretrained(tmp_path)
    assert again.config == tiny.config
    assert type(again.scheduler) is type(tiny.scheduler)
    for name in ("unet", "controlnet", "vae"):
        mine, theirs = getattr(tiny, name).state_dict(), getattr(again, name).state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert torch.equal(again(photo(), PASDOptions(**FAST)), tiny(photo(), PASDOptions(**FAST)))


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """A base and a PASD checkpoint as they are published."""
    folder = tmp_path_factory.mktemp("published")
    tiny.save_pretrained(folder / "all")
    base, own = folder / "base", folder / "checkpoint-1"
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(folder / "all" / name, base / name)
    for name in ("unet", "controlnet"):
        shutil.copytree(folder / "all" / name, own / name)
        path = own / name / "config.json"
        config = json.loads(path.read_text())
        stock = {"unet": "UNet2DConditionModel", "controlnet": "ControlNetModel"}[name]
        path.write_text(json.dumps(config | {"_class_name": stock, "use_sd3_vae": False}))
    return base, own


def test_a_published_layout_loads(tiny, folders, capfd):
    base, own = folders
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restorer = PASDRestorer.from_pretrained(base, pasd=own)
    said = capfd.readouterr().err
    assert not any(word in said.lower() for word in ("newly initialized", "not used", "expected", "warning"))
    assert restorer.config == PASDConfig()
    assert torch.equal(restorer(photo(), PASDOptions(**FAST)), tiny(photo(), PASDOptions(**FAST)))


def test_layouts_that_do_not_fit_say_why(tiny, folders, tmp_path):
    base, own = folders
    with pytest.raises(FileNotFoundError, match=r"lacks unet, controlnet; name a checkpoint-N folder"):
        PASDRestorer.from_pretrained(base, pasd=base)
    shutil.copytree(base, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "vae")
    with pytest.raises(FileNotFoundError, match="lacks vae; it must be a whole Stable Diffusion folder"):
        PASDRestorer.from_pretrained(tmp_path / "half", pasd=own)
    large = PASDRestorer.from_pretrained("builtin:tiny-sdxl")
    large.unet.save_pretrained(tmp_path / "xl" / "unet")
    large.controlnet.save_pretrained(tmp_path / "xl" / "controlnet")
    with pytest.raises(ValueError, match="these PASD weights need a SDXL base"):
        PASDRestorer.from_pretrained(base, pasd=tmp_path / "xl")
    with pytest.raises(ValueError, match=r"There is no builtin:huge .*tiny-light"):
        PASDRestorer.from_pretrained("builtin:huge")
    with pytest.raises(ValueError, match="need their base: name a Stable Diffusion folder as source too"):
        PASDRestorer.from_pretrained(pasd=own)
    with pytest.raises(FileNotFoundError, match=r"name PASD's own weights"):
        PASDRestorer.from_pretrained(base)


def fresh():
    return PASDRestorer.from_pretrained("builtin:tiny")


def stock_unet(unet):
    """The base's own tensors, changed."""
    return {name: value * 1.1 for name, value in unet.state_dict().items() if not is_trained(name)}


def test_a_style_folder_keeps_the_trained_parts(tmp_path):
    restorer, before = fresh(), fresh().unet.state_dict()
    base = stock_unet(restorer.unet)
    save_file(base, tmp_path / "diffusion_pytorch_model.safetensors")
    restorer.restyle(tmp_path, 0.5)
    for name, value in restorer.unet.state_dict().items():
        expected = before[name] if is_trained(name) else (before[name] + base[name]) / 2
        torch.testing.assert_close(value, expected)
    with pytest.raises(ValueError, match=r"share of another base must lie in \[0, 1\], got 2"):
        restorer.restyle(tmp_path, 2.0)


LDM = {  # of the tiny UNet, in the names of the original latent-diffusion code
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def ldm_name(name):
    prefix = max((part for part in LDM if name.startswith(f"{part}.")), key=len)
    rest = name[len(prefix) + 1 :]
    if ".resnets." in prefix:
        part, tail = rest.split(".", 1)
        rest = f"{RESNET[part]}.{tail}"
    return f"model.diffusion_model.{LDM[prefix]}.{rest}"


def test_a_single_file_becomes_the_base(tmp_path):
    restorer, before = fresh(), fresh().unet.state_dict()
    base = stock_unet(restorer.unet)
    text = {
        key: value + 1 for key, value in restorer.text.encoders[0].state_dict().items() if "position_ids" not in key
    }
    shared = {ldm_name(name): value for name, value in base.items()}
    prefix = "cond_stage_model.transformer.text_model."
    save_file(
        shared | {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in text.items()},
        tmp_path / "a.safetensors",
    )
    restorer.restyle(tmp_path / "a.safetensors")
    for name, value in restorer.unet.state_dict().items():
        torch.testing.assert_close(value, before[name] if is_trained(name) else base[name])
    for name, value in restorer.text.encoders[0].state_dict().items():
        assert torch.equal(value, text[name])
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="neither a LoRA nor a whole"):
        restorer.restyle(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        restorer.restyle(tmp_path / "c.safetensors")


@pytest.mark.parametrize("naming", ["kohya", "peft", "diffusers"])
def test_loras_of_every_naming_count_their_alpha(naming, tmp_path):
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    prefix, first, second = {
        "kohya": ("lora_unet_" + layer.replace(".", "_"), "lora_down", "lora_up"),
        "peft": (f"unet.{layer}", "lora_A", "lora_B"),
        "diffusers": (f"unet.{layer}", "lora.down", "lora.up"),
    }[naming]
    tensors = {f"{prefix}.{first}.weight": down, f"{prefix}.{second}.weight": up, f"{prefix}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "style.safetensors")
    restorer = fresh()
    before = restorer.unet.get_submodule(layer).weight.clone()
    restorer.restyle(tmp_path / "style.safetensors", 0.5)
    change = restorer.unet.get_submodule(layer).weight - before
    torch.testing.assert_close(change, 0.5 * 0.5 * up @ down)
    with pytest.raises(ValueError, match="which this model does not have"):
        merge_lora({"unet": restorer.unet}, {"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": up})


def test_loras_of_peft_work_on_the_unet():
    peft = pytest.importorskip("peft")
    restorer = fresh()
    plain = restorer(photo(), PASDOptions(**FAST))
    restorer.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    assert not torch.equal(restorer(photo(), PASDOptions(**FAST)), plain)
    restorer.unet.disable_adapters()
    torch.testing.assert_close(restorer(photo(), PASDOptions(**FAST)), plain)


def test_a_concept_is_a_word_of_the_prompt(tmp_path):
    restorer = fresh()
    width = restorer.text.encoders[0].config.hidden_size
    save_file({"emb_params": torch.randn(2, width)}, tmp_path / "<cat-toy>.safetensors")
    plain = restorer.text(["<cat-toy>"]).embeds
    word = restorer.add_concept(tmp_path / "<cat-toy>.safetensors")
    assert word == "<cat-toy>"
    vectors = load_file(tmp_path / "<cat-toy>.safetensors")["emb_params"]
    table = restorer.text.encoders[0].get_input_embeddings().weight
    ids = restorer.text.tokenizers[0].convert_tokens_to_ids([word, f"{word}_1"])
    assert torch.equal(table[ids], vectors)
    assert (restorer.text([word]).embeds - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="known already"):
        restorer.add_concept(tmp_path / "<cat-toy>.safetensors")


def test_a_variant_starts_from_any_base(folders):
    _, own = folders
    unet = PASDUNet.from_pretrained(own / "unet")
    other = PASDUNet.from_base(unet, "light")
    assert other.variant == "light"
