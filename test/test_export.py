"""Graphs that answer as the model does, and the check that would find one that does not."""

import hashlib
import json
import shutil
import zipfile

from helpers_cli import i2ploc
import helpers_drives
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.data.drive import Scan
from saliency_i2ploc_ros.data.kitti360 import DriveWriter, write_calibration
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    RangeConfig,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export import graphs, parity, tensorrt
from saliency_i2ploc_ros.export.parity import answers_of, check_parity, Outputs, Reference
from saliency_i2ploc_ros.export.runners import run_onnx, run_pt2
from saliency_i2ploc_ros.export.writer import export_model
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

CAMERA = Pinhole(32, 16, 12.0, 12.0, 15.5, 7.5)
IMAGE = ImageConfig(height=16, width=32, patch=8, dim=32, depth=1, heads=2, stem='conv',
                    camera=CAMERA)
CLOUDS = {
    'points': CloudConfig(tokens=TokenConfig(points=64, centres=6, neighbours=8), dim=32, depth=1,
                          heads=2, pointnet=(8, 16), pointnet_second=(16, 16), position_width=16),
    'range': RangeConfig(height=16, width=32, patch=8, dim=32, depth=1, heads=2, stem='conv'),
}
SHAPES = {'points': ((6, 8, 3), (6, 3)), 'range': ((1, 16, 32),)}


def model_of(kind: str) -> DualEncoder:
    """Return a small model whose layers and saliency all matter."""
    torch.manual_seed(3)
    model = DualEncoder(ModelConfig(
        name='tiny', descriptor_dim=16, image=IMAGE, cloud=CLOUDS[kind],
        aggregation=AggregationConfig(clusters=4, mean_token=True)))
    with torch.no_grad():
        for value in model.parameters():  # zeros and ones at the start would hide what is lost
            value.add_(0.2 * torch.randn_like(value))
    return model.eval()


def inputs_of(branch: str, kind: str, count: int = 7):
    rng = np.random.default_rng(len(kind))
    shapes = ((3, 16, 32),) if branch == 'image' else SHAPES[kind]
    return tuple(rng.uniform(0.5, 3.0, (count, *shape)).astype(np.float32) for shape in shapes)


def one_by_one(module, inputs):
    """Return what a branch makes of each input by itself."""
    with torch.inference_mode():
        single = [module(*(torch.from_numpy(v[i:i + 1]) for v in inputs))
                  for i in range(len(inputs[0]))]
    return (torch.cat([one.descriptor for one in single]).numpy(),
            torch.cat([one.saliency for one in single]).numpy())


@pytest.mark.parametrize('branch', ['image', 'cloud'])
@pytest.mark.parametrize('suffix', ['pt2', 'onnx'])
def test_a_graph_answers_as_the_model_at_sizes_it_was_not_captured_with(made, branch, suffix):
    _, export, model = made
    path = export / f'{branch}.{suffix}'
    run = run_pt2(path) if suffix == 'pt2' else run_onnx(path)
    inputs = inputs_of(branch, 'points')
    descriptors, saliency = one_by_one(getattr(model, branch), inputs)
    for size in (1, 3, 7):
        found, attention, _ = run(*(value[:size] for value in inputs))
        assert np.abs(found - descriptors[:size]).max() < 2e-6
        assert np.abs(attention - saliency[:size]).max() < 2e-6


def test_a_range_image_is_exported_as_groups_of_points_are(tmp_path):
    module, inputs = model_of('range').cloud, inputs_of('cloud', 'range')
    graphs.write_pt2(graphs.capture(module, (inputs[0][:2],)), tmp_path / 'a.pt2')
    found, attention, none = run_pt2(tmp_path / 'a.pt2')(*inputs)
    assert none is None
    descriptors, saliency = one_by_one(module, inputs)
    assert np.abs(found - descriptors).max() < 2e-6
    assert np.abs(attention - saliency).max() < 2e-6


