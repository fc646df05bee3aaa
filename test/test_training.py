"""A training run on a tiny city: it learns, stops, and goes on as if it had not stopped."""

import dataclasses
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from helpers_training import noise_batch, noise_config, tiny_model
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.cli import main as cli
from saliency_i2ploc_ros.cli.train import read_recipe
from saliency_i2ploc_ros.data.city.generate import generate_city
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.encoders.config import ImageConfig, ModelConfig
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import load_model, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.storage import shared_directory
from saliency_i2ploc_ros.training.augment import jitter_colours, turned
from saliency_i2ploc_ros.training.batches import draw_batch
from saliency_i2ploc_ros.training.checkpoints import latest_checkpoint
from saliency_i2ploc_ros.training.config import Site, TrainingConfig
from saliency_i2ploc_ros.training.geometry import (
    azimuth_column,
    cloud_columns,
    GeometryHeads,
    image_columns,
    profile,
    PROFILE_HEIGHT_M,
    profile_loss,
)
from saliency_i2ploc_ros.training.origin import origin_of, start_from
from saliency_i2ploc_ros.training.pairs import prepare_site, prepared_images
from saliency_i2ploc_ros.training.task import TrainingTask
from saliency_i2ploc_ros.training.trainer import resolved, train


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


def recipe(city, **changes) -> TrainingConfig:
    root, names = city
    site = Site(root=str(root), map_drive=names[0], query_drives=tuple(names))
    values = {
        'model': tiny_model(), 'sites': (site,), 'held_out': (site,), 'steps': 300, 'batch': 32,
        'warmup_steps': 10, 'lr_image': 2e-3, 'lr_cloud': 2e-3, 'lr_aggregation': 2e-3,
        'evaluate_every': 300, 'checkpoint_every': 50, 'threads': 1,
        'yaw_jitter_deg': 0.0, 'colour_jitter': 0.0, 'precision': 'fp32',
        'positive_m': 5.0, 'ignored_m': 10.0, 'pair_m': 2.0, 'submap_spacing_m': 2.5,
        'recall_m': 5.0}
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
    assert_equal(whole, halves)

    longer = config.model_copy(update={'steps': 9})
    with pytest.raises(InputError, match='begun with 8 steps, not 9.*--lengthen'):
        train(longer, run, resume=True)
    load_model(train(longer, run, resume=True, lengthen=True))
    written = json.loads((run / 'config.json').read_text())
    assert written['training']['steps'] == 9 and written['origin']['lengthened'] == [[8, 9]]
    assert len(written['origin']['resumed_with']) == 2


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_run_killed_amid_a_step_goes_on_to_the_same_weights(city, tmp_path):
    """No signal handler helps here: what is on disk must do."""
    config = recipe(city, steps=3, batch=12, chunk=2, ema_decay=0.9, evaluate_every=2,
                    checkpoint_every=100, checkpoint_minutes=1e-4)
    whole = load_model(train(config, tmp_path / 'whole')).state_dict()
    log = (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()

    run = tmp_path / 'killed'
    code = ('import os, signal, sys\n'
            'from pathlib import Path\n'
            'from saliency_i2ploc_ros.training import trainer\n'
            'from saliency_i2ploc_ros.training.config import TrainingConfig\n'
            'config = TrainingConfig.model_validate_json(sys.stdin.read())\n'
            'save = trainer.save_checkpoint\n'
            'def killing(run, step, *rest):\n'
            '    folder = save(run, step, *rest)\n'
            '    if folder.name >= "00000002-000008":\n'
            '        (run / "checkpoints" / ".00000002-000009.torn").mkdir()\n'
            '        os.kill(os.getpid(), signal.SIGKILL)\n'
            'trainer.save_checkpoint = killing\n'
            'trainer.train(config, Path(sys.argv[1]))\n')
    done = subprocess.run([sys.executable, '-c', code, str(run)], capture_output=True, text=True,
                          input=config.model_dump_json(), timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Amid the second pass of the third step.
    assert latest_checkpoint(run).name == '00000002-000008-0000'
    (run / 'metrics.jsonl').open('a').write('{"step": 3, "torn')

    assert_equal(whole, load_model(train(config, run, resume=True)).state_dict())
    steps = [json.loads(line)['step'] for line in
             (run / 'metrics.jsonl').read_text().splitlines()]
    assert steps == [json.loads(line)['step'] for line in log] == [2, 3]
    assert [path.name[:15] for path in (run / 'checkpoints').iterdir()] == ['00000003-000000']


def test_two_processes_train_what_one_does(city, tmp_path):
    """Through torchrun, as a user would."""
    config = recipe(city, steps=2, batch=6, chunk=2, evaluate_every=2, precision='fp32',
                    relation_angle=1.0, clip_norm=1e9, lr_image=1e-3)
    one = load_model(train(config, tmp_path / 'one')).state_dict()
    script = tmp_path / 'script.py'
    script.write_text('import sys\n'
                      'from pathlib import Path\n'
                      'from saliency_i2ploc_ros.training.config import TrainingConfig\n'
                      'from saliency_i2ploc_ros.training.trainer import train\n'
                      'text = Path(sys.argv[1]).read_text()\n'
                      'train(TrainingConfig.model_validate_json(text), Path(sys.argv[2]))\n')
    (tmp_path / 'config.json').write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         str(script), str(tmp_path / 'config.json'), str(tmp_path / 'two')],
        capture_output=True, text=True, timeout=250, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    two = load_model(tmp_path / 'two' / 'model').state_dict()
    moved = 0.0
    for name in one:
        # AdamW moves a weight by its rate whatever the gradient, so that rounding of a gradient
        # near zero can show as much; all but a few agree.
        apart = (one[name] - two[name]).abs()
        moved = max(moved, float(apart.max()))
        assert float((apart > 1e-5).float().mean()) < 0.01, name
    assert moved < 5e-3
    logs = [json.loads((tmp_path / name / 'metrics.jsonl').read_text().splitlines()[-1])
            for name in ('one', 'two')]
    for name in ('loss', 'contrast', 'relation_angle', 'image_geometry', 'cloud_geometry'):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-3)
    assert done.stderr.count('pairs of 1 sites') == 1  # one process speaks, and one writes
    assert len((tmp_path / 'two' / 'metrics.jsonl').read_text().splitlines()) == 1


