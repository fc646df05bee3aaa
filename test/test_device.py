"""
What runs on a CUDA device, as far as a processor can tell: the same code with device='cpu'.

Uploads, captured graphs and memory themselves need a GPU: `bench/on_gpu.py` measures them there.
"""

import cv2
from helpers_localizer import TINY
import numpy as np
import pytest
import torch
from torch import nn

from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import load_model, save_model
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export import acceleration
from saliency_i2ploc_ros.export.acceleration import (
    agreement,
    chosen_precision,
    faster,
    Graphed,
    GRAPHS,
    least_agreement,
    probe_images,
    vectors_of,
)
from saliency_i2ploc_ros.export.device_input import (
    area_weights,
    CAMERAS,
    DeviceInput,
    linear_weights,
)
from saliency_i2ploc_ros.export.parity import leaving
from saliency_i2ploc_ros.export.runners import run_torch
from saliency_i2ploc_ros.export.runtime import open_runtime
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.geometry.lenses import Brown, Fisheye, Mei
from saliency_i2ploc_ros.storage import shared_directory

CPU = torch.device('cpu')
SHIPPED = shared_directory('models') / 'city'
# Smaller and larger than the virtual camera's scale, by whole and by broken factors, and as it is.
CAMERA_LIST = {
    'pinhole': Pinhole(1408, 376, 552.6, 552.6, 682.0, 238.8),
    'narrow': Pinhole(100, 40, 60.0, 55.0, 49.0, 19.0),
    'coarser': Pinhole(64, 48, 30.0, 30.0, 31.0, 23.0),
    'same': Pinhole(208, 64, 83.75, 83.75, 103.5, 31.5),
    'brown': Brown(640, 360, 350.0, 350.0, 320.0, 180.0, -0.3, 0.1, 0.001, 0.001),
    'fisheye': Fisheye(700, 700, 210.0, 210.0, 349.0, 349.0, 0.01, 0.0, 0.0, 0.0),
    'mei': Mei(700, 700, 2.2, 0.01, 0.1, 0.0, 0.0, 668.0, 668.0, 358.0, 352.0),
    'panorama': Panorama(1000, 200, 30.0, -40.0),
}
SHAPE = (3, 16, 32)


@pytest.fixture(scope='module')
def shipped():
    return load_model(SHIPPED).eval()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return DualEncoder(TINY).eval()


