"""Window-attention blocks of ITER: SwinIR's blocks with a squeeze-excite gate inside the perceptron.

Differences from SwinIR (Liang et al. 2021), all of them the published ITER networks':

- The perceptron's hidden units are gated by an average over all tokens of the picture, so every output depends on the
  whole picture: tiles and the whole differ everywhere, not only at seams.
- `SwinLayers` ends without a norm; a block whose construction grid is not larger than its window shrinks the window
  to the grid and never shifts, whatever size it sees later.

Attention masks and position indices follow from the sizes and are made once per call for all blocks; the authors'
checkpoints carry them as buffers, ours do not.

Shapes: b batch, c channels, h x w grid of tokens, n windows of a grid, l tokens of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_index(window: int, device: torch.device | None = None) -> Tensor:
    """(l, l) int64: row of the bias table for every pair (query, key) of a window of `window` x `window` tokens."""
    places = torch.arange(window * window, device=device)
    rows, columns = places // window, places % window
    down = rows[:, None] - rows[None, :] + window - 1
    right = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + right


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """(n, l, l) float: 0 where two tokens of a shifted window are close in the picture, -100 where they are not."""
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    row_region = (rows >= height - window).int() + (rows >= height - shift).int()
    column_region = (columns >= width - window).int() + (columns >= width - shift).int()
    regions = 3 * row_region[:, None] + column_region[None, :]
    regions = split_windows(regions[None, :, :, None], window)[..., 0]  # (n, l)
    return (regions[:, :, None] != regions[:, None, :]).float() * -100.0


def split_windows(x: Tensor, window: int) -> Tensor:
    """(b, h, w, c) -> (b * n, l, c), windows row by row."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def join_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(b * n, l, c) -> (b, h, w, c), the inverse of `split_windows`."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


class WindowAttention(nn.Module):
    """Self-attention inside windows with a learned bias per relative position."""

    def __init__(self, channels: int, num_heads: int, window: int):
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (b * n, l, c) -> same; `index` as `relative_position_index`, mask (n, l, l) added to the scores."""
        windows, length, channels = x.shape
        q, k, v = self.qkv(x).view(windows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]  # (1, heads, l, l)
        if mask is not None:
            bias = (bias + mask[:, None].to(bias)).repeat(windows // len(mask), 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(windows, length, channels))


class GatedMLP(nn.Module):
    """Perceptron whose hidden units are gated by their mean over all tokens (squeeze and excite)."""

    def __init__(self, channels: int, ratio: int = 4, squeeze: int = 16):
        super().__init__()
        hidden = channels * ratio
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.attn = nn.Sequential(nn.Linear(hidden, hidden // squeeze), nn.SiLU(), nn.Linear(hidden // squeeze, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(b, h * w, c) -> same."""
        x = F.gelu(self.fc1(x))
        gate = torch.sigmoid(self.attn(x.mean(1, keepdim=True)))
        return self.fc2(x * gate)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)); odd blocks of a group shift their windows by half."""

    def __init__(self, channels: int, num_heads: int, window: int, shift: int, grid: tuple[int, int]):
        super().__init__()
        if min(grid) <= window:
            window, shift = min(grid), 0
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = GatedMLP(channels)

    def forward(self, x: Tensor, height: int, width: int, index: Tensor, mask: Tensor | None) -> Tensor:
        """(b, h * w, c) -> same; `mask` is `shift_mask` of this size, used by shifted blocks alone."""
        b, _, c = x.shape
        windows = self.norm1(x).view(b, height, width, c)
        if self.shift:
            windows = windows.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(split_windows(windows, self.window), index, mask if self.shift else None)
        windows = join_windows(windows, self.window, height, width)
        if self.shift:
            windows = windows.roll((self.shift, self.shift), dims=(1, 2))
        x = x + windows.reshape(b, height * width, c)
        return x + self.mlp(self.norm2(x))


class ResidualSwinGroup(nn.Module):
    """Swin blocks, a convolution, and a skip around both (RSTB of SwinIR)."""

    def __init__(self, channels: int, depth: int, num_heads: int, window: int, grid: tuple[int, int]):
        super().__init__()
        blocks = [SwinBlock(channels, num_heads, window, window // 2 if j % 2 else 0, grid) for j in range(depth)]
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(blocks)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """(b, c, h, w) -> same."""
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.residual_group.blocks:
            tokens = block(tokens, height, width, index, mask)
        return x + self.conv(tokens.transpose(1, 2).unflatten(2, (height, width)))


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Sizes of groups of window attention."""

    swin_groups: int = 1
    """Groups of window-attention blocks."""
    swin_depth: int = 6
    """Blocks per group."""
    window: int = 8
    """Side of the attention windows in tokens."""
    num_heads: int = 8
    """Attention heads."""


class SwinLayers(nn.Module):
    """Convolution into `swin_channels`, residual Swin groups, convolution back, and a skip around all.

    Args:
        channels: of input and output.
        swin_channels: inside the groups.
        config: sizes.
        grid: (height, width) that the network was made for; decides whether windows shrink (see the module docstring).
    """

    def __init__(self, channels: int, swin_channels: int, config: SwinConfig, grid: tuple[int, int]):
        super().__init__()
        self.grid = tuple(grid)
        self.conv_in = nn.Conv2d(channels, swin_channels, 3, padding=1)
        sizes = swin_channels, config.swin_depth, config.num_heads, config.window, grid
        groups = [ResidualSwinGroup(*sizes) for _ in range(config.swin_groups)]
        self.swin_blks = nn.ModuleList(groups)
        self.conv_out = nn.Conv2d(swin_channels, channels, 3, padding=1)

    @property
    def window(self) -> int:
        """Sides of the input must be multiples of it."""
        return self.swin_blks[0].residual_group.blocks[0].window

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> same.

        Raises:
            ValueError: height or width is no multiple of the window.
        """
        height, width = x.shape[-2:]
        if height % self.window or width % self.window:
            raise ValueError(
                f"The token grid must be a multiple of {self.window} on both sides, got {height} x {width}."
            )
        shifts = {block.shift for group in self.swin_blks for block in group.residual_group.blocks} - {0}
        mask = shift_mask(height, width, self.window, shifts.pop(), x.device) if shifts else None
        index = relative_position_index(self.window, x.device)
        y = self.conv_in(x)
        for group in self.swin_blks:
            y = group(y, index, mask)
        return x + self.conv_out(y)
