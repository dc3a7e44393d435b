"""The authors' checkpoint format: names of tensors, what follows from the sizes, and the sizes themselves.

Published files hold one dict of tensors under `params_ema` or `params`, sometimes with `module.` before every name.
Beside the weights they hold buffers that follow from the sizes (`attn_mask`, `relative_position_index`) and the
decoder a second time as `generator`. An ITER file may hold the VQGAN under `vqgan.` or leave it to the VQGAN's own
file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from restoration.iter.options import ITERConfig
from restoration.iter.published import PublishedConfig, PublishedITER
from restoration.iter.restorer import ITERRestorer
from restoration.iter.swin import SwinLayers
from restoration.iter.tokens import LQEncoderConfig, TokenNetConfig
from restoration.iter.vqgan import VQGANConfig

DERIVABLE = (".attn_mask", ".relative_position_index")
PARTS = ("vqgan.", "lq_encoder.", "token_refine_net.")


def published_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a published file of this network or part holds."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for path, layers in module.named_modules():
        if not isinstance(layers, SwinLayers):
            continue
        for i, group in enumerate(layers.swin_blks):
            for j, block in enumerate(group.residual_group.blocks):
                name = f"{path}.swin_blks.{i}.residual_group.blocks.{j}".lstrip(".")
                tokens = block.window**2
                shapes[f"{name}.attn.relative_position_index"] = (tokens, tokens)
                if block.shift:
                    windows = (layers.grid[0] // block.window) * (layers.grid[1] // block.window)
                    shapes[f"{name}.attn_mask"] = (windows, tokens, tokens)
    twice = {_second_name(name): shape for name, shape in shapes.items()}
    return shapes | twice


def _second_name(name: str) -> str:
    """`generator` for the VQGAN's decoder; other names are unchanged."""
    return re.sub(r"^(vqgan\.)?decoder\.blocks\.", r"\1generator.blocks.", name)


