"""Open a judge of any kind by its weights: comparing, rating, or with a scalar head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from reward_vlm.heads import HEAD, HeadJudge
from reward_vlm.judges import Judge
from reward_vlm.points import PointJudge
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config
from reward_vlm.templates import PAIRS, POINTS, Pair, Point
from reward_vlm.tiny import builtin_chat
from reward_vlm.vlm import ChatModel
from vision import hub


def open_judge(
    source: str | Path | None = None,
    template: Pair | Point | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Judge:
    """A judge of any kind.

    Args:
        source: folder, name on the model hub, `builtin:tiny`, or None for the embedded judge of scenes.
        template: how the weights are asked and read, one of `reward_vlm.templates.PAIRS` and `POINTS`. None: weights
            with a value_head.safetensors are a `HeadJudge`, others an `R1Judge` as their judge.json says.
        revision: of a hub source.

    Raises:
        FileNotFoundError: the source looks like a path and does not exist.
        ValueError: the source is not understood, or its weights do not fit.
    """
    where = {"device": device, "dtype": dtype}
    if template in POINTS:
        if source is None:
            raise ValueError("The judges that come with the project compare; name weights that rate.")
        found = hub.find(source, default=None, revision=revision)
        chat = (
            builtin_chat(found.name).to(**where)
            if found.path is None
            else ChatModel.from_pretrained(found.path, **where)
        )
        return PointJudge(chat, POINTS[template])
    if source is not None and template is None:
        found = hub.find(source, default=None, revision=revision)
        if found.path is not None and (found.path / HEAD).exists():
            return HeadJudge.from_pretrained(found.path, **where)
    judge = R1Judge.from_pretrained(source, revision=revision, **where)
    if template is None:
        return judge
    asked = PAIRS[template]
    config = replace(R1Config(template, asked.image_first, asked.max_new_tokens), max_pixels=judge.config.max_pixels)
    return R1Judge(judge.chat, config, judge.audited)