def test_a_batch_is_a_function_of_the_step(city):
    config = recipe(city)
    sites = [prepare_site(config.sites[0], config)]
    assert sites[0].frame == f'{config.sites[0].root} city_0005'
    a, b, c = (draw_batch(sites, config, step) for step in (3, 3, 4))
    assert torch.equal(a.images, b.images) and torch.equal(a.clouds[1], b.clouds[1])
    assert not torch.equal(a.images, c.images)
    apart = torch.linalg.vector_norm(a.image_xy - a.cloud_xy, dim=1)
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
    turned_groups, turned_centres = turned((groups, centres), np.array([angle]), cartesian)
    R = planar(0, 0, angle)[:3, :3]
    assert np.allclose(turned_centres[0], centres[0] @ R.T, atol=1e-5)
    assert np.allclose(turned_groups[0], groups[0] @ R.T, atol=1e-5)
    same, shifted = turned((groups, centres), np.array([angle]), model)
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
    assert result[middle, 1] == pytest.approx(
        np.arctan2(26.0 - PROFILE_HEIGHT_M, 15.0), abs=0.02)
    assert np.isnan(profile(np.array([[-5.0, 0.0, 1.0]], np.float32), model)).all()


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
    last = json.loads((latest_checkpoint(run) / 'state.json').read_text())['step']
    monkeypatch.setattr(sys, 'argv', ['i2ploc', 'train', str(root), '--out', str(run), '--resume'])
    trained = {}
    monkeypatch.setattr('saliency_i2ploc_ros.training.trainer.train',
                        lambda config, *rest: trained.update(steps=config.steps) or run / 'model')
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and trained == {'steps': 100000} and last > 0


def test_what_a_model_began_with_counts_as_seen(city, tmp_path):
    encoder = DualEncoder(tiny_model())
    save_model(encoder, tmp_path / 'model', {'trained_on': ['elsewhere'], 'held_out_drives': []})
    config = recipe(city)
    assert origin_of(config, tmp_path / 'model')['trained_on'] == sorted([*city[1], 'elsewhere'])
    assert origin_of(config, None)['trained_on'] == city[1]
    # The same networks may look into a mirror too; other networks are refused.
    other = tiny_model().model_copy(update={'name': 'other'})
    start_from(tmp_path / 'model', DualEncoder(other))
    deeper = ModelConfig.model_validate(
        {**tiny_model().model_dump(), 'aggregation': {'clusters': 3}})
    with pytest.raises(InputError, match='built differently'):
        start_from(tmp_path / 'model', DualEncoder(deeper))


def test_epochs_are_told_in_steps():
    config = noise_config(batch=32, epochs=100, warmup_epochs=3)
    counted = resolved(config, pairs=1501)
    assert (counted.steps, counted.warmup_steps) == (4691, 141)
    assert resolved(counted, pairs=7) == counted


