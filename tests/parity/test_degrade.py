"""Degradations against the published code: kernels, resizes, blurs, noise, JPEG and whole random pipelines.

Tolerances: kernels 1e-12 (float64) or 1e-7 (stored as float32); images 2e-6 for float32 arithmetic in another order
(sharpening 5e-6: sums over 51 x 51 pixels); whole pipelines end in 8 bit, where a rounding at a tie may flip a pixel:
99.9 % of pixels are equal and none is off by more than 2 / 255 (a flip before a JPEG spreads over its block).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from restoration import Draws, degrade, kernels, recipe
from restoration.degradation import (
    add_gaussian_noise,
    add_poisson_noise,
    convolve,
    real_esrgan_kernels,
    shaped_kernel,
    sharpen,
)
from restoration.jpeg import jpeg, tensor_jpeg
from tests.parity.conftest import golden_root
from vision.resize import imresize, resize

INTERPOLATIONS = {1: "linear", 2: "cubic", 3: "area"}
SHAPES = {
    "bivariate_Gaussian": "",
    "bivariate_generalized_Gaussian": "generalized_",
    "bivariate_plateau": "plateau_",
}


def read(name):
    path = golden_root() / name
    if not path.with_suffix(".json").exists():
        return None, None
    return load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text())


ITER, ITER_INFO = read("iter/degradation")
PASD, PASD_INFO = read("pasd/degrade")
needs_iter = pytest.mark.skipif(ITER is None, reason="no iter/degradation in the golden folder")
needs_pasd = pytest.mark.skipif(PASD is None, reason="no pasd/degrade in the golden folder")


def channels_first(tensor):
    return tensor.movedim(-1, -3)


def assert_close(ours, wanted, tolerance):
    ours, wanted = torch.as_tensor(ours).double(), wanted.double()
    assert ours.shape == wanted.shape
    assert (ours - wanted).abs().max() <= tolerance


def assert_same_8_bit(ours, wanted):
    """`ours` in [0, 1], `wanted` in [0, 255]; see the module for the tolerance."""
    difference = ((ours.double() * 255).round() - wanted.double().round()).abs()
    assert difference.max() <= 2 and (difference > 0).double().mean() <= 1e-3


# BSRGAN, from iter/


def cases(key):
    return [] if ITER is None else sorted(name for name in ITER if re.fullmatch(key, name))


@needs_iter
def test_gaussian_kernels():
    for index, (size, sigma) in enumerate(ITER_INFO["gauss"]["size_sigma"]):
        assert_close(kernels.gaussian(size, sigma), ITER[f"gauss.{index}"], 1e-12)
    for index, (size, theta, along, across) in enumerate(ITER_INFO["aniso"]["ksize_theta_l1_l2"]):
        assert_close(kernels.rotated_gaussian(size, theta, along, across), ITER[f"aniso.{index}"], 1e-12)


@pytest.mark.parametrize("name", cases(r"shifted_kernel(_lr)?\.sf\d+"))
def test_shifted_kernels(name):
    scale = int(name.rpartition("sf")[2])
    kernel = kernels.gaussian(len(ITER[name]), 0.35 * scale)
    assert_close(kernels.shifted(kernel, scale, upper_left="_lr" not in name), ITER[name], 1e-12)


@pytest.mark.parametrize("name", cases(r"laplacian\.\d+"))
def test_laplacian_kernels(name):
    alpha = -4 / float(ITER[name][1, 1]) - 1  # the fixture does not name it: its centre is -4 / (alpha + 1)
    assert_close(kernels.laplacian(alpha), ITER[name], 1e-12)


@pytest.mark.parametrize("name", cases(r"blur_(mirror|wrap)\.\d+"))
def test_blurs(name):
    border, index = re.fullmatch(r"blur_(\w+)\.(\d+)", name).groups()
    ours = convolve(channels_first(ITER["image"]), ITER[f"aniso.{index}"], border)
    assert_close(ours, channels_first(ITER[name]), 2e-6)


@pytest.mark.parametrize("name", cases(r"imresize(_noaa)?\.\d+"))
def test_matlab_resizes(name):
    scale = ITER_INFO["imresize"]["scales"][int(name.rpartition(".")[2])]
    ours = imresize(channels_first(ITER["small"]), scale, antialias="noaa" not in name)
    assert_close(ours, channels_first(ITER[name]), 2e-6)


@pytest.mark.parametrize("name", cases(r"weights_\d+_to_\d+"))
def test_matlab_weights(name):
    length, out_length = map(int, re.findall(r"\d+", name))
    info, taps = ITER_INFO[name], ITER[name.replace("weights", "indices")].long()
    mirrored = torch.cat(
        (torch.arange(info["sym_len_start"]).flip(0), torch.arange(length), torch.arange(length).flip(0))
    )
    first = int(taps.min())  # indices into the mirrored side count from 0 or 1
    index = mirrored[taps - first] if first else mirrored[taps]
    wanted = torch.zeros(out_length, length).scatter_add_(1, index, ITER[name])
    assert_close(imresize(torch.eye(length), size=(out_length, length)), wanted, 2e-6)


@pytest.mark.parametrize("name", cases(r"resize\.\d+\.\d+"))
def test_opencv_resizes(name):
    index, code = map(int, name.split(".")[1:])
    width, height = ITER_INFO["resize"]["dsize_w_h"][index]
    ours = resize(channels_first(ITER["image"]), (height, width), INTERPOLATIONS[code])
    assert_close(ours, channels_first(ITER[name]), 2e-6)


@pytest.mark.parametrize("name", cases(r"jpeg\.\d+"))
def test_jpeg_files(name):
    ours = jpeg(channels_first(ITER["image"]), int(name.rpartition(".")[2]))
    assert_close(ours * 255, channels_first(ITER[name]), 1e-4)


@needs_iter
def test_plain_degradations():
    image = channels_first(ITER["image"])
    scale = image.shape[-1] // ITER["bicubic4"].shape[1]
    small = imresize(image, 1 / scale)
    blurred = convolve(image, ITER["aniso.0"], "wrap")
    assert_close(small, channels_first(ITER["bicubic4"]), 2e-6)
    assert_close(imresize(blurred, 1 / scale), channels_first(ITER["srmd"]), 2e-6)
    assert_close(convolve(small, ITER["aniso.0"], "wrap"), channels_first(ITER["dpsr"]), 2e-6)
    assert_close(blurred[:, ::scale, ::scale], channels_first(ITER["classical"]), 2e-6)


@needs_iter
def test_sharpening():
    image = channels_first(ITER["image"])
    assert_close(sharpen(image), channels_first(ITER["sharpen"]), 5e-6)
    strong = sharpen(image, weight=1.2, radius=10, threshold=4)
    assert_close(strong, channels_first(ITER["sharpen_strong"]), 5e-6)


def every_pixel_after(kernel):
    """Step of the unrecorded subsampling after a blur: 1 after symmetric kernels, else told by the kernel's shift."""
    if torch.allclose(kernel, kernel.flip(0, 1), atol=1e-12):
        return 1
    centroid = float((kernel.sum(0) * torch.arange(len(kernel))).sum() / kernel.sum())
    return round(1 + 2 * (len(kernel) // 2 - centroid))


TRACES = [] if ITER is None else ITER_INFO["traces"]


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace["tag"])
def test_recorded_operations_replay_one_by_one(trace):
    tag, image = trace["tag"], channels_first(ITER["image"])
    for index, op in enumerate(trace["ops"]):
        kind, recorded = op["op"], f"{tag}.op{index}"
        if kind == "jpeg":
            bytes_in = channels_first(ITER[f"{recorded}.in_u8_bgr"]).flip(0)
            assert_same_8_bit(image, bytes_in)
            image = jpeg(bytes_in.float() / 255, op["quality"])
        elif kind == "convolve":
            kernel = ITER[f"{recorded}.kernel"]
            assert len(kernel) == op["ksize"]
            image = convolve(image, kernel, op["mode"])
        elif kind == "imresize":
            image = imresize(image, op["scale"])
        elif kind == "resize":
            width, height = op["dsize"]
            image = resize(image, (height, width), INTERPOLATIONS[op["interpolation"]])
        else:
            image = image + channels_first(ITER[f"{recorded}.noise"])
        out = ITER.get(f"{recorded}.out")
        if out is not None:
            assert_close(image, channels_first(out), 1e-5)
        if kind == "convolve":
            step = every_pixel_after(ITER[f"{recorded}.kernel"])
            image = image[:, ::step, ::step]
        image = image.clamp(0, 1)
    assert_same_8_bit(image, channels_first(ITER[f"{tag}.lq"]) * 255)


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace["tag"])
def test_the_same_seeds_give_the_whole_random_pipeline(trace):
    seed = trace["python_and_numpy_seed"]
    how = recipe("bsrgan_light" if trace["pipeline"].endswith("light") else "bsrgan")
    ours = degrade(
        channels_first(ITER["image"]), replace(how, scale=trace["scale"]), Draws.from_seeds(seed, seed, seed)
    )
    assert_same_8_bit(ours, channels_first(ITER[f"{trace['tag']}.lq"]) * 255)


