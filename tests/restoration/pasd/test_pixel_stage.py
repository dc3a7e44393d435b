"""The last stage of the small PASD learns from the pictures that a user gets."""

from __future__ import annotations

import torch

from restoration.pasd import PASDOptions, PASDRestorer
from restoration.pasd.pixel_stage import STEPS, Finishing
from restoration.pasd.unet import is_trained
from vision.refine import drain


def test_pictures_that_are_learnt_from_are_those_of_the_sampler_and_the_last_step_has_gradients():
    restorer = PASDRestorer.from_pretrained("builtin:tiny")
    stage, low = Finishing(restorer), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calls = []
    hook = restorer.unet.register_forward_hook(lambda module, inputs, output: calls.append(output[0].requires_grad))
    restored, decoded, heads = stage.restore(low, torch.Generator().manual_seed(1))
    hook.remove()
    assert calls == [False] * (STEPS - 1) + [True] and len(heads) > 0

    side = round(16 * restorer.config.scale)
    options = PASDOptions(steps=STEPS, start="noise", guidance_scale=1.0, tile=0, vae_tile=0, process_size=side)
    text, draws = restorer.text([restorer.config.added_prompt] * 2), torch.Generator().manual_seed(1)
    run = restorer.start(low, options, text=(text, None), noise=lambda shape: torch.randn(shape, generator=draws))
    shown = restorer.decode(drain(restorer.run_steps(run)).state, options)
    torch.testing.assert_close(decoded.detach().clamp(0, 1), shown, rtol=0, atol=1e-4)
    assert restored.shape == shown.shape

    decoded.mean().backward()
    learnt = {name for name, value in stage.unet.named_parameters() if value.grad is not None}
    assert learnt and all(is_trained(name) for name in learnt)
    assert any(value.grad is not None for value in stage.controlnet.parameters())
    assert any(value.grad is not None for value in stage.decoder.parameters())
