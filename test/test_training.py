"""A training run on a tiny city: it learns, stops, and goes on as if it had not stopped."""

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.cli import main as cli
from saliency_i2ploc_ros.data.city.generate import generate_city
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.encoders.config import CITY, ImageConfig, ModelConfig
from saliency_i2ploc_ros.encoders.files import load_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.training.batches import draw_batch, jitter_colours, turn_tokens
from saliency_i2ploc_ros.training.config import Site, TrainingConfig
from saliency_i2ploc_ros.training.pairs import (
    azimuth_column,
    prepare_site,
    prepared_images,
    profile,
)
from saliency_i2ploc_ros.training.trainer import schedule, train


@pytest.fixture(scope='module')
def city(tmp_path_factory):
    """A city with one drive of 120 m."""
    root = tmp_path_factory.mktemp('cities') / 'city'
    names = generate_city(root, seed=5, traversals=1, length_m=120.0, scan_every=2, blocks=2)
    return root, names


@pytest.fixture(scope='module', autouse=True)
def _cache(tmp_path_factory):
    old = os.environ.get('I2PLOC_CACHE')
    os.environ['I2PLOC_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    yield
    if old is None:
        del os.environ['I2PLOC_CACHE']
    else:
        os.environ['I2PLOC_CACHE'] = old


def tiny_model() -> ModelConfig:
    """Return CITY's kind of model, small enough to overfit in seconds."""
    values = CITY.model_dump()
    values['image'].update(height=32, width=104, patch=8, dim=64, depth=2, heads=2,
                           camera=CITY.image.camera.resized(104, 32))
    values['cloud'].update(dim=64, depth=2, heads=2, pointnet=(16, 32))
    values['cloud']['tokens'].update(points=1024, centres=32, neighbours=16)
    values['aggregation'].update(clusters=4)
    values['descriptor_dim'] = 64
    return ModelConfig.model_validate(values)


def recipe(city, **changes) -> TrainingConfig:
    root, names = city
    site = Site(root=str(root), map_drive=names[0], query_drives=tuple(names))
    values = {
        'model': tiny_model(), 'sites': (site,), 'held_out': (site,), 'steps': 300, 'batch': 32,
        'warmup_steps': 10, 'lr_image': 2e-3, 'lr_cloud': 2e-3, 'lr_aggregation': 2e-3,
        'evaluate_every': 300, 'checkpoint_every': 50, 'threads': 1,
        'yaw_jitter_deg': 0.0, 'colour_jitter': 0.0,
        'positive_m': 5.0, 'ignored_m': 10.0, 'pair_m': 2.0, 'submap_spacing_m': 2.5}
    return TrainingConfig.model_validate({**values, **changes})


def test_it_overfits_a_tiny_city(city, tmp_path):
    model = train(recipe(city, geometry_weight=0.0), tmp_path / 'run')
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    metrics = json.loads(lines[-1])
    assert metrics['contrast'] < 0.1
    assert metrics['recall@1'] > 0.85
    assert metrics['chance@1'] < 0.1
    encoder = load_model(model)
    assert encoder.config == tiny_model()
    assert (tmp_path / 'run' / 'config.json').is_file()


def test_resuming_equals_never_having_stopped(city, tmp_path):
    config = recipe(city, steps=8, checkpoint_every=4, evaluate_every=8)
    whole = load_model(train(config, tmp_path / 'whole')).state_dict()

    run = tmp_path / 'halves'
    code = ('import os, signal, sys\n'
            'from pathlib import Path\n'
            'from saliency_i2ploc_ros.training import trainer\n'
            'from saliency_i2ploc_ros.training.config import TrainingConfig\n'
            'config = TrainingConfig.model_validate_json(sys.stdin.read())\n'
            'draw = trainer.draw_batch\n'
            'def stopping(sites, config, step):\n'
            '    if step == 4:\n'
            '        os.kill(os.getpid(), signal.SIGINT)\n'
            '    return draw(sites, config, step)\n'
            'trainer.draw_batch = stopping\n'
            'trainer.train(config, Path(sys.argv[1]))\n')
    done = subprocess.run([sys.executable, '-c', code, str(run)], capture_output=True, text=True,
                          input=config.model_dump_json(), timeout=200)
    assert done.returncode == 0, done.stderr
    assert 'stopped after step 5' in done.stderr
    assert not (run / 'model').exists()

    with pytest.raises(InputError, match='--resume'):
        train(config, run)
    with pytest.raises(InputError, match='another recipe'):
        train(config.model_copy(update={'batch': 12}), run, resume=True)
    halves = load_model(train(config, run, resume=True)).state_dict()
    assert whole.keys() == halves.keys()
    for name in whole:
        assert torch.equal(whole[name], halves[name]), name


def test_a_batch_is_a_function_of_the_step(city):
    config = recipe(city)
    sites = [prepare_site(config.sites[0], config)]
    a, b, c = (draw_batch(sites, config, step) for step in (3, 3, 4))
    assert torch.equal(a.images, b.images) and torch.equal(a.centres, b.centres)
    assert not torch.equal(a.images, c.images)
    apart = torch.linalg.vector_norm(a.image_xy - a.submap_xy, dim=1)
    assert float(apart.max()) <= config.pair_m


def test_drives_that_never_meet_are_refused(city):
    config = recipe(city, pair_deg=-1.0)
    with pytest.raises(InputError, match='share their way'):
        prepare_site(config.sites[0], config)


def test_a_new_calibration_makes_new_images(city, tmp_path):
    root, _ = city
    copy = tmp_path / 'copy'
    shutil.copytree(root, copy, copy_function=shutil.copy2)
    image = tiny_model().image
    before, _ = prepared_images(open_drive(copy), image)
    calibration = copy / 'calibration' / 'perspective.txt'
    text = calibration.read_text()
    focal = next(line for line in text.splitlines() if line.startswith('P_rect_00')).split()[1]
    calibration.write_text(text.replace(focal, str(2.0 * float(focal))))
    after, _ = prepared_images(open_drive(copy), image)
    assert before.shape == after.shape and not np.array_equal(before, after)


def test_turning_tokens_is_turning_points():
    """In both spaces: tokens of turned points are turned tokens of the points."""
    rng = np.random.default_rng(0)
    angle = 0.2
    centres = rng.uniform(-20, 20, (1, 5, 3)).astype(np.float32)
    groups = rng.uniform(-1, 1, (1, 5, 4, 3)).astype(np.float32)
    model = tiny_model()
    values = model.model_dump()
    values['cloud']['tokens'].update(space='cartesian')
    cartesian = ModelConfig.model_validate(values)
    turned_groups, turned = turn_tokens(groups, centres, np.array([angle]), cartesian)
    R = planar(0, 0, angle)[:3, :3]
    assert np.allclose(turned[0], centres[0] @ R.T, atol=1e-5)
    assert np.allclose(turned_groups[0], groups[0] @ R.T, atol=1e-5)
    same, shifted = turn_tokens(groups, centres, np.array([angle]), model)
    assert np.array_equal(same, groups)
    assert np.allclose(shifted[..., 0] - centres[..., 0], angle, atol=1e-6)
    assert np.array_equal(shifted[..., 1:], centres[..., 1:])


def test_no_colour_jitter_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    assert np.array_equal(jitter_colours(images, 0.0, np.random.default_rng(1)), images)


def test_azimuth_column_is_where_the_camera_sees_it():
    config = tiny_model().image
    azimuth = np.radians([0.0, 30.0, -40.0])
    points = np.stack([-np.sin(azimuth), np.zeros(3), np.cos(azimuth)], 1)
    pixels, _ = config.camera.project(points)
    assert np.allclose(azimuth_column(azimuth, config) * config.width - 0.5, pixels[:, 0])
    panorama = ImageConfig(height=64, width=128)
    assert np.allclose(azimuth_column(np.radians([180.0, 90.0, 0.0]), panorama), [0, 0.25, 0.5])


def test_profile_measures_the_nearest_wall():
    model = tiny_model()
    y, z = np.meshgrid(np.linspace(-30, 30, 1201), np.linspace(0.0, 6.0, 25))
    wall = np.stack([np.full(y.size, 10.0), y.ravel(), z.ravel()], 1)
    behind = wall + [5.0, 0.0, 20.0]
    result = profile(np.concatenate([wall, behind]).astype(np.float32), model)
    middle = len(result) // 2
    assert result[middle, 0] == pytest.approx(np.log(10.0), abs=0.01)
    height = model.cloud.tokens.sensor_height_m
    assert result[middle, 1] == pytest.approx(np.arctan2(26.0 - height, 15.0), abs=0.02)
    assert np.isnan(profile(np.array([[-5.0, 0.0, 1.0]], np.float32), model)).all()


def test_schedule_warms_up_and_ends_at_zero(city):
    config = recipe(city, steps=100, warmup_steps=10)
    factors = [schedule(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert np.all(np.diff(factors[10:]) < 0)


def test_ctrl_c_of_the_command_ends_cleanly(city, tmp_path, monkeypatch):
    root, _ = city
    run = tmp_path / 'run'
    process = subprocess.Popen(
        [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', 'train', str(root),
         '--out', str(run), '--set', 'steps=100000', '--set', 'threads=1', '--set', 'batch=4'],
        stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(Path(run).glob('tensorboard/*')) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert '--resume' in errors and 'Traceback' not in errors
    assert list(run.glob('checkpoints/*/state.json'))

    # Typed as advised, without the settings, it goes on by the recipe of the run.
    last = int(next(run.glob('checkpoints/*')).name)
    monkeypatch.setattr(sys, 'argv', ['i2ploc', 'train', str(root), '--out', str(run), '--resume'])
    trained = {}
    monkeypatch.setattr('saliency_i2ploc_ros.training.trainer.train',
                        lambda config, *rest: trained.update(steps=config.steps) or run / 'model')
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and trained == {'steps': 100000} and last > 0