def test_half_precision_keeps_norms_softmax_and_normalisation_in_float32(tmp_path):
    module, inputs = model_of('points').cloud, inputs_of('cloud', 'points')
    graph = graphs.capture(graphs.in_half_precision(module), tuple(v[:2] for v in inputs))
    kinds = {}
    for node in graph.graph.nodes:
        if node.op == 'call_function' and isinstance(node.meta['val'], torch.Tensor):
            kinds.setdefault(str(node.target), set()).add(node.meta['val'].dtype)
    for name in ('aten.layer_norm.default', 'aten.softmax.int', 'aten.linalg_vector_norm.default'):
        assert kinds[name] == {torch.float32}, name
    assert kinds['aten.linear.default'] == {torch.float16}
    assert 'aten.scaled_dot_product_attention.default' not in kinds

    graphs.write_pt2(graph, tmp_path / 'a.pt2')
    graphs.write_onnx(graph, tmp_path / 'a.onnx', ('groups', 'centres'))
    descriptors, _ = one_by_one(module, inputs)
    for run in (run_pt2(tmp_path / 'a.pt2'), run_onnx(tmp_path / 'a.onnx')):
        found, attention, _ = run(*inputs)
        error = np.abs(found - descriptors).max()
        assert 1e-6 < error < 2e-2, 'not in half precision, or not the same'
        assert found.dtype == attention.dtype == np.float32
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(7), abs=1e-6)

    written = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / 'a.onnx'), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type
             for v in [*written.graph.value_info, *written.graph.output, *written.graph.input]}
    types |= {v.name: v.data_type for v in written.graph.initializer}
    single = {'LayerNormalization', 'InstanceNormalization', 'Softmax', 'ReduceL2', 'ReduceSum'}
    seen = {node.op_type for node in written.graph.node
            if node.op_type in single
            and types[node.output[0]] == types[node.input[0]] == onnx.TensorProto.FLOAT}
    assert seen == single & {node.op_type for node in written.graph.node}
    assert {'LayerNormalization', 'Softmax', 'ReduceL2'} <= seen
    assert any(node.op_type == 'MatMul' and types[node.output[0]] == onnx.TensorProto.FLOAT16
               for node in written.graph.node)
    assert {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in written.graph.input} == {'groups': ['batch', 6, 8, 3],
                                              'centres': ['batch', 6, 3]}


def test_the_original_is_left_as_it_was():
    module, inputs = model_of('range').image, inputs_of('image', 'range', 2)
    before = answers_of(module, inputs)
    graphs.in_half_precision(module)
    after = answers_of(module, inputs)
    assert np.array_equal(after.outputs.descriptor, before.outputs.descriptor)
    assert all(value.dtype == torch.float32 for value in module.parameters())


# ---- parity ----

