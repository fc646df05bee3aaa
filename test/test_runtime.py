"""One localizer, three runtimes, the same fixes; and exports that do not belong are refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export import graphs
from saliency_i2ploc_ros.export.runtime import best_device, open_runtime, RUNTIMES
from saliency_i2ploc_ros.export.writer import export_model
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.mapping.database import write_database

pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')

CAMERA = Pinhole(48, 24, 20.0, 20.0, 23.5, 11.5)
AHEAD = transform(R_base_optical)
PLACES = 30
TINY = ModelConfig(
    name='tiny', descriptor_dim=16,
    image=ImageConfig(height=16, width=32, patch=8, dim=32, depth=1, heads=2, stem='conv',
                      camera=Pinhole(32, 16, 12.0, 12.0, 15.5, 7.5)),
    cloud=CloudConfig(tokens=TokenConfig(points=64, centres=6, neighbours=8), dim=32, depth=1,
                      heads=2, pointnet=(8, 16), pointnet_second=(), position_width=16),
    aggregation=AggregationConfig(clusters=4))


@pytest.fixture(scope='module')
def images():
    """Return images (PLACES, 24, 48, 3) that differ in what they show, not only in noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PLACES, 3, 6, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1), int)).astype(np.uint8)


@pytest.fixture(scope='module')
def world(tmp_path_factory, images):
    """Return model/ with its export in it, and map/, whose places are what the images show."""
    root = tmp_path_factory.mktemp('world')
    torch.manual_seed(0)
    model = DualEncoder(TINY).eval()
    save_model(model, root / 'model', {})
    prepared = np.stack([prepare_image(image, CAMERA, TINY.image) for image in images])
    with torch.inference_mode():
        descriptors = model.encode_image(torch.from_numpy(prepared)).descriptor.numpy()
    rng = np.random.default_rng(1)
    write_database(
        root / 'map', descriptors, np.stack([planar(7.0 * i, 3.0, 0.1 * i)
                                             for i in range(PLACES)]),
        [rng.normal(size=(40, 3)).astype(np.float32)] * PLACES, encoder_hash=encoder_hash(model),
        preprocessing_hash=preprocessing_hash(TINY), model_name='tiny', submap={}, spacing_m=7.0)
    groups = rng.normal(size=(3, 6, 8, 3)).astype(np.float32)
    export_model(root / 'model', root / 'model' / 'export', ('pt2', 'onnx'), False,
                 (prepared[:3],), (groups, groups[:, :, 0].copy()), 'a test')
    return root


@pytest.fixture
def copied(world, tmp_path):
    """Return a copy of the world that may be damaged."""
    shutil.copytree(world, tmp_path / 'world')
    return tmp_path / 'world'


def test_the_three_give_the_same_fixes(world, images):
    lax = LocalizerConfig(min_weight=0.2)
    answers = {}
    for runtime in RUNTIMES:
        localizer = open_localizer(world / 'model', world / 'map', lax, runtime=runtime)
        assert localizer.model.runtime == runtime
        answers[runtime] = [localizer.localize(image, CAMERA, AHEAD) for image in images[::3]]
    accepted = 0
    for i, first in enumerate(answers['torch']):
        assert first.candidates.indices[0] == 3 * i
        for other in (answers['pt2'][i], answers['onnx'][i]):
            assert other.rejection == first.rejection
            assert other.candidates.scores == pytest.approx(first.candidates.scores, abs=1e-5)
            assert other.candidates.indices[0] == first.candidates.indices[0]
            if first.fix is not None:
                accepted += 1
                assert np.abs(other.fix.T_map_base - first.fix.T_map_base).max() < 1e-2
                assert other.fix.covariance == pytest.approx(
                    first.fix.covariance, rel=1e-3, abs=1e-3)
    assert accepted >= 8


def test_a_vehicle_needs_no_weights(world, tmp_path, images):
    shutil.copytree(world / 'model' / 'export', tmp_path / 'export')
    for runtime in ('pt2', 'onnx'):
        answer = open_localizer(tmp_path / 'export', world / 'map', runtime=runtime).localize(
            images[4], CAMERA, AHEAD)
        assert answer.candidates.indices[0] == 4
    with pytest.raises(InputError, match='export without weights: set the runtime to pt2 or onnx'):
        open_localizer(tmp_path / 'export', world / 'map')


