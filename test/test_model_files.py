"""A model's directory and published weights: round trips, and every way they can be wrong."""

import json

import pytest
from safetensors.torch import load_file, save_file
import torch

from saliency_i2ploc_ros.cli import model as cli
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    parse_config,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import (
    encoder_hash,
    load_model,
    preprocessing_hash,
    read_provenance,
    save_model,
)
from saliency_i2ploc_ros.encoders.image import ImageEncoder, resize_positions
from saliency_i2ploc_ros.encoders.presets import CITY, PAPER, PRESETS
from saliency_i2ploc_ros.encoders.weights import load_timm_vit
from saliency_i2ploc_ros.errors import InputError

SMALL = ModelConfig(
    name='small', descriptor_dim=16,
    image=ImageConfig(height=32, width=64, dim=32, depth=2, heads=4),
    cloud=CloudConfig(tokens=TokenConfig(points=64, centres=12, neighbours=6), dim=32, depth=1,
                      heads=2, pointnet=(8, 16), pointnet_second=()),
    aggregation=AggregationConfig(clusters=4))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DualEncoder(SMALL).eval()


@pytest.fixture
def saved(model, tmp_path):
    save_model(model, tmp_path / 'model', {'commit': 'abc', 'step': 7})
    return tmp_path / 'model'


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize('config', PRESETS.values())
def test_presets_survive_json(config):
    assert parse_config(json.loads(config.model_dump_json()), 'here') == config


def test_a_model_comes_back_as_it_was(model, saved):
    back = load_model(saved)
    assert not back.training
    assert back.config == model.config
    images = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(back.encode_image(images).descriptor,
                           model.encode_image(images).descriptor)
    assert read_provenance(saved) == {'commit': 'abc', 'step': 7}
    assert encoder_hash(saved) == encoder_hash(model) == encoder_hash(back)


def test_saving_again_keeps_other_files_and_leaves_nothing_else(model, saved):
    (saved / 'README.md').write_text('card')
    model.set_saliency_strength(0.5)
    save_model(model, saved, {})
    assert sorted(p.name for p in saved.iterdir()) == [
        'README.md', 'config.json', 'model.safetensors']
    assert load_model(saved).image.saliency_strength == 0.5


def test_the_encoder_hash_changes_with_what_shapes_a_descriptor(model):
    one = encoder_hash(model)
    assert len(one) == 16
    model.config = model.config.model_copy(update={'name': 'other'})
    assert encoder_hash(model) == one
    model.set_saliency_strength(0.5)
    strength = encoder_hash(model)
    with torch.no_grad():
        model.image.encoder.norm.bias[3] += 1e-6
    assert len({one, strength, encoder_hash(model)}) == 3


def test_the_preprocessing_hash_changes_with_what_is_prepared():
    def changed(**parts):
        return preprocessing_hash(SMALL.model_copy(update=parts))
    image, cloud = SMALL.image, SMALL.cloud
    tokens = cloud.tokens.model_copy(update={'centres': 13})
    hashes = {
        preprocessing_hash(SMALL), preprocessing_hash(CITY), preprocessing_hash(PAPER),
        changed(image=image.model_copy(update={'mean': (0.4, 0.4, 0.4)})),
        changed(cloud=cloud.model_copy(update={'tokens': tokens})),
        changed(submap=SMALL.submap.model_copy(update={'voxel_m': 0.2}))}
    assert len(hashes) == 6
    assert changed(image=image.model_copy(update={'depth': 1})) == preprocessing_hash(SMALL)


def test_missing_parts_are_named(saved, tmp_path):
    with pytest.raises(InputError, match='there is no model folder'):
        load_model(tmp_path / 'nothing')
    (saved / 'model.safetensors').unlink()
    with pytest.raises(InputError, match=r'model\.safetensors: it does not exist'):
        load_model(saved)
    (saved / 'config.json').unlink()
    with pytest.raises(InputError, match=r'cannot read .*config\.json'):
        load_model(saved)


@pytest.mark.parametrize('keep', [0, 5, 2000, -1])
def test_truncated_weights_are_refused(saved, keep):
    path = saved / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match='cannot read the weights'):
        load_model(saved)


def test_altered_weights_are_refused(saved):
    path = saved / 'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r'is not what config\.json was written with'):
        load_model(saved)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    with torch.no_grad():
        model.cloud.encoder.norm.bias[0] = torch.nan
    save_model(model, tmp_path, {})
    with pytest.raises(InputError, match=r'cloud\.encoder\.norm\.bias is not finite'):
        load_model(tmp_path)


def test_weights_of_another_model_are_refused(saved):
    path = saved / 'model.safetensors'
    state = load_file(path)
    state['image.encoder.norm.weight'] = torch.zeros(5)
    state['more'] = torch.zeros(1)
    del state['cloud.encoder.norm.bias']
    save_file(state, path)
    with pytest.raises(InputError) as caught:
        load_model(saved)
    message = str(caught.value)
    assert 'lacks cloud.encoder.norm.bias' in message
    assert 'unknown more' in message
    assert 'image.encoder.norm.weight is (5,) instead of (32,)' in message
    assert '\n' not in message