# Real-ESRGAN as PASD trains with it, from pasd/


def pasd_cases(key):
    return [] if PASD is None else sorted(name for name in PASD if re.fullmatch(key, name))


def pasd_image():
    return channels_first(PASD["img"])[None].float() / 255


def numbers(key, pattern):
    """Numbers that the fixture's notes give in words: the shared set's first, the held-out set's after it."""
    return [tuple(map(int, found)) for found in re.findall(pattern, PASD_INFO["names"][key])]


def assert_any_close(candidates, wanted, tolerance):
    """One of the settings that the notes name (they do not say which set this is) gives `wanted`."""
    errors = [float((torch.as_tensor(ours).double() - wanted.double()).abs().max()) for ours in candidates]
    assert min(errors) <= tolerance, errors


@pytest.mark.parametrize("name", pasd_cases(r"kernel\..*"))
def test_kernel_formulas(name):
    case = PASD_INFO["kernels"][name.removeprefix("kernel.")]
    if case["function"] == "circular_lowpass_kernel":
        cutoff, size = case["args"]
        ours = kernels.sinc(cutoff, size, pad_to=int(case["kwargs"]["pad_to"]))
    else:
        kind = "iso" if case["kwargs"]["isotropic"] else "aniso"
        ours = kernels.shaped(SHAPES[case["function"]] + kind, *case["args"])
    assert_close(ours, PASD[name], 1e-12)


