"""The guided noise prediction of UNet and ControlNet, whole or in tiles.

What depends neither on the step nor on the guidance half is computed once per picture: the embedding of the degraded
picture, and the keys and values of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.pasd.unet import PASDUNet
from vision.diffusion.attention import repeat_halves, repeat_keys, text_keys
from vision.diffusion.backbone import Text
from vision.diffusion.denoise import At, guide
from vision.diffusion.memory import Kept, join_items, split_items
from vision.diffusion.tiling import GaussianTiles
from vision.refine import PerItem
from vision.tiles import Box, Tiles

EMBED = Tiles(1024, 64, 32)
"""The image encoder sees less than 32 pixels to each side, so its tiles fit together without a difference."""


class NoisePredictor:
    """Predicts the noise in latents, of one batch of pictures; one object per run.

    Args:
        unet: a `PASDUNet`.
        controlnet: a `PASDControlNet`.
        image: (b, 3, 8h, 8w) degraded pictures, RGB in [0, 1]; with fewer levels in the image encoder 4h and so on.
        positive: encoded prompts, one per picture.
        negative: what to move away from; None without guidance.
        guidance_scale: of classifier-free guidance.
        conditioning_scale: factor of the ControlNet's residuals.
        guess_mode: with guidance, the ControlNet works for the positive half alone, and weaker in early layers.
        fg_mask: (b or 1, 1, any, any); see `PASDControlNet.forward`.
        tiles: in latents; None takes every picture whole.
        guidance_every: the difference between the halves is reused until the next multiple of this step number.
        control_every: likewise the ControlNet's residuals.
    """

    def __init__(
        self,
        unet: nn.Module,
        controlnet: nn.Module,
        image: Tensor,
        positive: Text,
        negative: Text | None = None,
        *,
        guidance_scale: float = 1.0,
        conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        fg_mask: Tensor | None = None,
        tiles: Tiles | GaussianTiles | None = None,
        guidance_every: int = 1,
        control_every: int = 1,
    ):
        self.unet, self.controlnet, self.image = unet, controlnet, image
        self.positive, self.negative = positive, negative
        self.guidance_scale, self.conditioning_scale = guidance_scale, conditioning_scale
        self.guess_mode, self.tiles = guess_mode, tiles
        self.guidance_every, self.control_every = guidance_every, control_every
        self.fg_mask = fg_mask
        self.unit = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)  # pixels per latent
        # Guidance halves share what comes before the prompt, except where pooled text enters the first layer, in stock
        # networks, and with published tiles: results should then be those of the published code, and convolutions of a
        # batch of two round differently.
        stock = not isinstance(unet, PASDUNet)
        self.apart = stock or positive.pooled is not None or isinstance(tiles, GaussianTiles)
        self.pieces: dict[Any, Any] = {}  # of the picture: computed once
        self.kept: Kept = {}  # of earlier steps, for later ones

    @torch.no_grad()
    def __call__(self, latents: Tensor, at: At) -> Tensor:
        """(b, 4, h, w) -> (b, 4, h, w), after guidance."""
        self._check_size(latents)
        predict = partial(self._predict, at=at)
        if self.tiles is None:
            return predict([Box(0, 0, *latents.shape[-2:])], latents, self._embedding(None))
        if isinstance(self.tiles, GaussianTiles):
            return self.tiles.run(predict, latents, with_boxes=True)
        return self.tiles.run(predict, latents, self._embedding(None), with_boxes=True)

    def _predict(self, boxes: Sequence[Box], latents: Tensor, embedding: Tensor | None = None, *, at: At) -> Tensor:
        """Guided prediction of (n * b, 4, h, w), the tiles of n boxes; without their embedding, of one box alone."""
        embedding = self._embedding(boxes[0]) if embedding is None else embedding
        key, guides = f"guidance {_name(boxes)}", self.negative is not None
        guided = guides and not (at.index % self.guidance_every and key in self.kept)
        sample = torch.cat([latents] * 2) if guided and self.apart else latents
        down, mid = self._residuals(boxes, sample, embedding, at, guided)
        text, added, keys = self._text("unet", guided, len(boxes))
        predicted = self.unet(
            sample,
            at.timestep,
            text,
            added_cond_kwargs=added,
            cross_attention_kwargs=keys,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        if not guided:
            return predicted + self.kept[key] if guides else predicted
        negative, positive = predicted.chunk(2)
        predicted = guide(negative, positive, self.guidance_scale)
        if self.guidance_every > 1:
            self.kept[key] = predicted - positive
        return predicted

    def _residuals(
        self, boxes: Sequence[Box], sample: Tensor, embedding: Tensor, at: At, guided: bool
    ) -> tuple[list[Tensor], Tensor]:
        key = f"residuals {guided} {_name(boxes)}"
        if at.index % self.control_every and key in self.kept:
            *down, mid = self.kept[key]
            return down, mid
        alone = self.guess_mode and guided
        if alone and self.apart:
            sample = sample.chunk(2)[1]
        embedding = torch.cat([embedding] * 2)[: len(sample)]  # both halves see the same
        text, added, keys = self._text("controlnet", guided and not alone, len(boxes))
        _, down, mid = self.controlnet(
            sample,
            at.timestep,
            text,
            fg_mask=self._mask(boxes, len(text)),
            conditioning_scale=self.conditioning_scale,
            guess_mode=self.guess_mode,
            added_cond_kwargs=added,
            cross_attention_kwargs=keys,
            cond_embedding=embedding,
        )
        if alone:
            *down, mid = (torch.cat([torch.zeros_like(part), part]) for part in (*down, mid))
        if self.control_every > 1:
            self.kept[key] = [*down, mid]
            if guided:  # steps without the negative half reuse the positive one
                self.kept[f"residuals {False} {_name(boxes)}"] = [part.chunk(2)[1] for part in (*down, mid)]
        return down, mid

    def _embedding(self, box: Box | None) -> Tensor:
        """(b, c, h, w) of the whole picture; of one box of latents, (2b, c, th, tw) when both halves will need it.

        One half would do, but convolutions round differently for a batch of two, and guidance makes nine times as much
        of it: with published tiles, results should be those of the published code.
        """
        if ("embedding", box) not in self.pieces:
            image = self.image
            if box is not None:
                top, left, bottom, right = (self.unit * side for side in box)
                halves = 1 if self.negative is None or self.guess_mode else 2
                image = torch.cat([image[..., top:bottom, left:right]] * halves)
            tiles = replace(EMBED, unit=self.unit)
            self.pieces["embedding", box] = tiles.run(self._embed, image, scale=1 / self.unit)
        return self.pieces["embedding", box]

    def _embed(self, image: Tensor) -> Tensor:
        return self.controlnet.embed(image)[0]

    def _text(self, net: str, guided: bool, copies: int) -> tuple[Tensor, dict[str, Tensor] | None, Any]:
        """Text, added conditions and prepared keys of one net for `copies` tiles, negative half first."""
        key = ("text", net, guided, copies)
        if key not in self.pieces:
            module, halves = getattr(self, net), 2 if guided else 1
            texts = [self.negative, self.positive] if guided else [self.positive]
            embeds = torch.cat([text.embeds for text in texts])
            added = None
            if self.positive.pooled is not None:
                height, width = self.image.shape[-2:]
                pooled = torch.cat([text.pooled for text in texts])
                ids = pooled.new_tensor([[height, width, 0, 0, height, width]]).expand(len(pooled), -1)
                added = {
                    "text_embeds": repeat_halves(pooled, halves, copies),
                    "time_ids": repeat_halves(ids, halves, copies),
                }
            keys = repeat_keys(text_keys(module, embeds), halves, copies)
            self.pieces[key] = repeat_halves(embeds, halves, copies), added, keys
        return self.pieces[key]

    def _mask(self, boxes: Sequence[Box], count: int) -> Tensor | None:
        if self.fg_mask is None:
            return None
        mask = F.interpolate(self.fg_mask.float(), self.image.shape[-2:], mode="nearest")
        mask = mask.expand(len(self.image), -1, -1, -1)
        unit = self.unit
        parts = [mask[..., unit * b.top : unit * b.bottom, unit * b.left : unit * b.right] for b in boxes]
        return torch.cat(parts * (count // (len(boxes) * len(mask)))).to(self.image.device)

    def _check_size(self, latents: Tensor) -> None:
        if tuple(self.unit * side for side in latents.shape[-2:]) != tuple(self.image.shape[-2:]):
            raise ValueError(
                f"Latents of {tuple(latents.shape[-2:])} do not belong to a picture of {tuple(self.image.shape[-2:])}."
            )


class BatchPredictor:
    """Predicts for those pictures of a batch that a step is about; what steps keep for later ones lies in the state.

    Args:
        make: the predictor of some pictures, by their places in the batch.
        batch: how many pictures there are.
        alone: every picture by itself, because convolutions of a batch round differently.
    """

    def __init__(self, make: Callable[[list[int]], NoisePredictor], batch: int, alone: bool = False):
        self.make, self.alone = make, alone
        self.made: dict[tuple[int, ...], NoisePredictor] = {}
        self._choose(range(batch))

    def __call__(self, latents: Tensor, at: At) -> Tensor:
        """(b, 4, h, w) -> (b, 4, h, w), after guidance."""
        parts = latents.split(1 if self.alone else len(latents))
        return torch.cat([predict(part, at) for predict, part in zip(self.made.values(), parts, strict=True)])

    def recall(self, items: Tensor, memory: PerItem[Kept]) -> None:
        """See `vision.diffusion.memory.Remembering`; items (n,) int64."""
        self._choose(items.tolist())
        first = 0
        for items_of, predictor in self.made.items():
            predictor.kept = join_items(PerItem(memory[first : first + len(items_of)]))
            first += len(items_of)

    def memory(self) -> PerItem[Kept]:
        """See `vision.diffusion.memory.Remembering`."""
        parts = [split_items(predictor.kept, len(items)) for items, predictor in self.made.items()]
        return PerItem(kept for part in parts for kept in part)

    def _choose(self, items: Sequence[int]) -> None:
        groups = [(item,) for item in items] if self.alone else [tuple(items)]
        self.made = {group: self.made.get(group) or self.make(list(group)) for group in groups}


def _name(boxes: Sequence[Box]) -> str:
    return " ".join(f"{box.top},{box.left},{box.bottom},{box.right}" for box in boxes)
