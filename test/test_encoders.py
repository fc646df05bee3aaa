"""The encoders and their image input: oracles written plainly, and what a descriptor promises."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from saliency_i2ploc_ros.encoders.cloud import group_maximum
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.image import ImageEncoder, resize_positions
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.encoders.presets import CITY, PAPER
from saliency_i2ploc_ros.encoders.transformer import Attention, cls_attention
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Pinhole

# As `PAPER` has it, but small: patch stem, biases, two-stage PointNet, gated NetVLAD.
SMALL = ModelConfig(
    name='small', descriptor_dim=16,
    image=ImageConfig(height=32, width=64, dim=32, depth=2, heads=4),
    cloud=CloudConfig(tokens=TokenConfig(points=64, centres=12, neighbours=6), dim=32, depth=2,
                      heads=2, pointnet=(8, 16), pointnet_second=(16, 24), position_width=8),
    aggregation=AggregationConfig(clusters=4))


def made(config, seed=0):
    torch.manual_seed(seed)
    return DualEncoder(config).eval()


def inputs(config, B=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = config.cloud.tokens
    shape = (B, tokens.centres, tokens.neighbours, 3)
    return (torch.randn(B, 3, config.image.height, config.image.width, generator=generator),
            0.1 * torch.randn(shape, generator=generator),
            torch.randn(B, tokens.centres, 3, generator=generator))


def million(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_the_paper_preset_is_as_large_as_the_paper():
    with torch.device('meta'):
        model = DualEncoder(PAPER)
    assert million(model) == pytest.approx(57.7, rel=0.01)
    assert million(model.image.encoder) == pytest.approx(22.4, rel=0.01)
    assert million(model.cloud.encoder) == pytest.approx(22.5, rel=0.01)
    assert million(model.image.aggregation) == pytest.approx(6.4, rel=0.01)


def test_the_city_preset_is_small():
    assert million(made(CITY)) < 4.0


@pytest.mark.parametrize('config', [SMALL, CITY])
def test_shapes(config):
    images, groups, centres = inputs(config)
    for strength in (0.0, 1.0):
        model = made(config)
        model.set_saliency_strength(strength)
        with torch.no_grad():
            image, cloud = model(images, groups, centres)
        N = math.prod(config.image.grid)
        assert image.descriptor.shape == cloud.descriptor.shape == (3, config.descriptor_dim)
        assert image.saliency.shape == (3, N)
        assert cloud.saliency.shape == (3, config.cloud.tokens.centres)
        assert image.tokens.shape == (3, N, config.image.dim)
        for encoded in (image, cloud):
            torch.testing.assert_close(encoded.descriptor.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize('config', [SMALL, CITY])
def test_a_descriptor_does_not_depend_on_its_batch(config):
    model = made(config)
    images, groups, centres = inputs(config, B=7)
    with torch.no_grad():
        image, cloud = model(images, groups, centres)
        for i in (0, 6):
            one = slice(i, i + 1)
            alone, cloud_alone = model(images[one], groups[one], centres[one])
            torch.testing.assert_close(alone.descriptor, image.descriptor[one],
                                       atol=1e-5, rtol=0.0)
            torch.testing.assert_close(cloud_alone.descriptor, cloud.descriptor[one],
                                       atol=1e-5, rtol=0.0)
        again, _ = model(images, groups, centres)
        assert torch.equal(again.descriptor, image.descriptor)


@pytest.mark.parametrize('config', [SMALL, CITY])
def test_training_and_inference_compute_the_same(config):
    model = made(config)
    images, groups, centres = inputs(config)
    with torch.no_grad():
        image, cloud = model(images, groups, centres)
    model.train()
    image_training, cloud_training = model(images, groups, centres)
    torch.testing.assert_close(image_training.descriptor, image.descriptor, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(cloud_training.descriptor, cloud.descriptor, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize('config', [SMALL, CITY])
def test_every_parameter_learns(config):
    model = made(config).train()
    image, cloud = model(*inputs(config))
    (image.descriptor * cloud.descriptor.roll(1, 0)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0.0, name


def test_the_strength_is_set_in_the_model_and_in_its_configuration():
    model = made(SMALL)
    images, _, _ = inputs(SMALL)
    with torch.no_grad():
        one = model.encode_image(images)
        model.set_saliency_strength(0)
        none = model.encode_image(images)
    assert model.config.aggregation.saliency_strength == 0.0
    assert (one.descriptor - none.descriptor).abs().max() > 1e-5
    assert torch.equal(none.features, model.image.aggregation(none.tokens))
    assert SMALL.aggregation.saliency_strength == 1.0


def test_the_cls_row_is_the_first_row_of_the_attention_matrix():
    torch.manual_seed(0)
    attention = Attention(32, 4, bias=True)
    torch.nn.init.normal_(attention.qkv.weight, std=0.3)
    x = torch.randn(2, 9, 32)
    y, q, k = attention(x)
    matrix = (q @ k.transpose(2, 3) / math.sqrt(8)).softmax(3)
    torch.testing.assert_close(cls_attention(q, k), matrix[:, :, 0, 1:].mean(1))
    with torch.no_grad():
        fused, _, _ = attention(x)
    torch.testing.assert_close(fused, y, atol=1e-6, rtol=1e-5)


def reference_vit(p, images, heads, depth, patch):
    """Return a ViT's normalised tokens and last attention, from timm's state dict alone."""
    dim = p['cls_token'].shape[-1]

    def norm(x, name):
        return F.layer_norm(x, (dim,), p[name + '.weight'], p[name + '.bias'], 1e-6)

    def linear(x, name):
        return x @ p[name + '.weight'].T + p[name + '.bias']
    x = F.conv2d(images, p['patch_embed.proj.weight'], p['patch_embed.proj.bias'], patch)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([p['cls_token'].repeat(len(x), 1, 1), x], 1) + p['pos_embed']
    for i in range(depth):
        b = f'blocks.{i}.'
        q, k, v = linear(norm(x, b + 'norm1'), b + 'attn.qkv').split(dim, 2)
        out = []
        rows = 0
        for h in range(heads):
            part = slice(h * dim // heads, (h + 1) * dim // heads)
            matrix = (q[..., part] @ k[..., part].transpose(1, 2)
                      / math.sqrt(dim // heads)).softmax(2)
            rows = rows + matrix[:, 0, 1:] / heads
            out.append(matrix @ v[..., part])
        x = x + linear(torch.cat(out, 2), b + 'attn.proj')
        hidden = linear(norm(x, b + 'norm2'), b + 'mlp.fc1')
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), b + 'mlp.fc2')
    return norm(x, 'norm')[:, 1:], rows


def randomised_vit(config):
    torch.manual_seed(0)
    encoder = ImageEncoder(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def test_the_image_encoder_is_a_vit():
    encoder = randomised_vit(SMALL.image)
    images = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        tokens, attention = encoder(images)
        expected, rows = reference_vit(encoder.state_dict(), images, 4, 2, 16)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(attention, rows, atol=1e-5, rtol=1e-4)


def test_the_image_encoder_equals_timms():
    timm = pytest.importorskip('timm')
    config = ImageConfig(height=64, width=64, dim=192, depth=2, heads=3)
    encoder = randomised_vit(config)
    other = timm.models.vision_transformer.VisionTransformer(
        img_size=64, embed_dim=192, depth=2, num_heads=3, num_classes=0).eval()
    other.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], other.forward_features(images)[:, 1:],
                                   atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('config', [SMALL, CITY])
@pytest.mark.parametrize(('height', 'width', 'tokens'),
                         [(64, 48, 12), (48, 112, 21), (37, 50, 12)])
def test_images_of_other_sizes(config, height, width, tokens):
    model = made(config)
    with torch.no_grad():
        encoded = model.encode_image(torch.randn(1, 3, height, width))
    assert encoded.tokens.shape[1] == encoded.saliency.shape[1] == tokens
    torch.testing.assert_close(encoded.descriptor.norm(dim=1), torch.ones(1))


def test_position_tables_are_resized_smoothly():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing='ij')
    table = torch.cat([torch.tensor([[7.0, 7.0]]),
                       torch.stack([rows.flatten(), columns.flatten()], 1)])[None]
    assert resize_positions(table, (6, 8), (6, 8)) is table
    larger = resize_positions(table, (6, 8), (12, 24))
    assert larger.shape == (1, 1 + 12 * 24, 2)
    assert (larger[0, 0] == 7.0).all()
    grid = larger[0, 1:].reshape(12, 24, 2)
    expected = (torch.arange(12.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(grid[4:8, 12, 0], expected[4:8], atol=1e-4, rtol=0.0)
    expected = (torch.arange(24.0) + 0.5) / 3 - 0.5
    torch.testing.assert_close(grid[5, 8:16, 1], expected[8:16], atol=1e-4, rtol=0.0)


def test_the_order_of_points_and_groups_does_not_matter():
    model = made(CITY)
    _, groups, centres = inputs(CITY)
    points, order = torch.randperm(groups.shape[2]), torch.randperm(groups.shape[1])
    with torch.no_grad():
        one = model.encode_cloud(groups, centres)
        other = model.encode_cloud(groups[:, order][:, :, points], centres[:, order])
    torch.testing.assert_close(other.descriptor, one.descriptor, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(other.saliency, one.saliency[:, order], atol=1e-6, rtol=1e-4)


def test_the_maximum_of_a_group_and_its_gradient():
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    expected = x.max(2).values
    gradient = torch.randn_like(expected)
    maximum = group_maximum(x)
    assert torch.equal(maximum, expected)
    with torch.no_grad():
        assert torch.equal(group_maximum(x), expected)
    assert torch.equal(torch.autograd.grad(maximum, x, gradient)[0],
                       torch.autograd.grad(expected, x, gradient)[0])


def test_both_branches_export_with_any_batch():
    model = made(CITY)
    images, groups, centres = inputs(CITY)
    batch = torch.export.Dim('batch', min=1, max=64)
    with torch.no_grad():
        image = torch.export.export(model.image, (images,), dynamic_shapes=(({0: batch},),))
        cloud = torch.export.export(model.cloud, (groups, centres),
                                    dynamic_shapes=(({0: batch}, {0: batch}),))
        images, groups, centres = inputs(CITY, B=5, seed=2)
        for exported, expected in (
                (image.module()(images), model.encode_image(images)),
                (cloud.module()(groups, centres), model.encode_cloud(groups, centres))):
            torch.testing.assert_close(exported[0], expected.descriptor, atol=1e-5, rtol=0.0)


def test_a_configuration_that_cannot_be_is_refused():
    for wrong in ({'dim': 100, 'heads': 3}, {'stem': 'conv', 'patch': 6},
                  {'camera': Pinhole(10, 10, 5.0, 5.0, 4.5, 4.5)}, {'unknown': 1}):
        with pytest.raises(ValueError):
            ImageConfig(**{'height': 64, 'width': 208, **wrong})


# Image input

CITY_CAMERA = Pinhole(320, 96, 125.6, 125.6, 159.5, 47.5)
KITTI_360 = Pinhole(1408, 376, 552.55, 552.55, 682.05, 238.77)
KITTI_RAW = Pinhole(1242, 375, 721.54, 721.54, 609.56, 172.85)


def photograph(camera):
    """Return a picture whose red is the direction to the right and whose green is the one down."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    right, down = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    picture = np.stack([128 + 80 * right, 128 + 150 * down, 60 + 0 * u], 2)
    return np.clip(picture.round(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('camera', [CITY_CAMERA, KITTI_360, KITTI_RAW])
def test_a_direction_comes_to_one_pixel_whichever_camera_saw_it(camera):
    config = CITY.image
    virtual = config.camera
    prepared = prepare_image(photograph(camera), camera, config)
    assert prepared.shape == (3, 64, 208)
    assert prepared.dtype == np.float32
    u, v = np.meshgrid(np.arange(208), np.arange(64))
    rays = virtual.rays()
    _, seen = camera.project(rays)
    # Away from the source's border and from where the picture's colours saturate.
    seen = cv2.erode(seen.reshape(64, 208).astype(np.uint8), np.ones((5, 5)),
                     borderValue=1).astype(bool)
    red = (128 + 80 * (u - virtual.cx) / virtual.fx) / 255.0 * 2.0 - 1.0
    green = (128 + 150 * (v - virtual.cy) / virtual.fy) / 255.0 * 2.0 - 1.0
    assert seen.sum() > 5000
    # A tenth of a pixel is 80 / 83.75 * 0.1 grey levels; rounding to 8 bits is half of one.
    np.testing.assert_allclose(prepared[0][seen], red[seen], atol=1.2 / 127.5)
    np.testing.assert_allclose(prepared[1][seen], green[seen], atol=1.2 / 127.5)


def test_what_the_camera_did_not_see_is_the_mean():
    prepared = prepare_image(np.full((375, 1242, 3), 255, np.uint8), KITTI_RAW, CITY.image)
    assert (prepared[:, 32, 104] == 1.0).all()
    assert (prepared[:, :, 0] == 0.0).all()
    assert (prepared[:, 0, :] == 0.0).all()


def test_fine_patterns_are_averaged_when_shrinking():
    stripes = np.zeros((376, 1408, 3), np.uint8)
    stripes[:, ::2] = 255
    prepared = prepare_image(stripes, KITTI_360, CITY.image)
    assert np.abs(prepared[:, 20:40, 20:180]).max() < 0.2


def test_an_image_of_the_virtual_camera_is_kept():
    image = np.random.default_rng(0).integers(0, 256, (64, 208, 3)).astype(np.uint8)
    prepared = prepare_image(image, CITY.image.camera, CITY.image)
    np.testing.assert_allclose(prepared, image.transpose(2, 0, 1) / 127.5 - 1.0, atol=1e-6)


def test_a_panorama_is_resized():
    image = np.zeros((256, 512, 3), np.uint8)
    image[:, 256:] = 255
    prepared = prepare_image(image, None, SMALL.image)
    assert prepared.shape == (3, 32, 64)
    assert (prepared[:, :, :32] == -1.0).all()
    assert (prepared[:, :, 32:] == 1.0).all()


def test_images_that_do_not_fit_are_refused():
    image = photograph(CITY_CAMERA)
    with pytest.raises(InputError, match='is 320 x 96 but its camera 1408 x 376'):
        prepare_image(image, KITTI_360, CITY.image)
    with pytest.raises(InputError, match='needs its calibration'):
        prepare_image(image, None, CITY.image)
    with pytest.raises(InputError, match='uint8'):
        prepare_image(image.astype(np.float32), CITY_CAMERA, CITY.image)
    with pytest.raises(InputError, match='uint8'):
        prepare_image(image[..., 0], CITY_CAMERA, CITY.image)
    with pytest.raises(InputError, match='valid calibration'):
        prepare_image(image, Pinhole(320, 96, 0.0, 0.0, 0.0, 0.0), CITY.image)
