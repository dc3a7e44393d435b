"""ITER against tensors of the published code: every tensor of the folder iter/, degradations aside.

Sizes, scales, depths and options come from iter_golden.json and from the shapes of the tensors; names and numbers of
cases from the files. Tokens must be equal. Other numbers may differ by TOLERANCE times the largest magnitude (at
least 1): the networks sum in another order than the published code, and activations reach 150.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from restoration.iter import sampling
from restoration.iter.convert import infer_config, published_shapes
from restoration.iter.model import Observed
from restoration.iter.options import ITERConfig, ITEROptions
from restoration.iter.published import PublishedConfig, PublishedITER
from restoration.iter.restorer import ITERRestorer
from restoration.iter.sampling import SamplingOptions, TokenSampler, mask_schedule
from restoration.iter.swin import SwinLayers, relative_position_index, shift_mask
from restoration.iter.tokens import LQEncoderConfig, TokenNetConfig, make_token_net
from restoration.iter.train import TokenChance, straight_through, token_losses
from restoration.iter.vqgan import Quantiser, SwinVQGAN, UNetDiscriminatorSN, VQGANConfig
from tests.parity.conftest import golden_root
from vision.losses import (
    GAN_KINDS,
    charbonnier,
    class_balanced_cross_entropy,
    discriminator_loss,
    generator_loss,
    l1,
)
from vision.refine import PerItem

FOLDER = golden_root() / "iter"
TOLERANCE = 3e-5
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="there are no reference tensors of ITER")


class Tensors(dict):
    """The tensors of one file that remembers which were looked at."""

    def __init__(self, name: str):
        loaded = load_file(FOLDER / f"{name}.safetensors")
        super().__init__({k: v.float() if v.is_floating_point() else v for k, v in loaded.items()})
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> torch.Tensor:
        self.seen.add(key)
        return super().__getitem__(key)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key[len(prefix) :]: self[key] for key in self if key.startswith(prefix)}

    def all_seen(self, prefix: str = "") -> None:
        assert {key for key in self if key.startswith(prefix)} - self.seen == set()


def about() -> dict:
    return json.loads((FOLDER / "iter_golden.json").read_text()) if FOLDER.is_dir() else {"config": {}, "files": {}}


def text_of(file: str) -> str:
    return about()["files"][f"{file}.safetensors"]["about"]


def published_config() -> PublishedConfig:
    config = about()["config"]
    codes, heads = config["vqgan_opt"], config["num_heads"]
    dd, lq, nets = codes["ddconfig"], config["lq_encoder"], config["token_nets"]
    vqgan = VQGANConfig(
        num_codes=codes["n_embed"],
        code_dim=codes["embed_dim"],
        in_channels=dd["in_channels"],
        resolution=tuple(dd["resolution"]),
        channels=dd["nf"],
        channel_multipliers=tuple(dd["ch_mult"]),
        num_res_blocks=dd.get("num_res_blocks", 2),
        global_blocks=dd["global_blks"],
        swin_channels=dd["swin_dim"],
        swin_groups=dd["swin_blk_num"],
        swin_depth=dd["swin_blk_depth"],
        window=dd["swin_window"],
        num_heads=heads,
    )
    swin = lq["swin"]
    encoder = LQEncoderConfig(
        lq["chn"],
        lq["feat_dim"],
        swin["dim"],
        swin_groups=swin["blk_num"],
        swin_depth=swin["blk_depth"],
        window=swin["window"],
        num_heads=swin["num_heads"],
    )
    token_nets = TokenNetConfig(
        "swin",
        nets["ch"],
        swin_groups=nets["swin_blk_num"],
        swin_depth=nets["swin_blk_depth"],
        window=nets["window"],
        num_heads=nets["num_heads"],
    )
    return PublishedConfig(config["scale_factor"], vqgan, encoder, token_nets)


@pytest.fixture(scope="module")
def model() -> PublishedITER:
    model = PublishedITER(published_config())
    model.load_state_dict(Tensors("iter_state"), strict=True)
    return model.eval()


def close(result: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    expected = expected.to(result.dtype)
    assert result.numel() == expected.numel()
    difference = (result.reshape(expected.shape) - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item())


def onehot(tokens: torch.Tensor, n: int) -> torch.Tensor:
    return F.one_hot(tokens[:, 0], n).movedim(-1, 1).float()


@torch.no_grad()
def test_vqgan(model):
    tensors, vqgan = Tensors("vqgan"), model.vqgan
    for tag in [key.removesuffix(".image") for key in tensors if key.endswith(".image")]:
        z = vqgan.features(tensors[f"{tag}.image"])
        close(z, tensors[f"{tag}.prequant"])
        distances = tensors[f"{tag}.distances"]
        close(vqgan.quantize.distances(z)[: len(distances)], distances)
        quantised, codes, loss = vqgan.quantize(z)
        assert torch.equal(codes, tensors[f"{tag}.indices"])
        close(quantised, tensors[f"{tag}.quant"])
        close(loss, tensors[f"{tag}.emb_loss"])
        close(vqgan.decode(quantised), tensors[f"{tag}.decoded"])
        assert torch.equal(model.target_tokens(tensors[f"{tag}.image"])[:, 0], codes)
    for tag in [key.removesuffix(".decoded_onehot") for key in tensors if key.endswith(".decoded_onehot")]:
        codes = tensors[f"{tag}.indices"]
        close(vqgan.decode_indices(codes), tensors[f"{tag}.decoded"])
        close(vqgan.decode_onehot(onehot(codes, vqgan.config.num_codes)), tensors[f"{tag}.decoded_onehot"])
    for tag in [key.removesuffix(".window_size") for key in tensors if key.endswith(".window_size")]:
        layers = next(block for block in vqgan.decoder.blocks if isinstance(block, SwinLayers))
        close(layers(tensors[f"{tag}.in"]), tensors[f"{tag}.out"])
        block = layers.swin_blks[0].residual_group.blocks[1]
        assert block.window == tensors[f"{tag}.window_size"].item()
        assert block.shift == tensors[f"{tag}.shift_size"].item()
        assert torch.equal(relative_position_index(block.window), tensors[f"{tag}.relative_position_index"])
        for key in [key for key in tensors if key.startswith(f"{tag}.attn_mask_")]:
            height, width = map(int, key.rsplit("_", 1)[1].split("x"))
            assert torch.equal(shift_mask(height, width, block.window, block.shift), tensors[key])
    tensors.all_seen()


@torch.no_grad()
def test_lq_encoder(model):
    tensors = Tensors("lq_encoder")
    restorer = ITERRestorer(model, ITERConfig("published", model.config))
    padded = restorer._pad(tensors["image"], ITEROptions())
    assert torch.equal(padded, tensors["padded"])
    logits = model.lq_encoder(padded)
    close(logits, tensors["logits"])
    assert torch.equal(model.observe(padded).first, tensors["tokens"])
    x = padded
    for i, stage in enumerate(model.lq_encoder.model):
        x = stage(x)
        close(x.abs().mean(), tensors[f"stage{i}.mean_abs"])
    if "resblock.in" in tensors:
        close(model.lq_encoder.model[1][1](tensors["resblock.in"]), tensors["resblock.out"])
    tensors.all_seen()


@torch.no_grad()
def test_token_nets(model):
    tensors = Tensors("token_nets")
    for tag in [key.removesuffix(".crit_logits") for key in tensors if key.endswith(".crit_logits")]:
        tokens, first = tensors[f"{tag}.tokens"], tensors[f"{tag}.init_tokens"]
        observed = Observed(first, {})
        close(model.confidence(observed, tokens), tensors[f"{tag}.crit_logits"])
        logits = model.token_logits(observed, tensors[f"{tag}.init_mask"], tokens, tensors[f"{tag}.mask"])
        expected = tensors[f"{tag}.refine_logits"]
        close(logits[:, :, : expected.shape[2]], expected)
    tensors.all_seen()


@pytest.mark.skipif(not (FOLDER / "alt_token_nets.safetensors").exists(), reason="no other token networks")
@torch.no_grad()
def test_alternative_token_nets():
    tensors = Tensors("alt_token_nets")
    first, second, mask = tensors["t1"], tensors["t2"], tensors["mask"]

    state = tensors.part("transformer.sd.")
    channels, num_codes = state["code_emb.weight"].shape[:2]
    heads = int(re.search(r"(\d+) heads", text_of("alt_token_nets"))[1])
    layers = len({name.split(".")[2] for name in state if name.startswith("model.layers.")})
    config = TokenNetConfig("transformer", channels, num_layers=layers, num_heads=heads)
    net = make_token_net(config, num_codes, len(state["conv_out.2.bias"]))
    net.load_state_dict(state, strict=True)
    close(net.evaluate(second, first), tensors["transformer.out"])

    state = tensors.part("unet.sd.")
    channels, num_codes = state["code_emb.weight"].shape[0], state["code_emb.weight"].shape[1] - 1
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("enc_blocks."))
    widths = [len(state[f"enc_blocks.{level}.0.conv1.bias"]) for level in range(levels)]
    blocks = sum(bool(re.fullmatch(r"enc_blocks\.0\.\d+\.conv1\.bias", name)) for name in state)
    multipliers = tuple(width // channels for width in widths)
    config = TokenNetConfig("unet", channels, multipliers=multipliers, num_res_blocks=blocks)
    net = make_token_net(config, num_codes, len(state["conv_out.2.bias"]), flag=True)
    net.load_state_dict(state, strict=True)
    close(net.refine(first, mask, second, mask), tensors["unet.out"])
    tensors.all_seen()


class Replay:
    """The recorded random numbers of one item, in the order in which the published code drew them."""

    def __init__(self, tensors: Tensors, prefix: str, batch: int, item: int):
        self.tensors, self.prefix, self.batch, self.item = tensors, prefix, batch, item
        self.drawn = {"tokens": 0, "mask": 0}

    def exponential(self, size: tuple[int, ...], kind: str, step: int) -> torch.Tensor:
        name = {"tokens": "token_noise", "mask": "mask_noise"}[kind]
        noise = self.tensors[f"{self.prefix}{name}.{self.drawn[kind]}"]
        self.drawn[kind] += 1
        return noise.reshape(self.batch, *size)[self.item]


class Recorder:
    """A network that keeps what it was asked and what it answered."""

    def __init__(self, model: PublishedITER):
        self.model, self.confidences, self.logits, self.masked = model, [], [], []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def confidence(self, observed, tokens):
        self.confidences.append(self.model.confidence(observed, tokens))
        return self.confidences[-1]

    def token_logits(self, observed, trusted, tokens, kept):
        self.masked.append(1 - kept)
        self.logits.append(self.model.token_logits(observed, trusted, tokens, kept))
        return self.logits[-1]


@pytest.fixture
def drawn_positions(monkeypatch):
    """Weights and masks of every draw of positions."""
    record = []
    original = sampling.draw_positions

    def draw(weights, count, noise, step):
        mask = original(weights, count, noise, step)
        record.append((weights, mask))
        return mask

    monkeypatch.setattr(sampling, "draw_positions", draw)
    return record


def compare_draws(tensors, prefix, batch, steps, drawn):
    """Drawn tokens and positions, and the weights of the positions, against the trace."""
    for i, step in enumerate(steps):
        assert torch.equal(step.candidate.tokens, tensors[f"{prefix}token_idx.{i}"])
    draws = [key for key in tensors if key.startswith(f"{prefix}mask_idx.")]
    assert len(drawn) == batch * len(draws)
    for i in range(len(draws)):
        weights, masks = zip(*drawn[i * batch : (i + 1) * batch], strict=True)
        positions = tensors[f"{prefix}mask_idx.{i}"].sort(1).values
        assert torch.equal(torch.stack([mask.nonzero()[:, 0] for mask in masks]), positions)
        if f"{prefix}mask_prob.{i}" in tensors:
            close(torch.stack(weights), tensors[f"{prefix}mask_prob.{i}"])


CASES = about()["files"].get("sampling.safetensors", {}).get("cases", [])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_sampling(model, case, drawn_positions):
    tensors, prefix, batch = Tensors("sampling"), f"{case['name']}.", case["batch"]
    options = SamplingOptions(
        steps=case["T"],
        schedule=case["gamma"],
        threshold=case["threshold"],
        temperature_tokens=case["temp_token"],
        temperature_mask=case["temp_mask"],
        adaptive=case["adaptive"],
        batch_counts=True,
    )
    observed = Observed(tensors["init_tokens"][:batch], {})
    recorder = Recorder(model)
    sampler = TokenSampler(recorder, options)
    start = sampler.start_from(observed, PerItem(Replay(tensors, prefix, batch, i) for i in range(batch)))
    steps = list(sampler.steps(start))
    assert len(steps) == case["executed_steps"]
    compare_draws(tensors, prefix, batch, steps, drawn_positions)

    tokens, visible = sampler.reports(start, steps)
    assert torch.equal(torch.stack(tokens), tensors[f"{prefix}out_tokens"])
    assert torch.equal(torch.stack(visible), tensors[f"{prefix}masks"])
    assert [int(mask.sum()) for mask in visible] == case["visible_per_step"]

    counts = {name: sum(key.startswith(f"{prefix}{name}.") for key in tensors) for name in ("crit_logits",)}
    first = model.confidence(observed, observed.first)
    close(first, tensors["init_crit_logits"][:batch])
    for i in range(counts["crit_logits"] - len(steps)):
        close(first, tensors[f"{prefix}crit_logits.{i}"])
    for i, confidence in enumerate(recorder.confidences[len(recorder.confidences) - len(steps) :]):
        close(confidence, tensors[f"{prefix}crit_logits.{counts['crit_logits'] - len(steps) + i}"])
    for i, (logits, masked) in enumerate(zip(recorder.logits, recorder.masked, strict=True)):
        assert torch.equal(masked, tensors[f"{prefix}refine_masked_in.{i}"])
        if f"{prefix}refine_logits.{i}" in tensors:
            close(logits, tensors[f"{prefix}refine_logits.{i}"])
    if steps:
        close(recorder.logits[-1], tensors[f"{prefix}final_logits"])
    tensors.all_seen(prefix)


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in CASES if case["batch"] == 1], ids=lambda case: case["name"])
def test_counting_per_item_changes_nothing_for_one_picture(model, case):
    tensors, prefix = Tensors("sampling"), f"{case['name']}."
    options = SamplingOptions(
        case["T"],
        case["gamma"],
        case["threshold"],
        case["temp_token"],
        case["temp_mask"],
        case["adaptive"],
    )
    sampler = TokenSampler(model, options)
    start = sampler.start_from(Observed(tensors["init_tokens"][:1], {}), PerItem([Replay(tensors, prefix, 1, 0)]))
    tokens, _ = sampler.reports(start, list(sampler.steps(start)))
    assert torch.equal(torch.stack(tokens), tensors[f"{prefix}out_tokens"])


def found(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    assert match, f"the description of the reference has no {pattern}"
    return match[1]


@torch.no_grad()
def test_end_to_end(model, drawn_positions):
    tensors, facts = Tensors("end_to_end"), about()["files"]["end_to_end.safetensors"]
    text = facts["about"]
    restorer = ITERRestorer(model, ITERConfig("published", model.config))
    image = tensors["image"]
    size = tuple(side * model.scale for side in image.shape[-2:])
    temperature = float(found(text, r"temps ([\d.]*\d)"))
    options = ITEROptions(
        threshold=facts["threshold"],
        steps=int(found(text, r"T=(\d+)")),
        schedule=found(text, r"([\w.]+) schedule"),
        temperature_tokens=temperature,
        temperature_mask=temperature,
    )
    noise = [Replay(tensors, "", 1, 0)]
    sampler, state = restorer.start(image, options, noise=noise)
    assert torch.equal(state.tokens, tensors["init_tokens"])
    steps = list(sampler.steps(state))
    assert len(steps) == facts["executed_steps"]
    compare_draws(tensors, "", 1, steps, drawn_positions)
    close(restorer.decode(steps[-1].state, options)[..., : size[0], : size[1]], tensors["output"])
    drawn_positions.clear()

    grid, grid_shape = (
        restorer.token_grid(image, options, noise=[Replay(tensors, "", 1, 0)]),
        tensors["intermediate_grid_shape"],
    )
    if options.steps == 8:  # the published grid has eight columns whatever the steps
        assert list(grid.shape) == grid_shape.tolist()
    width = grid.shape[-1] // options.steps
    close(grid[..., : size[0], -width:][..., : size[1]], tensors["output"])

    kept = ITEROptions(threshold=float(found(text, r"output_all_kept: threshold ([\d.]*\d)")))
    close(restorer(image, kept), tensors["output_all_kept"])
    tile, overlap = int(found(text, r"tile (\d+) pad")), int(found(text, r"tile \d+ pad (\d+)"))
    tiled = ITEROptions(
        threshold=float(found(text, r"tile \d+ pad \d+, threshold ([\d.]*\d)")),
        tiling="published",
        tile=tile,
        tile_overlap=overlap,
    )
    close(restorer(image, tiled), tensors["output_tiled_all_kept"])
    tensors.all_seen()


def test_training(model):
    tensors = Tensors("training")
    chance = TokenChance(tensors["sample_rate_uniform"], tensors["mask_uniform"], tensors["gumbel_exp.refined"])
    names = dict(model.named_parameters())
    model.requires_grad_(True)
    model.vqgan.requires_grad_(False)
    losses = token_losses(model, tensors["lq"], tensors["gt_indices"], chance)
    close(losses.encoder, tensors["loss.token_cls"])
    close(losses.trust, tensors["loss.init_mask_balanced"])
    close(losses.critic, tensors["loss.refined_mask"])
    close(losses.refine_per_token, tensors["loss.refine_token_per_token"])
    close(losses.total, tensors["loss.total"])
    assert torch.equal(losses.encoder_logits.argmax(1, keepdim=True), tensors["lq_tokens"])
    for i, mask in enumerate((losses.trusted, losses.right, losses.accepted, losses.refined_right)):
        assert torch.equal(mask.float(), tensors[f"ret_masks.{i}"])

    picture = model.vqgan.decode_onehot(straight_through(losses.logits, chance.gumbel))
    close(picture, tensors["refined_img"])
    with torch.no_grad():
        hard = straight_through(losses.encoder_logits, tensors["gumbel_exp.lq"])
        close(model.vqgan.decode_onehot(hard), tensors["out_img"])

    losses.total.backward(retain_graph=True)
    for name, expected in tensors.part("grad_total.").items():
        close(names[name].grad, expected)
    model.zero_grad(set_to_none=True)
    l1(picture, tensors["target"]).backward()
    expected = tensors.part("grad_pix_refined.")
    has_grad = expected.pop("lq_encoder_has_grad").item()
    assert any(p.grad is not None for p in model.lq_encoder.parameters()) == bool(has_grad)
    for name, gradient in expected.items():
        close(names[name].grad, gradient, 1e-7)
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    tensors.all_seen()


def test_losses():
    tensors = Tensors("losses")
    for variant in ("legacy", "fixed"):
        quantiser = Quantiser(*tensors["codebook"].shape)
        quantiser.embedding.weight.data.copy_(tensors["codebook"])
        z = tensors["z"].clone().requires_grad_(True)
        quantised, codes, loss = quantiser(z, beta=0.25, legacy=variant == "legacy")
        close(quantised, tensors["zq"])
        assert torch.equal(codes, tensors["indices"])
        close(loss, tensors[f"{variant}.loss"])
        (loss + 0.01 * (quantised * tensors["upstream"]).sum()).backward()
        close(z.grad, tensors[f"{variant}.grad_z"])
        close(quantiser.embedding.weight.grad, tensors[f"{variant}.grad_codebook"])
    fake, real = tensors["gan.fake"], tensors["gan.real"]
    for kind in GAN_KINDS:
        mine = [
            0.1 * generator_loss(kind, fake),
            discriminator_loss(kind, real, True),
            discriminator_loss(kind, fake, False),
        ]
        close(torch.stack(mine), tensors[f"gan.{kind}"])
    close(l1(tensors["pix.a"], tensors["pix.b"]), tensors["pix.l1"])
    close(charbonnier(tensors["pix.a"], tensors["pix.b"]), tensors["pix.charbonnier"])
    for key in [key for key in tensors if key.startswith("cb.labels")]:
        loss = class_balanced_cross_entropy(tensors["cb.logits"], tensors[key])
        close(loss, tensors[key.replace("labels", "loss")])
    for key in [key for key in tensors if key.startswith("gamma.") and key != "gamma.r"]:
        close(mask_schedule(key.removeprefix("gamma."), tensors["gamma.r"]), tensors[key], 1e-6)
    tensors.all_seen()


def test_discriminator():
    tensors = Tensors("discriminator")
    state = tensors.part("sd.")
    skip = re.search(r"skip_connection (True|False)", text_of("discriminator"))[1] == "True"
    net = UNetDiscriminatorSN(state["conv0.weight"].shape[1], len(state["conv0.weight"]), skip)
    net.load_state_dict(state, strict=True)
    close(net.eval()(tensors["image"]), tensors["out_eval"])
    close(net.train()(tensors["image"]), tensors["out_train_1"])
    for name, expected in tensors.part("after.").items():
        close(net.state_dict()[name], expected)
    tensors.all_seen()


MANIFESTS = sorted(FOLDER.glob("manifest_*.json"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_published_files_have_these_tensors(path: Path):
    manifest = json.loads(path.read_text())
    shapes = {name: tuple(shape) for name, shape in manifest["keys"].items()}
    published = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        if "lq_encoder.model.0.weight" in shapes:
            config = infer_config(published)
            assert config.scale == int(found(manifest["description"], r"scale (\d+)"))
            assert config == PublishedConfig(scale=config.scale)
            net = PublishedITER(config)
        elif "quantize.embedding.weight" in shapes:
            net = SwinVQGAN(VQGANConfig())
        else:
            net = UNetDiscriminatorSN(shapes["conv0.weight"][1], shapes["conv0.weight"][0])
    assert published_shapes(net) == shapes
    assert sum(parameter.numel() for parameter in net.parameters()) == manifest["num_parameters"]
