"""First weights of the image encoder that see fine structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reward_vlm.spectrum import cosines, start_with_spectra
from reward_vlm.tiny import TinySize, tiny_chat_model
from vision.faults import KINDS, SIDE, spoil

SIZE = TinySize(hidden=64, layers=2, image_layers=1, image_hidden=96)


def test_cosines_are_orthogonal_and_as_long_as_their_frequencies():
    filters = cosines(14, 196).flatten(1).double()
    gram = filters @ filters.T
    lengths = gram.diagonal().sqrt()
    assert torch.allclose(gram, torch.diag(lengths**2), atol=1e-4)
    assert lengths[0] == pytest.approx(0.1) and torch.all(lengths[1:].diff() > -1e-5)
    assert lengths[-1] == pytest.approx(np.hypot(13, 13), rel=1e-5)
    assert filters[1:].sum(1).abs().max() < 1e-4  # none but the first answers to the mean colour


def test_an_encoder_that_starts_with_spectra_sees_faults_before_any_training():
    """A linear reading of its features tells the faults apart; of a random one it cannot."""
    found = {}
    for start in ("random", "spectra"):
        chat = tiny_chat_model(size=TinySize(**vars(SIZE) | {"image_start": start}))
        tokens, kinds = _tokens(chat)
        tokens = torch.cat([tokens, torch.ones(len(tokens), 1)], 1)
        wanted = torch.eye(len(KINDS))[kinds]
        half = len(tokens) // 2
        weight = torch.linalg.solve(
            tokens[:half].T @ tokens[:half] + torch.eye(tokens.shape[1]), tokens[:half].T @ wanted[:half]
        )
        found[start] = ((tokens[half:] @ weight).argmax(1) == kinds[half:]).float().mean().item()
    assert found["spectra"] > 0.6 and found["spectra"] > found["random"] + 0.2, found


def _tokens(chat) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean features of the patches (240, 96) of crops of a rough picture with strong faults, and their kinds."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.fft2(rng.normal(size=(256, 256)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    field = np.fft.ifft2(spectrum / (frequency + 1 / 256)).real  # as rough as photographs
    picture = Image.fromarray((127 + 60 * field / field.std()).clip(0, 255).astype(np.uint8)).convert("RGB")
    pictures, kinds = [], []
    for number in range(240):
        x, y = (int(place) for place in rng.integers(0, 256 - SIDE, 2))
        kinds.append(number % len(KINDS))
        pictures.append(spoil(picture.crop((x, y, x + SIDE, y + SIDE)), KINDS[kinds[-1]], 0.8, rng))
    with torch.no_grad():
        inputs = chat.processor.image_processor(pictures, return_tensors="pt")
        patches = chat.model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"]).last_hidden_state
    return patches.view(240, 16, -1).mean(1), torch.tensor(kinds)


def test_too_few_hidden_units_are_refused():
    encoder = tiny_chat_model(size=SIZE).model.model.visual
    mlp = encoder.blocks[0].mlp
    mlp.gate_proj.weight = torch.nn.Parameter(mlp.gate_proj.weight[:100])
    with pytest.raises(ValueError, match="96 channels need 192 hidden units, got 100"):
        start_with_spectra(encoder)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="image_hidden must be a multiple of 16 and at least 32, got 40"):
        TinySize(image_hidden=40)