@pytest.mark.parametrize('path', sorted((shared_directory('config') / 'training').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_each_installed_recipe_holds(path):
    """Known settings only, and a task that can be built of the small ones."""
    site = {'root': 'none', 'map_drive': 'a', 'query_drives': ('a',)}
    config = TrainingConfig.model_validate({**read_recipe(path.stem, None), 'sites': [site]})
    assert config.model.name == path.stem.removesuffix('-verifier')
    if '-city' in path.stem:
        assert sum(p.numel() for p in TrainingTask(config).parameters()) < 2e7


def fails(monkeypatch, capsys, *arguments) -> str:
    """Run `i2ploc train` and return the one line that it ends with."""
    monkeypatch.setattr(sys, 'argv', ['i2ploc', 'train', *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, str) and '\n' not in ended.value.code
    return ended.value.code


def test_a_recipe_file_is_followed_and_its_mistakes_are_named(
        city, tmp_path, monkeypatch, capsys):
    root, _ = city
    config, run = tmp_path / 'mine.yaml', tmp_path / 'run'
    asked = (root, '--out', run, '--config', config)
    config.write_text('steps: 2\nbatsch: 4\n')
    assert 'batsch' in fails(monkeypatch, capsys, *asked)
    config.write_text('steps: [2\n')
    assert 'not valid YAML' in fails(monkeypatch, capsys, *asked)
    config.write_text('sites: []\n')
    assert 'on the command line' in fails(monkeypatch, capsys, *asked)
    config.write_text('preset: nonsense\n')
    assert 'no preset' in fails(monkeypatch, capsys, *asked)
    assert 'or one of' in fails(monkeypatch, capsys, root, '--out', run, '--config', 'nonsense')
    assert '--resume' in fails(monkeypatch, capsys, root, '--out', run, '--lengthen', 5)

    config.write_text('preset: ours-city\nsteps: 1\nbatch: 9\nthreads: 1\n'
                      'model:\n  image: {depth: 1}\n  aggregation: {clusters: 4}\n')
    monkeypatch.setattr(sys, 'argv', ['i2ploc', 'train', *map(str, asked), '--overfit', '4',
                                      '--set', 'model.cloud.depth=1'])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    made = load_model(run / 'model').config
    assert (made.name, made.image.depth, made.cloud.depth) == ('ours-city', 1, 1)
    assert made.aggregation.clusters == 4 and made.image.dim == 128
    written = json.loads((run / 'config.json').read_text())['training']
    assert (written['batch'], written['overfit'], written['steps']) == (4, True, 1)


def test_overfitting_sees_one_batch(city, tmp_path, monkeypatch):
    seen = []

    def draw(sites, config, step):
        seen.append(step)
        return draw_batch(sites, config, step)

    monkeypatch.setattr('saliency_i2ploc_ros.training.trainer.draw_batch', draw)
    config = recipe(city, overfit=True, batch=6, steps=12, geometry_weight=0.0, held_out=(),
                    warmup_steps=0, evaluate_every=4)
    train(config, tmp_path / 'run')
    assert seen == [0] * 12
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    losses = [json.loads(line)['contrast'] for line in lines]
    assert losses[-1] < 0.8 * losses[0] and len(losses) == 3


def test_columns_are_means_by_column():
    tokens = torch.arange(2 * 6 * 3, dtype=torch.float32).reshape(2, 6, 3)
    columns = image_columns(tokens, 3)
    for b in range(2):
        for k in range(3):
            assert torch.equal(columns[b, k], (tokens[b, k] + tokens[b, k + 3]) / 2)
    column = torch.tensor([[0, 0, 2, -1, 2, 2], [-1, -1, -1, -1, -1, 1]])
    gathered = cloud_columns(tokens, column, 3)
    assert torch.equal(gathered[0, 0], tokens[0, :2].mean(0))
    assert torch.equal(gathered[0, 1], torch.zeros(3))
    assert torch.allclose(gathered[0, 2], tokens[0, [2, 4, 5]].mean(0))
    assert torch.equal(gathered[1, 1], tokens[1, 5])


def test_geometry_is_only_asked_where_it_was_measured():
    config = noise_config(batch=2)
    batch = noise_batch(config)
    heads = GeometryHeads(config.model, 'profile')
    encoded = TrainingTask(config).encode(batch)
    bins = batch.geometry.shape[1]
    nothing = torch.full((2, bins, 2), torch.nan)
    losses = heads(*encoded, dataclasses.replace(batch, geometry=nothing))
    assert {name: float(value.detach()) for name, value in losses.items()} == {
        'image_geometry': 0.0, 'cloud_geometry': 0.0}
    predicted = torch.randn(2, bins, 2)
    nothing[0, 4, 1] = predicted[0, 4, 1].item() + 1.0
    # Smooth L1 with beta 0.2 of one pair, none of the other: the mean of both.
    assert float(profile_loss(predicted, nothing)) == pytest.approx((1.0 - 0.1) / 2, abs=1e-5)