def test_an_export_of_an_earlier_model_is_refused(copied):
    torch.manual_seed(9)
    save_model(DualEncoder(TINY), copied / 'model', {})
    for runtime in ('pt2', 'onnx'):
        with pytest.raises(InputError, match='earlier state of .* export the model again'):
            open_localizer(copied / 'model', copied / 'map', runtime=runtime)
    # By itself the export is whole, and the map is its model's: it goes on.
    open_localizer(copied / 'model' / 'export', copied / 'map', runtime='pt2')


def test_a_map_of_another_model_is_refused_whatever_runs_it(copied):
    schema = json.loads((copied / 'map' / 'schema.json').read_text())
    rng = np.random.default_rng(2)
    other = rng.normal(size=(3, 16)).astype(np.float32)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    assert schema['encoder_hash'] != '0123456789abcdef'
    write_database(copied / 'other', other, np.stack([planar(7.0 * i, 0.0, 0.0)
                                                      for i in range(3)]),
                   [rng.normal(size=(40, 3)).astype(np.float32)] * 3,
                   encoder_hash='0123456789abcdef', preprocessing_hash=preprocessing_hash(TINY),
                   model_name='tiny', submap={}, spacing_m=7.0)
    for runtime in RUNTIMES:
        with pytest.raises(InputError, match='model'):
            open_localizer(copied / 'model', copied / 'other', runtime=runtime)


def rewritten(folder, change):
    path = folder / 'export.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize('damage, says', [
    (lambda f: (f / 'image.onnx').write_bytes(b'cut'), 'missing or not what export.json says'),
    (lambda f: (f / 'image.onnx').unlink(), 'missing or not what export.json says'),
    (lambda f: (f / 'samples.safetensors').write_bytes(b''), 'missing or not what'),
    (lambda f: rewritten(f, lambda m: m.update(encoder_hash='0' * 16)), 'export the model again'),
    (lambda f: rewritten(f, lambda m: m.update(preprocessing_hash='0' * 16)), 'another version'),
    (lambda f: rewritten(f, lambda m: m.update(format=7)), 'not of format 1'),
    (lambda f: rewritten(f, lambda m: m['files'].pop('image.onnx')), 'with --to onnx'),
    (lambda f: (f / 'export.json').write_text('{'), 'not valid JSON'),
    (shutil.rmtree, 'has no export: make it with `i2ploc export'),
])
def test_a_damaged_export_is_refused_with_what_to_do(copied, damage, says):
    damage(copied / 'model' / 'export')
    with pytest.raises(InputError, match=says):
        open_runtime(copied / 'model', 'onnx')


@pytest.mark.parametrize('suffix', ['pt2', 'onnx'])
def test_a_graph_that_answers_otherwise_on_this_machine_is_refused(copied, suffix):
    """Whole files and hashes, but another graph: only running it can tell."""
    folder = copied / 'model' / 'export'
    torch.manual_seed(9)
    rng = np.random.default_rng(3)
    graph = graphs.capture(DualEncoder(TINY).eval().image,
                           (rng.normal(size=(2, 3, 16, 32)).astype(np.float32),))
    name = f'image.{suffix}'
    if suffix == 'pt2':
        graphs.write_pt2(graph, folder / name)
    else:
        graphs.write_onnx(graph, folder / name, ('images',))
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    rewritten(folder, lambda m: m['files'][name].update(sha256=digest))
    with pytest.raises(InputError, match=r'on cpu is refused: .* agree with the model'):
        open_runtime(copied / 'model', suffix)


def test_onnxruntime_takes_the_threads_that_pytorch_is_set_to(world, monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession

    def watched(path, options, **settings):
        seen.append(options.intra_op_num_threads)
        return session(path, options, **settings)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', watched)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            open_runtime(world / 'model', 'onnx')
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 3]


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_a_device_or_runtime_that_is_not_there_is_one_clear_line(world, runtime):
    with pytest.raises(InputError, match="'mars' cannot be used"):
        open_runtime(world / 'model', runtime, 'mars')
    if best_device(runtime) == 'cpu':
        with pytest.raises(InputError, match="'cuda' cannot be used"):
            open_runtime(world / 'model', runtime, 'cuda')
    with pytest.raises(InputError, match='take torch, pt2, onnx'):
        open_runtime(world / 'model', 'tensorflow')
