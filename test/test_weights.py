"""Published weights: equal to plain oracles and to timm, resampled, from the hub by digest."""

import hashlib
import sys
import types

import numpy as np
import pytest
from safetensors.torch import save_file
import torch
from torch.nn import functional as F

from saliency_i2ploc_ros.encoders.config import ImageConfig
from saliency_i2ploc_ros.encoders.config_published import ResNetConfig, SphericalConfig
from saliency_i2ploc_ros.encoders.image import ImageEncoder, resize_positions
from saliency_i2ploc_ros.encoders.resnet import ResNet
from saliency_i2ploc_ros.encoders.weights import (
    load_image_weights,
    load_timm_resnet,
    load_timm_vit,
    local_weights,
)
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Pinhole

VIT = {'dim': 32, 'depth': 2, 'heads': 4}
# By name, as timm has them: DINO with patch 8; DINOv2 with layer scale; and with registers too.
KINDS = {
    'dino': ({'patch': 8}, {'patch_size': 8}),
    'dinov2': ({'patch': 14, 'layer_scale': True}, {'patch_size': 14, 'init_values': 1e-5}),
    'dinov2 with registers': (
        {'patch': 14, 'layer_scale': True, 'registers': 4},
        {'patch_size': 14, 'init_values': 1e-5, 'reg_tokens': 4, 'no_embed_class': True}),
}


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    for name, tensor in module.state_dict().items():
        if name.endswith('running_var'):
            tensor.abs_().add_(0.5)
    return module.eval()


def published_vit(kind, side):
    """Return a ViT as it is published: its own square grid, a classifier."""
    config = ImageConfig(height=side, width=side, **KINDS[kind][0], **VIT)
    state = randomised(ImageEncoder(config)).state_dict()
    if config.registers:
        state['pos_embed'] = state['pos_embed'][:, 1:].contiguous()  # as reg4 has it: no CLS entry
    return {**state, 'head.weight': torch.zeros(3, 32), 'head.bias': torch.zeros(3)}