RNG = np.random.default_rng(1)
UNIT = RNG.normal(size=(8, 16)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
GIVEN = Reference((np.arange(8, dtype=np.float32)[:, None],),
                  Outputs(UNIT, RNG.uniform(size=(8, 4)).astype(np.float32)))


def faithful(x):
    rows = x[:, 0].astype(int)
    return Outputs(GIVEN.outputs.descriptor[rows], GIVEN.outputs.saliency[rows])


def broken(what):
    def run(x):
        return Outputs(*wrong(x))

    def wrong(x):
        d, s, _ = faithful(x)
        rng = np.random.default_rng(2)
        noise = rng.normal(size=d.shape).astype(np.float32)
        noise -= (noise * d).sum(1, keepdims=True) * d
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        if what == 'noise':  # a cosine of 0.9998
            return (np.float32(0.9998) * d + np.float32(0.02) * noise), s
        if what == 'batch mixed':
            return np.roll(d, 1, axis=0), s
        if what == 'batch fixed' and len(d) > 2:
            return d[:2], s[:2]
        if what == 'length':
            return d * np.float32(1.05), s
        if what == 'nan' and len(d) == 5:
            return np.where(np.arange(5)[:, None] == 4, np.nan, d).astype(np.float32), s
        if what == 'saliency':
            return d, s[:, ::-1]
        if what == 'double':
            return d.astype(np.float64), s
        return d, s
    return run


def test_a_faithful_graph_passes_and_its_figures_are_kept():
    found = check_parity(faithful, GIVEN, 'float32', 'it')
    assert list(found['descriptor_cosine']) == ['1', '2', '5', '8']
    assert min(found['descriptor_cosine'].values()) == pytest.approx(1.0, abs=1e-12)
    pairs = [float(a @ b) for a in UNIT for b in UNIT]
    assert found['apart'] == pytest.approx(min(pairs), abs=1e-6)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize('what, says', [
    ('noise', r'batch of 1 its descriptors agree .* 0.9998\d* only, at least 0.9999'),
    ('batch mixed', 'batch of 2 its descriptors agree'),
    ('batch fixed', r'batch of 5 its descriptors are \(2, 16\)'),
    ('length', 'its descriptors agree'), ('nan', 'batch of 5 .* nan'),
    ('saliency', 'its saliencies agree'), ('double', 'float64')])
def test_a_graph_that_answers_otherwise_is_refused_with_the_figure(what, says):
    with pytest.raises(InputError, match=says):
        check_parity(broken(what), GIVEN, 'float32', 'it')


def test_half_precision_may_differ_by_more():
    assert min(check_parity(broken('noise'), GIVEN, 'float16', 'it')
               ['descriptor_cosine'].values()) == pytest.approx(0.9998, abs=2e-5)


# ---- the folder ----

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Return a model's folder, its export, and the model."""
    root = tmp_path_factory.mktemp('made')
    model = model_of('points')
    save_model(model, root / 'model', {'step': 1})
    export_model(root / 'model', root / 'export', ('pt2', 'onnx'), False,
                 inputs_of('image', 'points'), inputs_of('cloud', 'points'), 'a test')
    return root / 'model', root / 'export', model


def test_an_export_says_what_it_is(made):
    folder, export, model = made
    manifest = json.loads((export / 'export.json').read_text())
    assert manifest['encoder_hash'] == encoder_hash(model)
    assert manifest['preprocessing_hash'] == preprocessing_hash(model.config)
    assert (export / 'config.json').read_bytes() == (folder / 'config.json').read_bytes()
    files = {'image.pt2', 'image.onnx', 'cloud.pt2', 'cloud.onnx', 'samples.safetensors'}
    assert set(manifest['files']) == files
    assert {p.name for p in export.iterdir()} == files | {'export.json', 'config.json'}
    for name, file in manifest['files'].items():
        data = (export / name).read_bytes()
        assert file['sha256'] == hashlib.sha256(data).hexdigest()
        assert file['bytes'] == len(data)
        if name != 'samples.safetensors':
            assert min(file['parity']['descriptor_cosine'].values()) >= 0.9999
            assert set(file['parity']['descriptor_cosine']) == {'1', '2', '5', '7'}
    assert manifest['versions']['torch'] == torch.__version__
    assert onnx.load(export / 'image.onnx').opset_import[0].version == manifest['opset']


def test_nothing_in_a_pt2_is_pickled_and_what_is_would_not_be_read(made, tmp_path):
    _, export, model = made
    with zipfile.ZipFile(export / 'image.pt2') as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            data = archive.read(entry)
            assert not data.startswith((b'\x80', b'PK')), entry.filename
    graph = graphs.capture(model.image, inputs_of('image', 'points', 2))
    torch.export.save(graph, str(tmp_path / 'plain.pt2'))
    with pytest.raises(InputError, match='might be a program'):
        graphs.read_pt2(tmp_path / 'plain.pt2')
    (tmp_path / 'cut.pt2').write_bytes((export / 'image.pt2').read_bytes()[:1000])
    with pytest.raises(InputError, match='cannot be read'):
        graphs.read_pt2(tmp_path / 'cut.pt2')


def test_a_refused_export_leaves_nothing(made, tmp_path, monkeypatch):
    folder, _, _ = made
    monkeypatch.setitem(parity.LIMIT, 'float16', 1.0)
    with pytest.raises(InputError, match=r'image.pt2 is refused: .* cosine of [01]\.\d+ only'):
        export_model(folder, tmp_path / 'out', ('pt2',), True, inputs_of('image', 'points'),
                     inputs_of('cloud', 'points'), 'a test')
    assert list(tmp_path.iterdir()) == []


def test_only_an_export_is_overwritten(made, tmp_path):
    folder, _, _ = made
    given = (('pt2',), False, inputs_of('image', 'points'), inputs_of('cloud', 'points'), 'a test')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('all of it')
    with pytest.raises(InputError, match='it is no export'):
        export_model(folder, tmp_path / 'mine', *given, overwrite=True)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'all of it'
    with pytest.raises(InputError, match='--overwrite'):
        export_model(folder, made[1], *given)
    shutil.copytree(made[1], tmp_path / 'out')
    assert export_model(folder, tmp_path / 'out', *given, overwrite=True)['opset'] is None
    assert not (tmp_path / 'out' / 'image.onnx').exists()


# ---- the command ----

@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Return a drive of 4 images, with scans of a street 8 m wide."""
    root = tmp_path_factory.mktemp('drive') / 'drive'
    rng = np.random.default_rng(0)
    taken = helpers_drives.CAMERA
    write_calibration(root, taken, helpers_drives.T_base_camera, helpers_drives.T_base_lidar)
    with DriveWriter(root, helpers_drives.NAME) as writer:
        for i in range(4):
            points = rng.uniform([-15, -1, -1.7], [15, 1, 4], (3000, 3)).astype(np.float32)
            points[:, 1] += np.where(rng.random(3000) < 0.5, 4.0, -4.0)
            writer.image(i, rng.integers(0, 256, (taken.height, taken.width, 3), np.uint8))
            writer.scan(i, Scan(points, np.ones(3000, np.float32), None))
        stamps = helpers_drives.START_NS + np.arange(4) * 10 ** 9
        poses = np.stack([planar(6.0 * i, 0.0, 0.0) for i in range(4)])
        writer.finish(stamps, stamps, np.arange(4), poses)
    return root


def test_the_command_exports_beside_the_model_by_a_drive(made, drive, tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    shutil.copytree(made[0], tmp_path / 'model')
    said = i2ploc('export', tmp_path / 'model', '--data', drive, '--half', '--to', 'pt2')
    assert 'tiny in float16' in said and 'image.pt2' in said and '1, 2, 4' in said
    manifest = json.loads((tmp_path / 'model' / 'export' / 'export.json').read_text())
    assert manifest['precision'] == 'float16' and 'image.onnx' not in manifest['files']
    assert str(drive) in manifest['parity_inputs']


def test_pictures_of_a_folder_serve_as_images(made, drive, tmp_path):
    from saliency_i2ploc_ros.export.samples import images_of_folder
    config = made[2].config
    found, = images_of_folder(drive, config, count=3)
    assert found.shape == (3, 3, 16, 32) and found.dtype == np.float32
    assert found.std() > 0.1, 'the pictures were not seen'
    with pytest.raises(InputError, match='holds 0 pictures'):
        images_of_folder(tmp_path, config)


# ---- TensorRT, as far as it goes without ----

def test_tensorrt_arguments_and_what_stands_before_it(made, tmp_path, capsys):
    _, export, _ = made
    with pytest.raises(SystemExit) as ended:
        tensorrt.main([str(export), '--max-batch', '0'])
    assert ended.value.code == 2 and '0 is not 1 or more' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='there is no model folder'):
        tensorrt.main([str(tmp_path / 'nowhere')])
    shutil.copytree(export, tmp_path / 'altered')
    (tmp_path / 'altered' / 'image.onnx').write_bytes(b'something else')
    with pytest.raises(SystemExit, match='missing or not what export.json says'):
        tensorrt.main([str(tmp_path / 'altered')])


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU: the engine can be built')
def test_without_tensorrt_or_gpu_one_line_says_so_and_nothing_is_written(made):
    before = sorted(made[1].iterdir())
    with pytest.raises(SystemExit, match=r'TensorRT is not installed|finds no CUDA device'):
        tensorrt.main([str(made[1])])
    assert sorted(made[1].iterdir()) == before