@pytest.mark.parametrize("name", pasd_cases(r"rk\.\d+\.kernel1"))
def test_random_kernels(name):
    seed = int(name.split(".")[1])
    ours = real_esrgan_kernels(recipe("realesrgan"), Draws.from_seeds(seed, seed, seed))
    for kernel, part in zip(ours, ("kernel1", "kernel2", "sinc"), strict=True):
        assert_close(kernel, PASD[f"rk.{seed}.{part}"], 1e-7)


@pytest.mark.parametrize("name", pasd_cases(r"mixed\..*"))
def test_random_kernels_of_one_shape(name):
    shape = name.removeprefix("mixed.")
    shares = tuple(float(shape == other) for other in kernels.SHAPES)
    how = replace(recipe("realesrgan"), shape_shares=shares)
    note = PASD_INFO["names"]["mixed.T"]
    python = int(re.search(r"random\.seed\((\d+)\)(?!.*random\.seed)", note)[1])
    bases = [int(base) for base in re.findall(r"(\d+)\+i", note)]
    index, size = kernels.SHAPES.index(shape), len(PASD[name])
    ours = [shaped_kernel(how, how.first.sigmas, size, Draws.from_seeds(python, base + index, 0)) for base in bases]
    assert_any_close(ours, PASD[name], 1e-12)


@needs_pasd
def test_blurs_of_batches():
    seeds = sorted({int(name.split(".")[1]) for name in PASD if name.startswith("rk.")})
    image = pasd_image()
    assert_close(convolve(image, PASD[f"rk.{seeds[0]}.kernel1"]), PASD["filter2D.batch1"], 2e-6)
    pair = torch.stack([PASD[f"rk.{seeds[1]}.kernel1"], PASD[f"rk.{seeds[2]}.kernel2"]])
    assert_close(convolve(torch.cat([image, image.flip(-1)]), pair), PASD["filter2D.batch2"], 2e-6)


@pytest.mark.parametrize("name", pasd_cases(r"jpeg\.q\d+"))
def test_tensor_jpeg(name):
    assert_close(tensor_jpeg(pasd_image(), int(name.rpartition("q")[2])), PASD[name], 2e-6)


@needs_pasd
def test_tensor_jpeg_pads():
    wanted = PASD["jpeg.nonmult16"]
    image = pasd_image()[..., : wanted.shape[-2], : wanted.shape[-1]]
    note = PASD_INFO["names"]["jpeg.nonmult16"]
    qualities = [int(quality) for quality in re.findall(r"(\d+) (?:shared|held-out)", note)]
    assert_any_close([tensor_jpeg(image, quality) for quality in qualities], wanted, 2e-6)


@needs_pasd
def test_sharpening_of_batches():
    height, width = PASD["usm"].shape[-2:]
    image = pasd_image()[..., :height, :width]
    doubled = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert_close(sharpen(doubled)[..., ::2, ::2], PASD["usm"], 5e-6)


@pytest.mark.parametrize(("place", "kind"), enumerate(("gauss", "poisson")))
@needs_pasd
def test_noise(place, kind):
    how = PASD_INFO["noise"][kind]
    pairs = re.findall(r"(\d+)/(\d+) (?:shared|held-out)", PASD_INFO["names"]["noise.gauss/poisson"])
    add = add_gaussian_noise if kind == "gauss" else add_poisson_noise
    levels = how["sigma_range" if kind == "gauss" else "scale_range"]
    ours = [
        add(pasd_image(), levels, how["gray_prob"], torch.Generator().manual_seed(int(pair[place]))) for pair in pairs
    ]
    assert_any_close(ours, PASD[f"noise.{kind}"], 2e-6)


@pytest.mark.parametrize("name", pasd_cases(r"deg\.\d+\.lq_u8"))
def test_the_same_seeds_give_both_rounds(name):
    tag = name.split(".")[1]
    case = PASD_INFO["degrade"][tag]
    draws = Draws.from_seeds(case["seed_python"], case["seed_numpy"], case["seed_torch"])
    image = channels_first(PASD["deg.input"]).float() / 255
    image = image.flip(-1) if draws.python.random() < 0.5 else image
    assert_same_8_bit(image, channels_first(PASD[f"deg.{tag}.gt_u8"]))
    how = replace(recipe("realesrgan"), resize_back=case["resize_bak"])
    assert_same_8_bit(degrade(image, how, draws), channels_first(PASD[name]))