def reference_tokens(p, images, patch, heads, depth, registers):
    """Return a DINOv2's patch tokens from timm's tensors alone, written plainly."""
    def norm(x, name):
        return F.layer_norm(x, (32,), p[name + '.weight'], p[name + '.bias'], 1e-6)

    def linear(x, name):
        return x @ p[name + '.weight'].T + p[name + '.bias']
    x = F.conv2d(images, p['patch_embed.proj.weight'], p['patch_embed.proj.bias'], patch)
    x = x.flatten(2).transpose(1, 2)
    cls = p['cls_token'].repeat(len(x), 1, 1)
    if registers:
        x = torch.cat([cls, p['reg_token'].repeat(len(x), 1, 1), x + p['pos_embed']], 1)
    else:
        x = torch.cat([cls, x], 1) + p['pos_embed']
    for i in range(depth):
        b = f'blocks.{i}.'
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2)
                   for part in linear(norm(x, b + 'norm1'), b + 'attn.qkv').split(32, 2))
        out = ((q @ k.transpose(2, 3) / (32 // heads) ** 0.5).softmax(3) @ v).transpose(1, 2)
        x = x + p.get(b + 'ls1.gamma', 1.0) * linear(out.flatten(2), b + 'attn.proj')
        hidden = F.gelu(linear(norm(x, b + 'norm2'), b + 'mlp.fc1'))
        x = x + p.get(b + 'ls2.gamma', 1.0) * linear(hidden, b + 'mlp.fc2')
    return norm(x, 'norm')[:, 1 + registers:]


@pytest.mark.parametrize('kind', KINDS)
def test_published_vits_are_what_they_were(kind, tmp_path):
    state = published_vit(kind, side=56)
    save_file(state, tmp_path / 'vit.safetensors')
    encoder = ImageEncoder(ImageConfig(height=56, width=56, **KINDS[kind][0], **VIT)).eval()
    load_timm_vit(encoder, tmp_path / 'vit.safetensors')
    images = torch.randn(2, 3, 56, 56)
    patch, registers = encoder.patch, encoder.registers
    with torch.no_grad():
        tokens, saliency = encoder(images)
    torch.testing.assert_close(
        tokens, reference_tokens(state, images, patch, 4, 2, registers), atol=1e-4, rtol=1e-4)
    assert saliency.shape == tokens.shape[:2] == (2, (56 // patch) ** 2)


@pytest.mark.parametrize('kind', KINDS)
def test_square_position_tables_serve_wide_images(kind, tmp_path):
    state = published_vit(kind, side=56)
    save_file(state, tmp_path / 'vit.safetensors')
    encoder = ImageEncoder(ImageConfig(height=28, width=112, **KINDS[kind][0], **VIT))
    load_timm_vit(encoder, tmp_path / 'vit.safetensors')
    table = state['pos_embed']
    if encoder.registers:
        assert (encoder.pos_embed[:, 0] == 0.0).all()
        table = torch.cat([torch.zeros(1, 1, 32), table], 1)
    side = 56 // encoder.patch
    wide = (-(-28 // encoder.patch), 112 // encoder.patch)
    expected = resize_positions(table, (side, side), wide)
    torch.testing.assert_close(encoder.pos_embed.detach(), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_published_vits_equal_timms(kind, tmp_path):
    transformer = pytest.importorskip('timm.models.vision_transformer')
    other = randomised(transformer.VisionTransformer(
        img_size=56, embed_dim=32, depth=2, num_heads=4, num_classes=0, **KINDS[kind][1]))
    save_file(other.state_dict(), tmp_path / 'vit.safetensors')
    # The images are not square: timm resamples its own table for them.
    wide = transformer.VisionTransformer(
        img_size=(56, 112), embed_dim=32, depth=2, num_heads=4, num_classes=0,
        **KINDS[kind][1]).eval()
    wide.load_state_dict({**other.state_dict(), 'pos_embed': (
        transformer.resample_abs_pos_embed(
            other.pos_embed, wide.patch_embed.grid_size,
            num_prefix_tokens=0 if wide.no_embed_class else wide.num_prefix_tokens).detach())})
    encoder = ImageEncoder(ImageConfig(height=56, width=112, **KINDS[kind][0], **VIT)).eval()
    load_timm_vit(encoder, tmp_path / 'vit.safetensors')
    images = torch.randn(2, 3, 56, 112)
    with torch.no_grad():
        expected = wide.forward_features(images)[:, wide.num_prefix_tokens:]
        torch.testing.assert_close(encoder(images)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda s: s.pop('reg_token'), 'lacks reg_token'),
    (lambda s: s.pop('blocks.1.ls2.gamma'), r'lacks blocks\.1\.ls2\.gamma'),
    (lambda s: s.update(mask_token=torch.zeros(1, 1, 32)), 'unknown mask_token'),
    (lambda s: s.update(pos_embed=torch.zeros(1, 12, 32)), 'pos_embed has 12 entries'),
])
def test_vits_that_do_not_fit_are_refused(change, message, tmp_path):
    state = published_vit('dinov2 with registers', side=56)
    change(state)
    save_file(state, tmp_path / 'vit.safetensors')
    settings = KINDS['dinov2 with registers'][0]
    with pytest.raises(InputError, match=message):
        load_timm_vit(ImageEncoder(ImageConfig(height=56, width=56, **settings, **VIT)),
                      tmp_path / 'vit.safetensors')


# ResNet

BLOCKS = {'blocks': (1, 2, 1, 1), 'channels': 8}


def reference_resnet(p, x, bottleneck):
    """Return a ResNet's last map from its tensors alone, written plainly."""
    def norm(x, name):
        return F.batch_norm(x, p[name + '.running_mean'], p[name + '.running_var'],
                            p[name + '.weight'], p[name + '.bias'])
    x = F.relu(norm(F.conv2d(x, p['conv1.weight'], None, 2, 3), 'bn1'))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(BLOCKS['blocks'], 1):
        for i in range(count):
            b, stride = f'layer{stage}.{i}.', 2 if stage > 1 and i == 0 else 1
            if bottleneck:
                y = F.relu(norm(F.conv2d(x, p[b + 'conv1.weight']), b + 'bn1'))
                y = F.relu(norm(F.conv2d(y, p[b + 'conv2.weight'], None, stride, 1), b + 'bn2'))
                y = norm(F.conv2d(y, p[b + 'conv3.weight']), b + 'bn3')
            else:
                y = F.relu(norm(F.conv2d(x, p[b + 'conv1.weight'], None, stride, 1), b + 'bn1'))
                y = norm(F.conv2d(y, p[b + 'conv2.weight'], None, 1, 1), b + 'bn2')
            if b + 'downsample.0.weight' in p:
                x = norm(F.conv2d(x, p[b + 'downsample.0.weight'], None, stride),
                         b + 'downsample.1')
            x = F.relu(x + y)
    return x


@pytest.mark.parametrize('bottleneck', [False, True])
def test_published_resnets_are_what_they_were(bottleneck, tmp_path):
    config = ResNetConfig(height=64, width=96, bottleneck=bottleneck, **BLOCKS)
    state = randomised(ResNet(config)).state_dict()
    save_file({**state, 'fc.weight': torch.zeros(2, config.dim), 'fc.bias': torch.zeros(2)},
              tmp_path / 'resnet.safetensors')
    encoder = ResNet(config).eval()
    load_image_weights(encoder, tmp_path / 'resnet.safetensors')
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        tokens, saliency = encoder(images)
        expected = reference_resnet(state, images, bottleneck)
    assert expected.shape == (2, config.dim, *config.grid)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-3)
    assert (saliency == 1.0 / 6.0).all()


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_published_resnets_equal_timms(name, tmp_path):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    other = timm.create_model(name, num_classes=5).eval()
    save_file(other.state_dict(), tmp_path / 'resnet.safetensors')
    blocks = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}[name]
    encoder = ResNet(ResNetConfig(height=64, width=96, blocks=blocks,
                                  bottleneck=name == 'resnet50')).eval()
    load_image_weights(encoder, tmp_path / 'resnet.safetensors')
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = other.forward_features(images).flatten(2).transpose(1, 2)
        torch.testing.assert_close(encoder(images)[0], expected, atol=1e-4, rtol=1e-3)


def test_ordinary_weights_serve_spherical_convolutions(tmp_path):
    config = ResNetConfig(height=64, width=96, bottleneck=False, **BLOCKS)
    plain = randomised(ResNet(config))
    save_file(plain.state_dict(), tmp_path / 'resnet.safetensors')
    # A camera so long that the sphere is flat: the same sampling, and the same result.
    long = Pinhole(96, 64, 1e5, 1e5, 47.5, 31.5)
    sphere = ResNet(SphericalConfig(height=64, width=96, bottleneck=False, camera=long,
                                    **BLOCKS)).eval()
    load_timm_resnet(sphere, tmp_path / 'resnet.safetensors')
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        np.testing.assert_allclose(sphere(images)[0], plain(images)[0], rtol=1e-2, atol=1e-3)


def test_a_resnet_without_statistics_does_not_take_those_of_another(tmp_path):
    config = ResNetConfig(height=64, width=96, bottleneck=False, **BLOCKS)
    save_file(ResNet(config).state_dict(), tmp_path / 'resnet.safetensors')
    with pytest.raises(InputError, match=r'unknown bn1\.num_batches_tracked'):
        load_timm_resnet(ResNet(config.model_copy(update={'norm': 'group'})),
                         tmp_path / 'resnet.safetensors')


# The hub

@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for huggingface_hub: it fetches one file, of one repository."""
    path = tmp_path / 'model.safetensors'
    save_file({'x': torch.ones(2)}, path)

    def download(repository, name):
        assert (repository, name) == ('timm/vit_tiny', 'model.safetensors')
        return str(path)
    module = types.ModuleType('huggingface_hub')
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, 'huggingface_hub', module)
    return path


def test_weights_come_from_the_hub_by_their_digest(hub):
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    assert local_weights(f'hub:timm/vit_tiny@{digest}') == hub
    assert local_weights(hub) == hub
    assert local_weights(None) is None
    other = digest[:-1] + ('0' if digest[-1] != '0' else '1')
    with pytest.raises(InputError, match=f'has the SHA-256 {digest}, not {other}'):
        local_weights(f'hub:timm/vit_tiny@{other}')


@pytest.mark.parametrize('name', [
    'hub:timm/vit_tiny', 'hub:timm/vit_tiny@abc', 'hub:vit@' + 64 * '0', 'hub:a/b@' + 64 * 'g'])
def test_weights_of_the_hub_need_a_digest(name, hub):
    with pytest.raises(InputError, match='OWNER/NAME@SHA256'):
        local_weights(name)


def test_no_network_and_no_hub_are_said(monkeypatch):
    def download(repository, name):
        raise OSError('no route to host')
    module = types.ModuleType('huggingface_hub')
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, 'huggingface_hub', module)
    with pytest.raises(InputError, match='no route to host'):
        local_weights('hub:timm/vit_tiny@' + 64 * '0')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match="need the extra 'hub'"):
        local_weights('hub:timm/vit_tiny@' + 64 * '0')
