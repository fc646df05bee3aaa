"""The verifier: how surely an image was taken at each of the places that were found for it."""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import VerifierConfig

GROUPS = 8         # of the norms
CORRELATION = 4.0  # times a cosine is of the size of the other channels
LAST_STD = 1e-3    # of the last layer's weights at the start: logits near zero


class Verifier(nn.Module):
    """
    Compares the details of an image's tokens with those of each place, direction by direction.

    Both lie on one grid, whose cells look in the same directions. Each cell sees the details of
    both, their product, and the image's cosine to the place's cells of the same row up to `reach`
    columns aside: whoever stands a few metres off sees the same things a little turned. Residual
    convolutions and the mean and maximum over the grid make one logit of it. Norms are over each
    comparison by itself, so that a logit depends on nothing else in the batch.

    grid: rows and columns of tokens. round_: the last column lies beside the first.
    """

    def __init__(
        self, config: VerifierConfig, grid: tuple[int, int], round_: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.reach = config.reach
        self.round = round_
        # As one layer over all channels, but the image's part is computed once for all places.
        self.image = nn.Linear(config.details, config.width)
        self.pair = nn.Linear(2 * config.details + 2 * config.reach + 1, config.width, bias=False)
        self.blocks = nn.ModuleList(_Block(config.width, round_) for _ in range(config.depth))
        self.hidden = nn.Linear(2 * config.width, config.width)
        self.logit = nn.Linear(config.width, 1)
        nn.init.normal_(self.logit.weight, std=LAST_STD)
        nn.init.zeros_(self.logit.bias)

    def forward(self, image: Tensor, places: Tensor) -> Tensor:
        """
        Return logits (B, k) in float32: how surely each place is where its image was taken.

        image: (B, N, c) and places: (B, k, N, c), details, N row by row.
        """
        B, k = places.shape[:2]
        image = image.unsqueeze(1)
        pair = torch.cat([places, image * places, self.correlations(image, places)], -1)
        x = F.gelu(self.image(image) + self.pair(pair))
        # Norms and gradients are slower where each token's channels lie side by side.
        x = x.flatten(0, 1).transpose(1, 2).unflatten(2, self.grid).contiguous()
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
            return self.logit(F.gelu(self.hidden(x))).reshape(B, k)

    def correlations(self, image: Tensor, places: Tensor) -> Tensor:
        """
        Return cosines, scaled, of tokens and their neighbours in the row: (B, k, N, 2 reach + 1).

        image: (B, 1, N, c); places: (B, k, N, c). Beyond the edge they are zero, or go on at the
        other edge.
        """
        columns = self.grid[1]
        with torch.autocast(image.device.type, enabled=False):
            a = F.normalize(image.float(), dim=-1).unflatten(2, self.grid)
            b = F.normalize(places.float(), dim=-1).unflatten(2, self.grid)
            if self.round:
                b = _closed(b, self.reach, 3)
            else:
                b = F.pad(b, (0, 0, self.reach, self.reach))
            found = [(a * b[..., shift:shift + columns, :]).sum(-1)
                     for shift in range(2 * self.reach + 1)]
            return CORRELATION * torch.stack(found, -1).flatten(2, 3)


class _Block(nn.Module):
    """Two convolutions of 3 x 3 with group norms, added to their input (B, C, rows, columns)."""

    def __init__(self, width: int, round_: bool) -> None:
        super().__init__()
        self.round = round_
        padding = 1, 0 if round_ else 1
        self.first = nn.Conv2d(width, width, 3, padding=padding)
        self.first_norm = nn.GroupNorm(GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=padding)
        self.second_norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first_norm(self.first(self._wide(x))))
        y = self.second_norm(self.second(self._wide(y)))
        return F.gelu(x + y)

    def _wide(self, x: Tensor) -> Tensor:
        return _closed(x, 1, 3) if self.round else x


def _closed(x: Tensor, by: int, dim: int) -> Tensor:
    """Return a circle opened along `dim`, with `by` of its entries at both ends once more."""
    if by == 0:
        return x
    size = x.shape[dim]
    return torch.cat([x.narrow(dim, size - by, by), x, x.narrow(dim, 0, by)], dim)