def picture(camera, seed=0):
    """Return an image with edges and shades, and the grain of a sensor."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (6, 12, 3)).astype(np.uint8)
    large = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)
    grain = rng.normal(0.0, 4.0, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('name', CAMERA_LIST)
def test_the_device_sees_what_the_processor_sees(shipped, name):
    camera, config = CAMERA_LIST[name], shipped.config.image
    image = picture(camera)
    expected = prepare_image(image, camera, config)
    found = DeviceInput(config, 'cpu')(image, camera)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    grey = 255.0 * np.array(config.std, np.float32)[:, None, None] * np.abs(
        found.numpy() - expected)
    # OpenCV rounds places to 1/32 of a pixel, and grey levels to whole ones.
    assert grey.max() < 2.0 and grey.mean() < 0.15
    cosine = least_agreement(*(vectors_of(shipped.image, torch.as_tensor(x)[None])
                               for x in (found, expected)))
    assert cosine > 0.99995
    # Other images of the same tables, one not like the other.
    assert np.abs(expected - prepare_image(picture(camera, 1), camera, config)).max() > 0.3


@pytest.mark.parametrize('size', [(90, 50), (20, 10), (40, 10), (32, 16)])
def test_images_of_no_camera_are_resized_alike(size):
    config = TINY.image.model_copy(update={'camera': None})
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    grey = 127.5 * np.abs(DeviceInput(config, 'cpu')(image, None).numpy()
                          - prepare_image(image, None, config))
    assert grey.max() < 1.01 and grey.mean() < 0.3


def test_stripes_finer_than_the_target_do_not_alias(shipped):
    camera, config = CAMERA_LIST['pinhole'], shipped.config.image
    stripes = np.zeros((camera.height, camera.width, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = DeviceInput(config, 'cpu')(stripes, camera)[:, 30, 60:150].numpy()
    assert np.abs(inside * 127.5).max() < 20.0  # all grey; by a bilinear alone it is 127


def test_weights_keep_the_sum_and_linear_ones_the_ramp():
    for source, target in ((10, 10), (376, 57), (7, 3)):
        weights = area_weights(source, target)
        assert weights.sum(1) == pytest.approx(1.0, abs=1e-6)
        assert weights.sum(0) == pytest.approx(target / source, abs=1e-6)
    assert linear_weights(2, 4) @ [0.0, 1.0] == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_tables_are_kept_for_the_cameras_used_last(monkeypatch):
    given, made = DeviceInput(TINY.image, 'cpu'), []
    original = given._made
    monkeypatch.setattr(given, '_made', lambda *a: made.append(a) or original(*a))
    cameras = [Pinhole(40, 20, 15.0 + i, 15.0, 19.5, 9.5) for i in range(CAMERAS + 1)]
    image = picture(cameras[0])
    for camera in (*cameras[:-1], *cameras[:-1]):
        given(image, camera)
    assert len(made) == CAMERAS
    given(image, cameras[-1])  # pushes out the first
    given(image, cameras[1])
    assert len(made) == CAMERAS + 1
    given(image, cameras[0])
    assert len(made) == CAMERAS + 2
    given.close()
    assert not given._tables


def test_what_the_processor_refuses_the_device_refuses():
    camera = Pinhole(40, 20, 15.0, 15.0, 19.5, 9.5)
    given = DeviceInput(TINY.image, 'cpu')
    with pytest.raises(InputError, match='needs its calibration'):
        given(picture(camera), None)
    with pytest.raises(InputError, match='give the calibration of this image'):
        given(picture(camera)[:10], camera)
    with pytest.raises(InputError, match='uint8 RGB'):
        given(picture(camera).astype(np.float32), camera)


def test_bfloat16_answers_nearly_as_float32_and_its_figure_is_told(shipped):
    shape = (3, shipped.config.image.height, shipped.config.image.width)
    found = faster(shipped.image, shape, 'cpu', 'bf16', 'none')
    assert (found.precision, found.acceleration, found.notes) == ('bf16', 'none', ())
    assert 0.999 <= found.parity < 1.0
    kinds = {p.dtype for p in found.module.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}  # norms, positions and centres stay
    assert all(p.dtype == torch.float32 for p in shipped.image.parameters())
    with torch.inference_mode():
        descriptor = found.module(probe_images(shape))[0]
    assert descriptor.dtype == torch.float32


def test_a_precision_that_answers_otherwise_is_not_used(tiny, monkeypatch):
    broken = torch.full_like(tiny.image.aggregation.project.weight, 1.0)

    def halved(branch, kind, fused):
        half = DualEncoder(TINY).eval().image
        half.aggregation.project.weight.data.copy_(broken)
        return half

    monkeypatch.setattr(acceleration, 'in_half_precision', halved)
    found = faster(tiny.image, SHAPE, 'cpu', 'bf16', 'none')
    assert found.module is tiny.image and found.precision == 'fp32' and found.parity is None
    assert 'only: the model runs in fp32' in found.notes[0]


@pytest.mark.parametrize('asked, gets, says', [
    ('auto', 'fp32', None), ('fp32', 'fp32', None), ('bf16', 'bf16', None),
    ('fp16', 'fp32', 'fp16 is slow on cpu: the model runs in fp32')])
def test_precisions_of_a_processor(asked, gets, says):
    precision, notes = chosen_precision(asked, CPU)
    assert precision == gets and len(notes) == (says is not None)
    assert all(says in note for note in notes)


@pytest.mark.parametrize('asked, capability, bf16, gets', [
    ('auto', 8, True, 'fp16'), ('auto', 6, False, 'fp32'), ('bf16', 9, True, 'bf16'),
    ('bf16', 7, False, 'fp16'), ('fp32', 9, True, 'fp32')])
def test_precisions_of_a_gpu(monkeypatch, asked, capability, bf16, gets):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: (capability, 0))
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: bf16)
    precision, notes = chosen_precision(asked, torch.device('cuda'))
    assert precision == gets and bool(notes) == (asked not in ('auto', gets))


def test_a_graph_without_cuda_and_a_compiler_that_fails_say_so(tiny, monkeypatch):
    found = faster(tiny.image, SHAPE, 'cpu', 'fp32', 'graph')
    assert found.module is tiny.image and found.acceleration == 'none'
    assert 'CUDA graphs need CUDA' in found.notes[0]

    def failing(module):
        def run(images):
            raise OSError('no compiler here\nand more')
        return run

    monkeypatch.setattr(acceleration, 'compiled', failing)
    found = faster(tiny.image, SHAPE, 'cpu', 'bf16', 'compile')
    assert found.acceleration == 'none' and found.precision == 'bf16'
    assert found.notes == ('acceleration compile failed (OSError: no compiler here): the model '
                           'runs without it',)
    wrong = nn.Module()
    wrong.forward = lambda images: (torch.ones(1, 16) * 0.25, torch.zeros(1, 8))
    monkeypatch.setattr(acceleration, 'compiled', lambda module: wrong)
    found = faster(tiny.image, SHAPE, 'cpu', 'fp32', 'compile')
    assert found.module is tiny.image and 'agree to a cosine of' in found.notes[0]


def test_torch_compile_takes_what_it_is_given(tiny):
    """By the compiler's front and no back, which takes seconds; the whole is tried by hand."""
    seen = []

    def backend(graph, examples):
        seen.append(graph)
        return graph.forward

    module = torch.compile(tiny.image, backend=backend, fullgraph=True)
    images = probe_images(SHAPE)
    same = least_agreement(vectors_of(module, images), vectors_of(tiny.image, images))
    assert len(seen) == 1 and same > 0.999999
    # The real call, as far as it goes without compiling: an option it did not know would raise.
    assert callable(acceleration.compiled(tiny.image))