def tensors_of(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors of an unpickled checkpoint under plain names, without what follows from others.

    Raises:
        ValueError: it holds no dict of tensors, or a decoder that differs from its second copy.
    """
    if isinstance(checkpoint, Mapping):
        for key in ("params_ema", "params"):
            if isinstance(checkpoint.get(key), Mapping):
                checkpoint = checkpoint[key]
                break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError("It holds no dict of tensors.")
    state: dict[str, Tensor] = {}
    for name, value in checkpoint.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"It holds {name!r}, which is not a tensor, among the weights.")
        state[name.removeprefix("module.")] = value
    copies = {name: _second_name(name) for name in state if _second_name(name) != name}
    for name, copy in copies.items():
        if copy in state and not torch.equal(state[name], state[copy]):
            raise ValueError(f"The two copies of {name} in it differ.")
    only_copies = [name for name in state if re.match(r"(vqgan\.)?generator\.", name)]
    for name in only_copies:
        value = state.pop(name)
        state.setdefault(name.replace("generator.", "decoder.", 1), value)
    return state


def convert(checkpoint: Any, vqgan: Any = None) -> ITERRestorer:
    """A restorer from the authors' unpickled ITER file and, where that lacks it or another is wanted, VQGAN file.

    Raises:
        ValueError: tensors are missing, unexpected, misshapen, NaN or infinite, or the files are of other networks.
    """
    state = tensors_of(checkpoint)
    if not any(name.startswith("lq_encoder.") for name in state):
        raise ValueError(_wrong_file(state))
    if vqgan is not None:
        codes = tensors_of(vqgan)
        codes = {name if name.startswith("vqgan.") else f"vqgan.{name}": value for name, value in codes.items()}
        state = {name: value for name, value in state.items() if not name.startswith("vqgan.")}
        state |= {name: value for name, value in codes.items() if name.startswith("vqgan.")}
    if "vqgan.quantize.embedding.weight" not in state:
        raise ValueError("It holds no VQGAN; name the authors' VQGAN file as well (--vqgan ITER_swinvqgan.pth).")
    config = infer_config(state)
    with torch.device("meta"):
        model = PublishedITER(config)
    _refuse_misfits(state, model)
    weights = {name: value.float().clone() for name, value in state.items() if not name.endswith(DERIVABLE)}
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"It holds NaN or infinite weights, first in {broken[0]}; the file is damaged.")
    model.load_state_dict(weights, strict=True, assign=True)
    return ITERRestorer(model.eval(), ITERConfig("published", config, tile=512 // config.scale))


def infer_config(state: Mapping[str, Tensor]) -> PublishedConfig:
    """The sizes of the network whose tensors (plain names, all parts) these are.

    Raises:
        ValueError: a tensor that decides about a size is missing or has an impossible shape.
    """
    try:
        vqgan = _vqgan_config(state)
        encoder, scale = _encoder_config(state, vqgan.stride)
        return PublishedConfig(scale, vqgan, encoder, _token_config(state))
    except KeyError as error:
        raise ValueError(f"It lacks the tensor {error.args[0]}; is it an ITER checkpoint?") from None
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError("The shapes of its tensors are not those of an ITER network.") from error


def _vqgan_config(state: Mapping[str, Tensor]) -> VQGANConfig:
    codebook = state["vqgan.quantize.embedding.weight"]
    blocks = "vqgan.encoder.blocks"
    first = state[f"{blocks}.0.weight"]
    widths, res_blocks, level, index = [], 0, 0, 1
    while True:
        if f"{blocks}.{index}.conv1.weight" in state:
            width = state[f"{blocks}.{index}.conv1.weight"].shape[0]
            widths = [*widths[:level], width]
            res_blocks += level == 0
        elif f"{blocks}.{index}.conv.weight" in state:
            level += 1
        else:
            break
        index += 1
    # The last level and the first middle block have the same width and follow each other.
    swin = f"{blocks}.{index}"
    if f"{swin}.conv_in.weight" not in state:
        sizes: dict[str, Any] = {"global_blocks": "mhsa"}
        grid = None
    else:
        window, heads = _window(state, swin)
        sizes = {
            "swin_channels": state[f"{swin}.conv_in.weight"].shape[0],
            "swin_groups": _count(state, f"{swin}.swin_blks"),
            "swin_depth": _count(state, f"{swin}.swin_blks.0.residual_group.blocks"),
            "window": window,
            "num_heads": heads,
        }
        grid = _grid(state, swin, window)
    stride = 2 ** (len(widths) - 1)
    side = (grid or 256 // stride) * stride
    return VQGANConfig(
        num_codes=codebook.shape[0],
        code_dim=codebook.shape[1],
        in_channels=first.shape[1],
        resolution=(side, side),
        channels=first.shape[0],
        channel_multipliers=tuple(width // first.shape[0] for width in widths),
        num_res_blocks=res_blocks,
        **sizes,
    )


def _encoder_config(state: Mapping[str, Tensor], stride: int) -> tuple[LQEncoderConfig, int]:
    depth = 0
    while f"lq_encoder.model.{depth + 1}.0.weight" in state:
        depth += 1
    swin = f"lq_encoder.model.{depth + 2}"
    window, heads = _window(state, swin)
    config = LQEncoderConfig(
        channels=state["lq_encoder.model.0.weight"].shape[0],
        width=state[f"lq_encoder.model.{depth + 1}.weight"].shape[0],
        swin_channels=state[f"{swin}.conv_in.weight"].shape[0],
        swin_groups=_count(state, f"{swin}.swin_blks"),
        swin_depth=_count(state, f"{swin}.swin_blks.0.residual_group.blocks"),
        window=window,
        num_heads=heads,
    )
    return config, stride // 2**depth


def _token_config(state: Mapping[str, Tensor]) -> TokenNetConfig:
    net = "token_refine_net.token_crit_net"
    channels = state[f"{net}.code_emb.weight"].shape[0]
    if f"{net}.model.norm.weight" in state:
        return TokenNetConfig("transformer", channels, num_layers=_count(state, f"{net}.model.layers"))
    if f"{net}.conv_in.weight" in state:
        levels = range(_count(state, f"{net}.enc_blocks"))
        widths = [state[f"{net}.enc_blocks.{i}.0.conv1.weight"].shape[0] for i in levels]
        res_blocks = sum(bool(re.fullmatch(rf"{re.escape(net)}\.enc_blocks\.0\.\d+\.conv1\.weight", n)) for n in state)
        multipliers = tuple(width // channels for width in widths)
        return TokenNetConfig("unet", channels, multipliers=multipliers, num_res_blocks=res_blocks)
    swin = f"{net}.swin_layers"
    window, heads = _window(state, swin)
    return TokenNetConfig(
        channels=channels,
        swin_groups=_count(state, f"{swin}.swin_blks"),
        swin_depth=_count(state, f"{swin}.swin_blks.0.residual_group.blocks"),
        window=window,
        num_heads=heads,
    )


def _window(state: Mapping[str, Tensor], swin: str) -> tuple[int, int]:
    """Window and heads of window-attention layers, from the table of biases."""
    table = state[f"{swin}.swin_blks.0.residual_group.blocks.0.attn.relative_position_bias_table"]
    return (math.isqrt(table.shape[0]) + 1) // 2, table.shape[1]


def _grid(state: Mapping[str, Tensor], swin: str, window: int) -> int | None:
    """Side of the square token grid that the layers were made for; None when the file leaves it open."""
    block = f"{swin}.swin_blks.0.residual_group.blocks"
    mask = state.get(f"{block}.1.attn_mask")
    if mask is not None:
        return math.isqrt(mask.shape[0]) * window
    complete = f"{block}.0.attn.relative_position_index" in state and _count(state, block) > 1
    return window if complete else None  # a block that never shifts has no mask


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are under a name."""
    numbers = {name[len(prefix) + 1 :].split(".")[0] for name in state if name.startswith(f"{prefix}.")}
    return len(numbers)


def _refuse_misfits(state: Mapping[str, Tensor], model: PublishedITER) -> None:
    """Compare with the network's own tensors; derivable ones may be missing."""
    published, needed = published_shapes(model), model.state_dict()
    shared = re.compile(r"\.mid_block\.[23]\.")  # the U-Net's repeated middle
    missing = [name for name in needed if name not in state]
    extra = [name for name in state if name not in published and not shared.search(name)]
    wrong = [name for name, value in state.items() if name in published and tuple(value.shape) != published[name]]
    for text, names in (("lacks", missing), ("has the unexpected", extra), ("has the misshapen", wrong)):
        if names:
            raise ValueError(f"It {text} {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}.")


def _wrong_file(state: Mapping[str, Tensor]) -> str:
    if "quantize.embedding.weight" in state or any(name.startswith("vqgan.") for name in state):
        return "It holds a VQGAN alone; name it with --vqgan, and the ITER file with --checkpoint."
    return f"It is no ITER checkpoint: it holds {next(iter(state))} and the like, and no lq_encoder."
