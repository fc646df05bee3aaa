"""Saliency by class, with its controls, and deletion: against what is known by construction."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.cli import main as cli
from saliency_i2ploc_ros.data.city.generate import generate_city
from saliency_i2ploc_ros.data.city.lidar import Lidar
from saliency_i2ploc_ros.data.drive import CameraStream
from saliency_i2ploc_ros.data.labels import NAMES
from saliency_i2ploc_ros.encoders.cloud_input import cloud_input
from saliency_i2ploc_ros.encoders.config import ImageConfig, ModelConfig
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import save_model
from saliency_i2ploc_ros.encoders.presets import CITY, PRESETS
from saliency_i2ploc_ros.encoders.range_image import project
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.looking import (
    check_saliency,
    classes_of_points,
    image_classes,
    look,
    patch_shares,
    token_points,
    without,
)
from saliency_i2ploc_ros.evaluation.page import Interval
from saliency_i2ploc_ros.evaluation.saliency import (
    area_difference,
    area_under,
    class_figures,
    CLASSES,
    deletion_curves,
    FRACTIONS,
    habit,
    Looked,
    MOVING,
    ORDERS,
    ratio,
    relative_saliency,
    removed_tokens,
)
from saliency_i2ploc_ros.evaluation.saliency_report import _against, _alike
from saliency_i2ploc_ros.geometry.cameras import Pinhole

ROWS, COLUMNS = 4, 13
CAR, ROAD = CLASSES.index(26), CLASSES.index(7)


def tiny_model(kind: str) -> ModelConfig:
    """Return a small network with tokens of points or of a range image."""
    values = CITY.model_dump()
    values['image'].update(height=32, width=104, patch=8, dim=32, depth=1, heads=2,
                           camera=CITY.image.camera.resized(104, 32))
    values['cloud'].update(dim=32, depth=1, heads=2, pointnet=(16, 32))
    values['cloud']['tokens'].update(points=1024, centres=32, neighbours=16)
    if kind == 'range':
        values['cloud'] = {'kind': 'range', 'height': 32, 'width': 104, 'patch': 8, 'dim': 32,
                           'depth': 1, 'heads': 2, 'stem': 'conv', 'bias': False}
    values['aggregation'].update(clusters=4)
    values['descriptor_dim'] = 32
    return ModelConfig.model_validate(values)


def looked(saliency, classes=None, blocks=None) -> Looked:
    n, N = saliency.shape
    rows = np.broadcast_to(np.repeat(np.arange(ROWS), COLUMNS), (n, N))
    spots = np.broadcast_to(np.arange(N), (n, N))
    return Looked(saliency, classes, rows, spots, np.arange(n) // 4 if blocks is None else blocks)


def low_cars(rng, n=24):
    """Return classes in which each patch is a car or road, cars mostly in the lower rows."""
    share = np.zeros((n, ROWS * COLUMNS, len(CLASSES)))
    chance = np.repeat([0.05, 0.1, 0.3, 0.6], COLUMNS)
    cars = rng.random((n, ROWS * COLUMNS)) < chance
    share[..., CAR], share[..., ROAD] = cars, ~cars
    return share, cars


def test_a_prior_on_rows_looks_like_understanding_and_the_control_sees_through_it():
    rng = np.random.default_rng(0)
    classes, _ = low_cars(rng)
    by_row = np.repeat([2.0, 1.5, 0.4, 0.1], COLUMNS)
    saliency = np.broadcast_to(by_row, (24, ROWS * COLUMNS)) * rng.uniform(0.5, 2.0, (24, 1))
    figures = class_figures(looked(saliency, classes))[MOVING]
    assert figures.over['area'].high < 0.7  # as if it knew cars
    for way in ('rows', 'spots'):
        over = figures.over[way]
        assert (over.value, over.low, over.high) == pytest.approx((1.0, 1.0, 1.0))
    assert habit(looked(saliency, classes)).value == pytest.approx(1.0)


def test_saliency_that_does_know_cars_passes_the_control():
    rng = np.random.default_rng(1)
    classes, cars = low_cars(rng)
    saliency = np.where(cars, 0.5, 1.0) * rng.uniform(0.9, 1.1, cars.shape)
    look_at = looked(saliency, classes)
    figures = class_figures(look_at)
    for way in ('area', 'rows', 'spots'):
        assert figures[MOVING].over[way].high < 0.8
        assert figures['car'].over[way] == figures[MOVING].over[way]
    assert habit(look_at).high < 0.6
    assert figures[MOVING].area == pytest.approx(cars.mean())
    assert figures[MOVING].saliency + figures['road'].saliency == pytest.approx(1.0)


def test_relative_saliency_is_what_loops_say():
    rng = np.random.default_rng(2)
    look_at = looked(rng.random((3, ROWS * COLUMNS)) + 0.1)
    rows, spots = relative_saliency(look_at, 'rows'), relative_saliency(look_at, 'spots')
    for i in range(3):
        for t in (0, 20, 51):
            row = [u for u in range(52) if u // COLUMNS == t // COLUMNS]
            assert rows[i, t] == pytest.approx(
                look_at.saliency[i, t] / look_at.saliency[i, row].mean())
    whole = look_at.saliency / look_at.saliency.mean(1, keepdims=True)
    assert np.allclose(spots, whole / whole.mean(0))


def test_a_ratio_is_of_sums_and_its_interval_of_blocks():
    top, bottom = np.array([1.0, 3.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0, 0.0])
    assert ratio(top, bottom, np.array([0, 1, 2, 3])).value == 1.0
    low_high = ratio(top, bottom, np.array([0, 1, 2, 3]))
    assert (low_high.low, low_high.high) == (0.5, 1.5)  # draws with neither are left out
    assert np.isnan(ratio(top, bottom, np.array([0, 0, 1, 1])).low)  # one block has it: no say


@pytest.mark.parametrize('count', [1, 5, 17, 47])
def test_orders_of_removal(count):
    rng = np.random.default_rng(count)
    saliency, rows = rng.random(52), np.repeat(np.arange(ROWS), COLUMNS)
    removed = {order: removed_tokens(saliency, rows, count, order, np.random.default_rng(0))
               for order in ORDERS}
    for tokens in removed.values():
        assert len(np.unique(tokens)) == count
    most, least = removed['most salient'], removed['least salient']
    assert saliency[most].min() >= np.delete(saliency, most).max()
    assert saliency[least].max() <= np.delete(saliency, least).min()
    assert (np.bincount(rows[most], minlength=4)
            == np.bincount(rows[removed['random in the same rows']], minlength=4)).all()


def test_deletion_tells_what_matters_from_where_it_lies():
    """A network that reads one patch of each row: saliency marks it, or only its row."""
    rng = np.random.default_rng(3)
    n, N = 96, ROWS * COLUMNS
    reads = np.stack([rng.integers(0, COLUMNS) + np.arange(0, N, COLUMNS) for _ in range(n)])
    codes = rng.normal(size=(n, ROWS, 16))

    def disturbed(removed):
        found = np.stack([codes[i][~np.isin(reads[i], removed[i])].sum(0) + 1e-3
                          for i in range(n)])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    whole = disturbed([np.empty(0, np.int64)] * n)

    def right(found):
        return ((found @ whole.T).argmax(1) == np.arange(n)).astype(float)

    marks = rng.random((n, N)) * 0.1
    marks[np.arange(n)[:, None], reads] += 1.0
    knows = deletion_curves(looked(marks), disturbed, right, np.arange(n) // 4)
    blind = deletion_curves(looked(rng.random((n, N))), disturbed, right, np.arange(n) // 4)
    assert set(knows.cosine) == set(ORDERS)
    assert np.allclose(knows.cosine['most salient'][:, 0], 1.0)
    assert knows.right['most salient'][:, 0].mean() == 1.0
    gap = area_difference(knows.cosine['most salient'], knows.cosine['random in the same rows'],
                          knows.blocks)
    assert gap.high < 0.0
    same = area_difference(blind.cosine['most salient'], blind.cosine['random in the same rows'],
                           blind.blocks)
    assert same.low < 0.0 < same.high
    assert knows.right['least salient'].mean() > knows.right['most salient'].mean()


def test_the_area_of_a_line_is_its_mean_height():
    assert np.allclose(area_under(np.array([[1.0 - f for f in FRACTIONS],
                                            [0.5] * len(FRACTIONS)])), [0.55, 0.5])


def test_classes_come_to_the_pixels_of_the_network(tmp_path):
    rng = np.random.default_rng(4)
    camera = Pinhole(208, 64, 83.75, 83.75, 103.5, 31.5)
    classes = rng.choice([7, 11, 26], (64, 208)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), classes)
    empty = np.empty(0, np.int64)
    stream = CameraStream(empty, empty, [], np.empty((0, 4, 4)), np.eye(4), camera=camera)
    config = CITY.image
    assert np.array_equal(image_classes(tmp_path / 'a.png', stream, config), classes)
    shares = patch_shares(classes, config)
    assert shares.shape == (52, len(CLASSES)) and np.allclose(shares.sum(1), 1.0)
    cell = classes[16:32, 32:48]  # row 1, column 2
    assert shares[13 + 2, CAR] == pytest.approx((cell == 26).mean())
    with pytest.raises(InputError, match='classes'):
        image_classes(tmp_path / 'none.png', stream, config)
    # A panorama is resized; what the patch does not divide is padded with nothing known.
    wide = ImageConfig(height=40, width=104, patch=16, dim=32, heads=2)
    padded = patch_shares(np.full((40, 104), 7), wide)
    assert padded[-1, ROAD] == pytest.approx(0.25) and padded[0, ROAD] == 1.0


def street(rng, n=30_000):
    """Return points of a street: road, and walls to both sides."""
    x = rng.uniform(2.0, 40.0, n)
    side = rng.integers(0, 3, n)
    y = np.where(side == 0, rng.uniform(-8, 8, n), np.where(side == 1, 8.0, -8.0))
    z = np.where(side == 0, 0.0, rng.uniform(0, 9, n))
    return np.stack([x, y, z], 1).astype(np.float32)


@pytest.mark.parametrize('kind', ['points', 'range'])
def test_token_points_lie_where_the_submap_has_points(kind):
    model = tiny_model(kind)
    points = street(np.random.default_rng(5), 12_000)
    inputs = cloud_input(points, model)
    own = token_points(inputs, model)
    seen = own[np.isfinite(own).all(-1)]
    assert len(seen) > 400
    apart = np.linalg.norm(seen[:200, None] - points[None], axis=2).min(1)
    # A pixel's point lies on its ray: a pixel of 104 over 102 degrees is 0.4 m at 25 m.
    assert np.median(apart) < (1e-3 if kind == 'points' else 0.5)
    if kind == 'range':
        pixels, distance = project(seen, model)
        assert np.allclose(inputs[0][0][pixels[:, 0], pixels[:, 1]], distance, rtol=1e-4)


def test_points_take_the_class_of_their_nearest():
    rng = np.random.default_rng(6)
    known, names = rng.uniform(0, 9, (50, 3)).astype('f4'), rng.integers(1, 40, 50)
    asked = rng.uniform(0, 9, (4, 5, 3)).astype(np.float32)
    asked[0, 0] = np.nan
    found = classes_of_points(asked, known, names.astype(np.uint16))
    apart = np.linalg.norm(asked[:, :, None] - known, axis=3)
    with np.errstate(invalid='ignore'):
        expected = np.where(apart.min(2) < 1.0, names[apart.argmin(2)], 0)
    assert found[0, 0] == 0 and np.array_equal(found.ravel()[1:], expected.ravel()[1:])
    assert (found > 0).any() and (found == 0).sum() > 1


@pytest.mark.parametrize('kind', ['points', 'range'])
def test_removing_tokens_removes_these_and_no_others(kind):
    torch.manual_seed(0)
    model = DualEncoder(tiny_model(kind)).eval()
    inputs = cloud_input(street(np.random.default_rng(7)), model.config)
    none, some = np.empty(0, np.int64), np.array([3, 17])
    whole, saliency = look(model, [inputs], 'cloud')
    assert np.array_equal(look(model, [without(inputs, none, model.config.cloud)], 'cloud')[0],
                          whole)
    less = without(inputs, some, model.config.cloud)
    if kind == 'points':
        assert saliency.shape == (1, 32)
        assert np.array_equal(less[1], np.delete(inputs[1], some, 0))
    else:
        changed = (less[0] != inputs[0])[0].reshape(4, 8, 13, 8).any((1, 3)).ravel()
        assert set(np.flatnonzero(changed)) <= {3, 17} and changed.any()
    picture = np.random.default_rng(8).normal(size=(3, 32, 104)).astype(np.float32)
    masked, = without((picture,), np.array([14]), model.config.image)  # row 1, column 1
    assert not masked[:, 8:16, 8:16].any()
    assert (masked != picture).sum() == 3 * 64


def test_networks_without_attention_are_refused():
    config = next(c for c in PRESETS.values() if not c.has_saliency)
    with pytest.raises(InputError, match='no attention'):
        check_saliency(config)
    check_saliency(CITY)


def test_findings_say_what_the_intervals_say():
    rng = np.random.default_rng(9)
    classes, cars = low_cars(rng)
    figures = class_figures(looked(np.where(cars, 0.5, 1.0), classes))[MOVING]
    word, claim = _against('Images: what can move', figures, 'rows')
    assert word == 'shown' and 'gets less saliency than the mean of the same rows' in claim
    plain = class_figures(looked(rng.uniform(0.5, 1.5, cars.shape), classes))[MOVING]
    word, claim = _against('Images: what can move', plain, 'rows')
    assert word == 'not shown' and 'more or less' in claim
    low, high = Interval(0.9, 0.85, 0.95), Interval(1.1, 1.05, 1.2)
    assert _alike('Images', low, high)[0] == _alike('Images', high, low)[0] == 'shown'
    assert _alike('Images', low, low)[0] == 'not shown'


@pytest.fixture(scope='module')
def city(tmp_path_factory):
    """A short city in heavy traffic, with the classes of its images."""
    root = tmp_path_factory.mktemp('cities') / 'city'
    generate_city(root, seed=5, traversals=2, length_m=120.0, image_every=6, scan_every=8,
                  blocks=2, cars_per_km=60.0, people_per_km=60.0, semantics=True, progress=False,
                  image_size=(48, 160), lidar=Lidar(columns=256))
    return root


@pytest.mark.parametrize('kind', ['points', 'range'])
def test_the_command_writes_a_report(kind, city, tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(city.parent / 'cache'))
    torch.manual_seed(0)
    save_model(DualEncoder(tiny_model(kind)), tmp_path / 'model', {})
    out = tmp_path / 'out'
    monkeypatch.setattr(sys, 'argv', [
        'i2ploc', 'saliency', str(tmp_path / 'model'), str(city), '--out', str(out),
        '--images', '8', '--places', '6'])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    summary = json.loads((out / 'summary.json').read_text())
    assert {'car', 'building', MOVING} <= set(summary['image']['classes'])
    assert {'car', 'road', MOVING} <= set(summary['cloud']['classes'])
    seen = [f['area'] for n, f in summary['image']['classes'].items() if n in NAMES.values()]
    assert sum(seen) == pytest.approx(1.0, abs=0.05)
    for branch in ('image', 'cloud'):
        curve = summary[branch]['deletion']['most salient']['curve_cosine']
        assert curve[0] == 1.0 and len(curve) == len(FRACTIONS)
    assert '<img' in (out / 'report.html').read_text()
    assert (out / 'images.png').is_file() and (out / 'clouds.png').is_file()
