"""Pre-norm transformer blocks, and the attention row of the CLS token."""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F


class Attention(nn.Module):
    """
    Multi-head self-attention over tokens (B, T, C).

    fused: by PyTorch's own kernel where that is faster. An export in half precision does without:
    the graph itself must say that the softmax is in float32.
    """

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = True
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result (B, T, C), and the queries and keys (B, heads, T, C / heads)."""
        B, T, C = x.shape
        qkv = self.qkv(x).reshape(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        # On processors the backward of the fused kernel is several times slower than this.
        if not self.fused or (x.device.type == 'cpu' and torch.is_grad_enabled()):
            y = plain_attention(q, k, v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, C)), q, k


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v for (B, heads, T, d), the softmax in float32."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return logits.float().softmax(-1).to(v.dtype) @ v


def cls_attention(q: Tensor, k: Tensor) -> Tensor:
    """
    Return what the CLS token attends to: (B, T - 1), the mean over heads, in float32.

    q, k: (B, heads, T, d) of a block whose first token is CLS. This is the exact first row of its
    attention matrix, without the entry for itself, at O(T) beside fused attention.
    """
    logits = (q[:, :, :1].float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
    return logits.softmax(-1)[:, :, 0, 1:].mean(1)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, four times as wide inside."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim, bias=bias)
        self.fc2 = nn.Linear(4 * dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., arXiv 2103.17239), small at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block, named as timm names its parts."""

    def __init__(self, dim: int, heads: int, bias: bool, layer_scale: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, bias)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, bias)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens (B, T, C), and the attention's queries and keys."""
        y, q, k = self.attn(self.norm1(x))
        x = x + self.ls1(y)
        return x + self.ls2(self.mlp(self.norm2(x))), q, k


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, position: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Return the tokens (B, T, C) after all blocks, and the last one's CLS attention (B, T - 1).

    position: (B, T, C), added before every block.
    """
    q = k = x
    for block in blocks:
        x, q, k = block(x if position is None else x + position)
    return x, cls_attention(q, k)


def initialise(module: nn.Module) -> None:
    """Give linear layers ViT's usual start: weights normal with std 0.02, biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
