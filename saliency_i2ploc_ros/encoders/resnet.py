"""Residual networks over images, with timm's names; their convolutions may lie on the sphere."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn, Tensor
from torch.nn import functional as F

from .config_published import ResidualConfig, SphericalConfig
from .spherical import spherical_convolutions, wraps

# A convolution (in, out, kernel, stride) of a map `scale` times as coarse as the image.
Convolution = Callable[[int, int, int, int, int], nn.Module]


class ResNet(nn.Module):
    """
    ResNet (He et al., arXiv 1512.03385), its parameters named as timm and torchvision name them.

    With a `SphericalConfig` every convolution wider than one pixel samples its kernel on the
    viewing sphere (see `spherical`); its weights are those of the ordinary network, and so is the
    maximum pooling, except that it goes round a panorama.
    """

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        conv: Convolution = plain_convolution
        self.wraps = False
        if isinstance(config, SphericalConfig):
            assert config.camera is not None
            conv = spherical_convolutions(config.camera)
            self.wraps = wraps(config.camera)
        width = config.channels
        self.conv1 = conv(3, width, 7, 2, 1)
        self.bn1 = normalisation(width, config)
        before, expansion = width, 4 if config.bottleneck else 1
        for stage, count in enumerate(config.blocks):
            inside = width * 2 ** stage
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                scale = 4 * 2 ** max(stage - (i == 0), 0)
                blocks.append(ResidualBlock(before, inside, stride, scale, conv, config))
                before = inside * expansion
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
        for part in self.modules():
            weight = getattr(part, 'weight', None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 4:
                nn.init.kaiming_normal_(weight, mode='fan_out', nonlinearity='relu')

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return tokens (B, N, C), row by row, and a uniform saliency (B, N): there is no attention.

        images: (B, 3, H, W); of spherical convolutions only the configured size.
        """
        x = self.bn1(self.conv1(images)).relu()
        if self.wraps:
            x = F.max_pool2d(F.pad(x, (1, 1, 0, 0), mode='circular'), 3, 2, (1, 0))
        else:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f'layer{stage}')(x)
        tokens = x.flatten(2).transpose(1, 2)
        return tokens, uniform(tokens)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1, beside what came in."""

    def __init__(
        self, before: int, inside: int, stride: int, scale: int, conv: Convolution,
        config: ResidualConfig,
    ) -> None:
        super().__init__()
        if config.bottleneck:
            after = 4 * inside
            self.conv1: nn.Module = plain_convolution(before, inside, 1, 1, scale)
            self.conv2 = conv(inside, inside, 3, stride, scale)
            self.conv3: nn.Module | None = plain_convolution(inside, after, 1, 1, scale)
            self.bn3: nn.Module | None = normalisation(after, config)
        else:
            after = inside
            self.conv1 = conv(before, inside, 3, stride, scale)
            self.conv2 = conv(inside, inside, 3, 1, scale * stride)
            self.conv3 = self.bn3 = None
        self.bn1, self.bn2 = normalisation(inside, config), normalisation(inside, config)
        self.downsample = None if before == after and stride == 1 else nn.Sequential(
            plain_convolution(before, after, 1, stride, scale), normalisation(after, config))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(y.relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


def plain_convolution(
    before: int, after: int, kernel: int, stride: int, scale: int,
) -> nn.Module:
    """Return an ordinary convolution, which is the same at every scale."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def normalisation(channels: int, config: ResidualConfig) -> nn.Module:
    """Return the norm of a map with so many channels."""
    return nn.BatchNorm2d(channels) if config.norm == 'batch' else nn.GroupNorm(8, channels)


def uniform(tokens: Tensor) -> Tensor:
    """Return a saliency (B, N) of 1 / N for tokens (B, N, C)."""
    B, N = tokens.shape[:2]
    return tokens.new_full((B, N), 1.0 / N)