class ReplayedOnCpu(Graphed):
    """As on CUDA: fixed buffers, and a replay that reads and writes only those."""

    def __init__(self, module):
        super().__init__(module)
        self.captures = 0

    def captured(self, images):
        self.captures += 1
        held = images.clone()
        results = tuple(part.clone() for part in leaving(self._module(held)))

        def replay():
            for kept, new in zip(results, leaving(self._module(held)), strict=True):
                kept.copy_(new)
        return held, results, replay


def test_graphs_are_captured_once_for_each_size(tiny):
    graphed = ReplayedOnCpu(tiny.image)
    run = run_torch(graphed)
    images = probe_images(SHAPE)
    expected = run_torch(tiny.image)
    first = run(images[:1])[0].copy()  # on CUDA `run` itself copies, from the device
    second = run(images[1:2].numpy())[0]
    assert np.abs(first - second).max() > 1e-3
    assert first == pytest.approx(expected(images[:1])[0], abs=1e-6)
    assert second == pytest.approx(expected(images[1:2])[0], abs=1e-6)
    assert graphed.captures == 1
    assert run(images)[1] == pytest.approx(expected(images)[1], abs=1e-6)
    assert graphed.captures == 2
    for size in range(5, 5 + GRAPHS):
        run(torch.zeros(size, *SHAPE))
    assert len(graphed._graphs) == GRAPHS


def test_a_runtime_says_what_it_became_and_is_closed(tiny, tmp_path):
    save_model(tiny, tmp_path / 'model', {})
    opened = open_runtime(tmp_path / 'model', 'torch', 'cpu', 'fp16', 'graph')
    assert (opened.device, opened.precision, opened.acceleration) == ('cpu', 'fp32', 'none')
    assert len(opened.notes) == 2 and opened.on_device is None
    camera = Pinhole(40, 20, 15.0, 15.0, 19.5, 9.5)
    prepared = opened.prepare(picture(camera), camera)
    assert (prepared == prepare_image(picture(camera), camera, TINY.image)).all()
    plain = opened.run(prepared[None]).descriptor
    opened.on_device = DeviceInput(TINY.image, 'cpu')
    there = opened.prepare(picture(camera), camera)
    assert isinstance(there, torch.Tensor)
    assert agreement(opened.run(there[None]).descriptor, plain) > 0.999
    opened.close()
    with pytest.raises(RuntimeError, match='closed'):
        opened.run(prepared[None])
    for what in ('precision', 'acceleration'):
        with pytest.raises(InputError, match=f"no {what} 'most'"):
            open_runtime(tmp_path / 'model', 'torch', **{what: 'most'})
