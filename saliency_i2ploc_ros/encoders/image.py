"""The image encoder: a vision transformer with a CLS token."""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import VitConfig
from .transformer import Block, initialise, run_blocks


class PatchEmbed(nn.Module):
    """ViT's stem: one linear map of each patch."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


class ConvStem(nn.Module):
    """
    Three convolutions down to the patches' grid.

    Group norms, not batch norms: an image's tokens must not depend on the batch it comes in.
    """

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, dim // 4, 3, 2, 1, bias=False), nn.GroupNorm(8, dim // 4), nn.ReLU(),
            nn.Conv2d(dim // 4, dim // 2, 3, 2, 1, bias=False), nn.GroupNorm(8, dim // 2),
            nn.ReLU(), nn.Conv2d(dim // 2, dim, patch // 4, patch // 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class ImageEncoder(nn.Module):
    """
    A pre-norm ViT whose parameters have timm's names (cls_token, pos_embed, patch_embed.proj ...).

    With the stem 'patch' and timm's weights its tokens equal those of timm's ViT, DINO and DINOv2.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.grid = config.grid
        rows, columns = config.grid
        stem = PatchEmbed if config.stem == 'patch' else ConvStem
        self.patch_embed = stem(config.patch, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.bias, config.layer_scale)
            for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.registers = config.registers
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.dim))
            nn.init.trunc_normal_(self.reg_token, std=0.02)
        initialise(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return patch tokens (B, N, C), row by row, and the CLS attention over them (B, N).

        images: (B, 3, H, W) of any size; sizes that the patch does not divide are padded with the
        mean (zero) at the right and below.
        """
        H, W = images.shape[-2:]
        if H % self.patch or W % self.patch:
            images = F.pad(images, (0, -W % self.patch, 0, -H % self.patch))
        grid = self.patch_embed(images)
        x = grid.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + resize_positions(self.pos_embed, self.grid, (grid.shape[2], grid.shape[3]))
        if self.registers:
            x = torch.cat([x[:, :1], self.reg_token.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        x, attention = run_blocks(self.blocks, x)
        return self.norm(x)[:, 1 + self.registers:], attention[:, self.registers:]


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """
    Return a position table (1, 1 + rows * columns, C) resampled bicubically from grid to grid.

    The first entry is the CLS token's and stays. Resampling is done as timm does it, antialiased.
    """
    if old == new:
        return table
    grid = table[:, 1:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode='bicubic', antialias=True)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2).to(table.dtype)], 1)
