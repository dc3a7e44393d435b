"""PASD's networks: folders, variants, bases, and paths that give the same result."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from diffusers import UNet2DConditionModel

from restoration.pasd.builtin import UNET
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.unet import PASDUNet, is_trained, variant_of
from vision.diffusion.attention import text_keys
from vision.diffusion.compiling import frozen_forward

SMALL = {**UNET, "block_out_channels": (8, 8), "cross_attention_dim": 12}
ENCODER = {"conditioning_embedding_out_channels": (4, 4, 4, 8)}


def stock(**changes) -> UNet2DConditionModel:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**(SMALL | changes))
    unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return unet.eval()


def trained(variant="full", **changes) -> tuple[PASDUNet, PASDControlNet]:
    unet = PASDUNet.from_base(stock(**changes), variant)
    control = PASDControlNet.from_unet(unet, **ENCODER)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return unet, control


def inputs(batch=2, height=8, width=8):
    generator = torch.Generator().manual_seed(1)
    shapes = (batch, 4, height, width), (batch, 5, 12), (batch, 3, 8 * height, 8 * width)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@torch.no_grad()
def predict(unet, control, sample, text, image, kwargs=(None, None), **options):
    _, down, mid = control(sample, 10, text, image, cross_attention_kwargs=kwargs[0], **options)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    return unet(sample, 10, text, cross_attention_kwargs=kwargs[1], **residuals).sample


@pytest.mark.parametrize("variant", ["full", "light"])
@pytest.mark.parametrize("linear", [False, True])
def test_a_saved_network_loads_as_its_variant_with_equal_results(tmp_path, variant, linear):
    unet, control = trained(variant, use_linear_projection=linear)
    unet.save_pretrained(tmp_path / "unet")
    control.save_pretrained(tmp_path / "controlnet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = PASDUNet.from_pretrained(tmp_path, subfolder="unet")
        other = PASDControlNet.from_pretrained(tmp_path / "controlnet")
    assert again.variant == variant
    entries = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    assert {key: again.config[key] for key in entries} == entries
    given = inputs()
    assert torch.equal(predict(unet, control, *given), predict(again, other, *given))


def test_published_configs_name_stock_classes_and_hold_unknown_entries(tmp_path):
    unet, _ = trained()
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"_class_name": "UNet2DConditionModel", "use_sd3_vae": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert PASDUNet.from_pretrained(tmp_path).variant == "full"


@pytest.mark.parametrize("names", [["../secret.safetensors"], [], [3]])
def test_an_index_names_files_of_its_own_folder(tmp_path, names):
    unet, _ = trained()
    unet.save_pretrained(tmp_path)
    index = {"weight_map": {f"tensor {i}": name for i, name in enumerate(names)}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=r"must name files beside it|no file .*3"):
        PASDUNet.from_pretrained(tmp_path)


def test_a_config_of_nonsense_is_one_sentence(tmp_path):
    unet, _ = trained()
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for entry, value in (("block_out_channels", "wide"), ("layers_per_block", None), ("cross_attention_dim", -1)):
        (tmp_path / "config.json").write_text(json.dumps(config | {entry: value}))
        with pytest.raises(ValueError, match=r"describes no network|does not fit its config"):
            PASDUNet.from_pretrained(tmp_path)


def test_folders_that_do_not_fit_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        PASDUNet.from_pretrained(tmp_path)
    stock().save_pretrained(tmp_path / "stock")
    with pytest.raises(ValueError, match=r"plain UNet without pixel attention.*from_base"):
        PASDUNet.from_pretrained(tmp_path / "stock")
    assert PASDUNet.from_base(tmp_path / "stock").variant == "full"
    unet, _ = trained()
    unet.save_pretrained(tmp_path / "pasd")
    config = json.loads((tmp_path / "pasd" / "config.json").read_text())
    (tmp_path / "pasd" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 16}))
    with pytest.raises(ValueError, match=r"does not fit its config: it has the misshapen .*attn2"):
        PASDUNet.from_pretrained(tmp_path / "pasd")
    with pytest.raises(ValueError, match="variant must be full or light"):
        PASDUNet.from_base(stock(), "medium")


@pytest.mark.parametrize("variant", ["full", "light"])
def test_a_base_keeps_its_weights_and_gets_seeded_new_ones(variant):
    base = stock()
    unet = PASDUNet.from_base(base, variant, seed=3)
    assert variant_of(unet.state_dict()) == variant and variant_of(base.state_dict()) is None
    for name, value in unet.state_dict().items():
        if is_trained(name):
            assert value.isfinite().all()
        else:
            assert torch.equal(value, base.state_dict()[name])
    same, other = (PASDUNet.from_base(base, variant, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(value, same[name]) for name, value in unet.state_dict().items())
    assert not all(torch.equal(value, other[name]) for name, value in unet.state_dict().items())


def test_swapping_the_base_keeps_the_trained_attention():
    unet, _ = trained()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    other = {name: value + 1 for name, value in stock().state_dict().items()}
    unet.take_base(other, "another base", weight=0.25)
    for name, value in unet.state_dict().items():
        expected = before[name] if is_trained(name) else before[name] + 0.25
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"some base does not fit this UNet .*same family"):
        unet.take_base(stock(block_out_channels=(8, 12)).state_dict(), "some base")


def test_an_untrained_branch_is_silent():
    unet = PASDUNet.from_base(stock())
    control = PASDControlNet.from_unet(unet, **ENCODER)
    sample, text, image = inputs()
    rgbs, down, mid = control(sample, 10, text, image)
    assert [tuple(rgb.shape[-2:]) for rgb in rgbs] == [(32, 32), (16, 16), (8, 8)]
    assert not any(residual.any() for residual in [*down, mid])


@pytest.mark.parametrize("variant", ["full", "light"])
def test_precomputed_text_and_embedding_change_nothing(variant):
    unet, control = trained(variant)
    sample, text, image = inputs()
    embedding, _ = control.embed(image)
    plain = predict(unet, control, sample, text, image)
    keys = text_keys(control, text), text_keys(unet, text)
    assert all(len(found["text_keys"]) for found in keys)
    fast = predict(unet, control, sample, text, None, keys, cond_embedding=embedding)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-6)


def test_a_batch_gives_what_its_items_give():
    unet, control = trained()
    sample, text, image = inputs()
    whole = predict(unet, control, sample, text, image)
    for i in range(2):
        one = slice(i, i + 1)
        alone = predict(unet, control, sample[one], text[one], image[one])
        torch.testing.assert_close(alone, whole[one], rtol=0, atol=1e-5)


def test_the_picture_reaches_the_result_through_the_pixel_attention():
    unet, control = trained()
    sample, text, image = inputs()
    _, down, mid = control(sample, 10, text, image)
    silent = [torch.zeros_like(residual) for residual in down]
    blocks = unet.up_blocks
    heard = {}

    def listen(module, args, output):
        heard[len(heard)] = args[1]

    hooks = [block.pixel_attentions[0].register_forward_hook(listen) for block in blocks]
    unet(sample, 10, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
    for hook in hooks:
        hook.remove()
    assert torch.equal(heard[0], down[-1].flatten(2).transpose(1, 2))
    assert torch.equal(heard[1], down[1].flatten(2).transpose(1, 2))
    with_picture = unet(sample, 10, text, down_block_additional_residuals=down, mid_block_additional_residual=mid)
    without = unet(sample, 10, text, down_block_additional_residuals=silent, mid_block_additional_residual=mid)
    assert (with_picture.sample - without.sample).abs().max() > 1e-4


def test_the_unet_needs_the_control_net():
    unet, _ = trained()
    sample, text, _ = inputs()
    with pytest.raises(ValueError, match="reads the ControlNet"):
        unet(sample, 10, text)


@pytest.mark.parametrize("variant", ["full", "light"])
def test_gradient_checkpointing_gives_equal_gradients(variant):
    unet, control = trained(variant)
    sample, text, image = inputs()
    gradients = []
    for checkpointing in (False, True):
        for net in (unet, control):
            net.zero_grad()
            net.train()
            (net.enable_gradient_checkpointing if checkpointing else net.disable_gradient_checkpointing)()
        _, down, mid = control(sample, 10, text, image)
        out = unet(sample, 10, text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        out.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in unet.trained_parameters()})
    assert len(gradients[0]) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_channel_order_bgr_flips_the_picture():
    unet = PASDUNet.from_base(stock())
    image = inputs()[2]
    rgb = PASDControlNet.from_unet(unet, **ENCODER)
    bgr = PASDControlNet.from_unet(unet, controlnet_conditioning_channel_order="bgr", **ENCODER)
    bgr.load_state_dict(rgb.state_dict())
    for a, b in zip(rgb.embed(image.flip(1))[1], bgr.embed(image)[1], strict=True):
        assert torch.equal(a, b)


def test_the_branch_answers_as_that_of_diffusers():
    _, control = trained()
    sample, text, image = inputs()
    with torch.no_grad():
        output = control(sample, 10, text, image)
        plain = control(sample, 10, text, image, return_dict=False)
    assert type(plain) is tuple and len(plain) == 3
    assert all(map(torch.equal, output.down_block_res_samples, plain[1]))
    assert torch.equal(output.mid_block_res_sample, plain[2])


@pytest.mark.parametrize("changes", [
    {},
    {"layers_per_block": 2, "use_linear_projection": True},
    {"transformer_layers_per_block": 2},
    {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
])  # fmt: skip
@pytest.mark.parametrize("pictures", [1, 2])
def test_prompts_of_one_picture_share_what_comes_before_the_text(changes, pictures):
    unet, control = trained(**changes)
    sample, _, image = inputs(pictures)
    text = torch.randn(2 * pictures, 5, 12, generator=torch.Generator().manual_seed(2))
    for kwargs in ((None, None), (text_keys(control, text), text_keys(unet, text))):
        shared = predict(unet, control, sample, text, image, kwargs)
        apart = predict(unet, control, torch.cat([sample] * 2), text, torch.cat([image] * 2), kwargs)
        torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-5)


def test_masked_prompts_of_one_picture_are_read_apart():
    unet, _ = trained()
    sample, _, _ = inputs(1)
    text, mask = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2)), torch.ones(2, 5, dtype=torch.bool)
    down = [torch.zeros(2, *shape) for shape in ((8, 8, 8), (8, 8, 8), (8, 4, 4), (8, 4, 4))]
    given = {"down_block_additional_residuals": down, "mid_block_additional_residual": torch.zeros(2, 8, 4, 4)}
    with torch.no_grad():
        masked = unet(sample, 10, text, encoder_attention_mask=mask, **given).sample
        plain = unet(torch.cat([sample] * 2), 10, text, **given).sample
    torch.testing.assert_close(masked, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_say_the_same():
    unet, control = trained()
    given = inputs()
    expected = predict(unet, control, *given)
    for net in (unet, control):
        net.forward = frozen_forward(net)
    torch.testing.assert_close(predict(unet, control, *given), expected, rtol=1e-4, atol=1e-5)