@pytest.mark.parametrize(('change', 'message'), [
    (lambda v: v['model']['image'].update(widht=3), 'image.widht: Extra inputs'),
    (lambda v: v['model']['cloud'].pop('depth') and v['model']['cloud'].update(depth='x'),
     'cloud.depth'),
    (lambda v: v['model'].pop('image'), 'image: Field required'),
    (lambda v: v.update(format=99), 'of format 1'),
    (lambda v: v.pop('model'), 'model'),
])
def test_configurations_that_do_not_hold_are_refused(saved, change, message):
    rewrite(saved / 'config.json', change)
    with pytest.raises(InputError, match=message) as caught:
        load_model(saved)
    assert '\n' not in str(caught.value)


def test_a_configuration_that_is_not_json_is_refused(saved):
    (saved / 'config.json').write_text('{"format"')
    with pytest.raises(InputError, match='not valid JSON'):
        load_model(saved)


# Published weights

CONFIG = ImageConfig(height=32, width=64, dim=32, depth=1, heads=4)


def timm_state(side=3):
    """Return the tensors of a tiny ViT as timm publishes one: a square table, a classifier."""
    shapes = {
        'cls_token': (1, 1, 32), 'pos_embed': (1, 1 + side * side, 32),
        'patch_embed.proj.weight': (32, 3, 16, 16), 'patch_embed.proj.bias': (32,),
        'blocks.0.norm1.weight': (32,), 'blocks.0.norm1.bias': (32,),
        'blocks.0.attn.qkv.weight': (96, 32), 'blocks.0.attn.qkv.bias': (96,),
        'blocks.0.attn.proj.weight': (32, 32), 'blocks.0.attn.proj.bias': (32,),
        'blocks.0.norm2.weight': (32,), 'blocks.0.norm2.bias': (32,),
        'blocks.0.mlp.fc1.weight': (128, 32), 'blocks.0.mlp.fc1.bias': (128,),
        'blocks.0.mlp.fc2.weight': (32, 128), 'blocks.0.mlp.fc2.bias': (32,),
        'norm.weight': (32,), 'norm.bias': (32,),
        'head.weight': (10, 32), 'head.bias': (10,),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_published_weights_are_loaded(tmp_path):
    state = timm_state()
    save_file(state, tmp_path / 'vit.safetensors')
    encoder = ImageEncoder(CONFIG)
    load_timm_vit(encoder, tmp_path / 'vit.safetensors')
    loaded = encoder.state_dict()
    assert set(loaded) == set(state) - {'head.weight', 'head.bias'}
    for name in set(loaded) - {'pos_embed'}:
        assert torch.equal(loaded[name], state[name]), name
    assert torch.equal(loaded['pos_embed'], resize_positions(state['pos_embed'], (3, 3), (2, 4)))


@pytest.mark.parametrize(('change', 'message'), [
    (lambda s: s.pop('blocks.0.mlp.fc2.bias'), r'lacks blocks\.0\.mlp\.fc2\.bias'),
    (lambda s: s.update({'blocks.0.ls1.gamma': torch.ones(32)}), r'unknown blocks\.0\.ls1\.gamma'),
    (lambda s: s.update({'norm.weight': torch.ones(64)}), r'norm\.weight is \(64,\)'),
    (lambda s: s.update({'pos_embed': torch.ones(1, 12, 32)}), 'pos_embed has 12 entries'),
    (lambda s: s.update({'norm.weight': torch.full((32,), torch.inf)}), 'not finite'),
    (lambda s: s.pop('pos_embed'), 'lacks pos_embed'),
])
def test_published_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    state = timm_state()
    change(state)
    save_file(state, tmp_path / 'vit.safetensors')
    encoder = ImageEncoder(CONFIG)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_timm_vit(encoder, tmp_path / 'vit.safetensors')
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_published_weights_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match='it does not exist'):
        load_timm_vit(ImageEncoder(CONFIG), tmp_path / 'none.safetensors')
    (tmp_path / 'text.safetensors').write_text('hello')
    with pytest.raises(InputError, match='cannot read the weights'):
        load_timm_vit(ImageEncoder(CONFIG), tmp_path / 'text.safetensors')


def test_the_command_prints_what_a_model_is(saved, model, capsys):
    cli.command(str(saved))
    printed = capsys.readouterr().out
    for expected in ('small', '4 x 2 tokens', '16 numbers', encoder_hash(model),
                     preprocessing_hash(SMALL), 'commit', 'abc'):
        assert expected in printed
    cli.command('city')
    assert '2.91 M' in capsys.readouterr().out
    with pytest.raises(InputError, match='neither a model folder nor a preset'):
        cli.command('village')
