"""The offline evaluator, its report, and the two commands on a drive of a few images."""

import io
import json
from types import SimpleNamespace

import cv2
from helpers_cli import i2ploc
import numpy as np
import pytest
from rich.console import Console

from saliency_i2ploc_ros.data.drive import CameraStream, Drive, Stream, Trajectory
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.answers import record_of, record_of_json, Spool
from saliency_i2ploc_ros.evaluation.comparison import causes, compare, comparison_table
from saliency_i2ploc_ros.evaluation.offline import evaluate_drive, has_truth
from saliency_i2ploc_ros.evaluation.pictures import display_cloud, queries_to_show
from saliency_i2ploc_ros.evaluation.report import provenance, summary_table, write_report
from saliency_i2ploc_ros.evaluation.summary import Record
from saliency_i2ploc_ros.evaluation.trust_pictures import worst_fixes
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import apply, planar, R_base_optical, transform
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig

CAMERA = Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
AHEAD = transform(R_base_optical, [1.0, 0.0, 1.5])
PLACES = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(20)])


class StandInDatabase:
    """Twenty places along x; each place's cloud is one wall, 6 m to the left."""

    spacing_m, T_map_base, identity = 5.0, PLACES, 'identity'

    def cloud(self, i):
        x, z = np.meshgrid(np.linspace(-20, 20, 60), np.linspace(0, 5, 10))
        return np.stack([x, np.full_like(x, 6.0), z], -1).reshape(-1, 3).astype(np.float32)


class StandInLocalizer:
    """Answers with the place whose number is the image's mean red, rejects dark images."""

    database = StandInDatabase()

    def localize(self, image, camera, T_base_camera):
        assert image.shape == (48, 64, 3) and camera == CAMERA
        place = round(float(image[:, :, 0].mean()))
        stages = {'prepare': 1.0, 'encode': 2.0, 'search': 0.1, 'hypotheses': 0.5}
        if place == 0:
            return Answer(None, 'no_texture', 'dark', Candidates.none(), stages)
        order = np.r_[place, np.delete(np.arange(20), place)]
        candidates = Candidates(order, np.linspace(1, 0, 20, dtype=np.float32), PLACES[order])
        fix = Fix(PLACES[place], np.eye(6), 1.0)
        return Answer(fix, None, 'yes', candidates, stages, estimate=fix, confidence=place / 20)


@pytest.fixture
def drive(tmp_path):
    """Return eight images 10 m apart; one is dark, one broken, the last has no pose."""
    folder = tmp_path / 'images'
    folder.mkdir()
    paths, truth = [], []
    for i in range(8):
        image = np.full((48, 64, 3), 2 * i, np.uint8)
        paths.append(folder / f'{i}.png')
        cv2.imwrite(str(paths[-1]), image)
        truth.append(planar(10.0 * i, 1.0, 0.0))
    paths[3].write_bytes(b'no image')
    truth[7] = np.full((4, 4), np.nan)
    ids = np.arange(8)
    stream = CameraStream(ids, ids * 10 ** 8 + 1_700_000_000_123_456_789, paths, np.stack(truth),
                          AHEAD, camera=CAMERA)
    return Drive('a_drive', 'stand-in: a_drive', {'image_00': stream}, None,
                 Trajectory(stream.stamps_ns[:7], np.stack(truth[:7])), None)


def test_a_drive_becomes_records_beside_the_truth(drive):
    records = evaluate_drive(StandInLocalizer(), drive)
    assert [r.stamp_ns for r in records] == drive.cameras['image_00'].stamps_ns.tolist()
    assert [r.rejection for r in records] == ['no_texture', None, None, 'unreadable'] + 4 * [None]
    assert [r.has_truth for r in records] == 7 * [True] + [False]
    assert [r.error_m for r in records if np.isfinite(r.error_m)] == pytest.approx(5 * [1.0])
    assert has_truth(drive)
    some = evaluate_drive(StandInLocalizer(), drive, every=2, limit=3)
    assert [r.frame for r in some] == [0, 2, 4]


def test_a_drive_without_images_is_one_clear_line(drive):
    with pytest.raises(InputError, match='no camera images'):
        evaluate_drive(StandInLocalizer(), Drive('x', 'here: x', {}, None, drive.trajectory, None))
    empty = Stream(*(a[:0] for a in (np.zeros(0, np.int64),) * 2), [], np.zeros((0, 4, 4)), AHEAD)
    stream = CameraStream(**vars(empty), camera=CAMERA)
    with pytest.raises(InputError, match='no images of image_00'):
        evaluate_drive(StandInLocalizer(), Drive('x', 'here: x', {'image_00': stream}, None,
                                                 drive.trajectory, None))


def test_a_report_has_figures_trajectories_and_pictures(drive, tmp_path):
    localizer = StandInLocalizer()
    records = evaluate_drive(localizer, drive)
    out = tmp_path / 'results'
    summary = write_report(out, records, localizer.database,
                           lambda record: drive.image('image_00', record.frame), {'drive': 'a'})
    assert json.loads((out / 'summary.json').read_text()) == summary
    assert summary['coverage']['rejected_by_reason'] == {'no_texture': 1, 'unreadable': 1}
    assert summary['recall']['at']['1']['recall'] == pytest.approx(5 / 7)
    assert summary['errors']['position_m']['max'] == pytest.approx(1.0)
    lines = (out / 'fixes.tum').read_text().splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:3] == ['1700000000.223456789', '10.000000000', '0.000000000']
    assert len((out / 'truth.tum').read_text().splitlines()) == 7
    pictures = ['acceptance.png', 'errors.png', 'overview.png', 'reliability.png', 'worst.png']
    for name in pictures:
        assert cv2.imread(str(out / name)).shape[0] > 300
    assert sorted(p.name for p in out.iterdir()) == sorted([
        *pictures, 'answers.jsonl', 'fixes.tum', 'summary.json', 'times.jsonl', 'truth.tum'])
    answers = [json.loads(line) for line in (out / 'answers.jsonl').read_text().splitlines()]
    assert [a['stamp_ns'] for a in answers] == [r.stamp_ns for r in records]
    assert answers[3]['rejection'] == 'unreadable' and answers[1]['fix']['covariance'][0][0] == 1
    assert not any('milliseconds' in a for a in answers)
    times = [json.loads(line) for line in (out / 'times.jsonl').read_text().splitlines()]
    assert times[1]['milliseconds']['encode'] == 2.0
    assert summary['verdict'] == {'passed': True, 'failures': [], 'exit_code': 0}
    text = table_text(summary)
    assert 'Recall@20' in text and '1 no_texture' in text and '71.4 %' in text
    row, = (line for line in text.splitlines() if 'look the wrong way (over 45 degrees)' in line)
    assert ' 0.0 %' in row


def test_a_report_without_truth_or_fixes_says_so(drive, tmp_path):
    records = [r for r in evaluate_drive(StandInLocalizer(), drive) if not r.has_truth]
    summary = write_report(tmp_path / 'a', records, StandInDatabase(), lambda record: None, {})
    assert {p.name for p in (tmp_path / 'a').glob('*.png')} == {'overview.png'}
    assert 'not judged' in table_text(summary)
    summary = write_report(tmp_path / 'b', [], StandInDatabase(), lambda record: None, {})
    assert (tmp_path / 'b' / 'overview.png').exists()
    assert (tmp_path / 'b' / 'fixes.tum').read_text() == ''
    table_text(summary)


def table_text(summary):
    text = io.StringIO()
    Console(width=100, file=text).print(summary_table(summary))
    return text.getvalue()


def test_the_queries_shown_are_the_median_the_worst_and_a_rejection():
    truth = planar(0.0, 0.0, 0.0)
    records = [Record(i, planar(error, 0.0, 0.0), np.eye(6), None, truth=truth,
                      places=np.array([0])) for i, error in enumerate([3.0, 90.0, 1.0, 4.0, 2.0])]
    records += [Record(10 + i, None, None, 'ambiguous', truth=truth, places=np.array([0]))
                for i in range(3)]
    shown = queries_to_show(records)
    assert [record.stamp_ns for _, record in shown] == [0, 1, 11]
    assert queries_to_show(records[:0]) == []
    assert [record.stamp_ns for _, record in queries_to_show(records[5:])] == [11]


def test_the_worst_fixes_are_different_failures():
    truth = planar(0.0, 0.0, 0.0)
    errors = {0.0: 50.0, 0.5: 49.0, 2.1: 10.0, 4.0: 60.0, 5.9: 59.0, 6.1: 1.0}
    records = [Record(int(second * 1e9), planar(error, 0.0, 0.0), np.eye(6), truth=truth)
               for second, error in errors.items()]
    records.append(Record(9 * 10 ** 9, planar(99.0, 0.0, 0.0)))  # whose truth is not known
    assert [r.stamp_ns / 1e9 for r in worst_fixes(records)] == [4.0, 0.0, 6.1]
    assert [r.stamp_ns / 1e9 for r in worst_fixes(records, 1)] == [4.0]


def test_a_live_answer_becomes_the_same_record_and_line():
    fix = Fix(PLACES[3], np.diag(np.arange(1.0, 7.0)), 0.5)
    candidates = Candidates(np.array([3, 4]), np.float32([0.5, 0.4]), PLACES[[3, 4]])
    for answer in (Answer(fix, None, 'yes', candidates, {'total': 1.25}, (), fix, 0.8),
                   Answer(None, 'no_texture', 'dark', Candidates.none(), {})):
        text = json.dumps({'stamp_ns': 7, 'received': 9, 'dropped': 1, **answer.as_dict()})
        live, offline = record_of_json(json.loads(text)), record_of(answer, 7)
        assert live.answer == offline.answer and live.stamp_ns == 7
        np.testing.assert_array_equal(live.candidate_positions, offline.candidate_positions)
        np.testing.assert_array_equal(live.estimate, offline.estimate)
        np.testing.assert_array_equal(live.confidence, offline.confidence)
        assert live.milliseconds == answer.milliseconds and live.rejection == answer.rejection
        assert live.T_map_base is None  # that is the message of ~/fix


def test_lines_are_kept_outside_of_memory(tmp_path):
    lines = Spool(tmp_path / 'new')
    for stamp, text in ((5, 'fünf'), (3, 'three'), (5, 'five again'), (9, '')):
        lines[stamp] = text
        assert lines[stamp] == text
    assert [lines[stamp] for stamp in (9, 5, 3)] == ['', 'five again', 'three']
    lines.close()
    assert not list((tmp_path / 'new').iterdir())
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write into'):
        Spool(tmp_path / 'file')


def run_of(out, shift=0.0, drop=(), milliseconds=1.0, **provenance):
    """Write a run of five images; the last is rejected. Fixes lie `shift` off their place."""
    records = []
    for i in range(5):
        fix = Fix(planar(10.0 * i + shift, 0.0, 0.0), np.eye(6), 0.5) if i < 4 else None
        answer = Answer(fix, None if fix else 'ambiguous', '', Candidates.none(),
                        {'total': milliseconds}, (), fix, 0.5)
        if i not in drop:
            records.append(record_of(answer, 10 ** 9 * i, planar(10.0 * i, 0.0, 0.0)))
    write_report(out, records, StandInDatabase(), lambda record: None, provenance, images_in=5)


def test_the_calibration_is_among_what_made_a_run(tmp_path):
    from test_calibration import calibration

    def made_by(calibrated):
        model = SimpleNamespace(encoder_hash='e', runtime='torch', device='cpu',
                                precision='fp32', acceleration='none')
        return provenance(SimpleNamespace(
            model=model, database=SimpleNamespace(identity='i'), config=LocalizerConfig(),
            calibration=calibrated))

    none, one, other = map(made_by, (None, calibration(), calibration(nothing=0.2)))
    assert none['calibration'] == 'none' and len(one['calibration']) == 16
    assert one == made_by(calibration()) and one['calibration'] != other['calibration']
    run_of(tmp_path / 'a', **one)
    run_of(tmp_path / 'b', **none)
    assert compare(tmp_path / 'a', tmp_path / 'b')['causes'] == [
        f'calibration: {one["calibration"]} live, none offline']


def test_two_runs_are_compared(tmp_path):
    run_of(tmp_path / 'a', drop=(1,), milliseconds=3.0, localizer={'top_k': 20, 'min_score': 0.1})
    run_of(tmp_path / 'b', localizer={'top_k': 20, 'min_score': 0.2}, torch='2')
    run_of(tmp_path / 'c', shift=0.25, localizer={'top_k': 20, 'min_score': 0.2}, torch='3')
    same = compare(tmp_path / 'a', tmp_path / 'b')
    assert same['images'] == {'both': 4, 'only_live': 0, 'only_offline': 1}
    assert same['equal_to_the_bit'] == same['same_fix_or_reason'] == 4
    assert same['largest_difference']['position_m'] == 0.0
    assert same['causes'] == ['parameter min_score: 0.1 live, 0.2 offline']
    assert same['latency_ms']['live']['total']['p50'] == 3.0
    assert [same['coverage'][run]['dropped'] for run in ('live', 'offline')] == [1, 0]
    other = compare(tmp_path / 'b', tmp_path / 'c')
    assert other['equal_to_the_bit'] == other['same_fix_or_reason'] == 1  # the rejection
    assert other['largest_difference']['position_m'] == 0.25
    assert other['largest_difference']['fixes'] == 4 and other['causes'] == ['torch: 2 live, '
                                                                             '3 offline']
    text = io.StringIO()
    Console(width=100, file=text).print(comparison_table(other))
    assert '0.25 m' in text.getvalue()
    with pytest.raises(InputError, match=r'answers\.jsonl'):
        compare(tmp_path, tmp_path / 'b')
    settings = {'prior_share': 0.9, 'odometry': 'tf', 'odom_frame': 'odom'}
    for name in settings:
        assert causes({'localizer': settings}, {'localizer': {**settings, name: 'x'}}) == [
            f'parameter {name}: {settings[name]} live, x offline']


def test_the_display_cloud_is_thinned_and_in_the_map():
    database = StandInDatabase()
    whole = np.concatenate([apply(T, database.cloud(i)) for i, T in enumerate(PLACES)])
    cloud = display_cloud(database, most=500)
    assert 100 < len(cloud) <= 500
    assert cloud[:, 1] == pytest.approx(6.0)
    assert cloud[:, 0].min() == pytest.approx(whole[:, 0].min(), abs=1.0)
    assert cloud[:, 0].max() > 80.0


@pytest.mark.parametrize('text', ['1,2,3', 'a,b,c,d', '-1,1,5,5', '40,40,64,20', '40,nan,3,3'])
def test_intrinsics_that_cannot_be_are_refused(text):
    from saliency_i2ploc_ros.cli.localize import parse_camera
    with pytest.raises(InputError, match='--camera'):
        parse_camera(text, 64, 48)


# ---- with the real model, map and reader ----

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a KITTI-360 root, a model and a map whose places are described by the images."""
    import torch

    from saliency_i2ploc_ros.data.kitti360 import DriveWriter, write_calibration
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
    from saliency_i2ploc_ros.mapping.database import write_database

    root = tmp_path_factory.mktemp('world')
    torch.manual_seed(0)
    model = DualEncoder(ModelConfig(
        name='tiny', descriptor_dim=16,
        image=ImageConfig(height=48, width=64, dim=32, depth=1, heads=2, camera=CAMERA),
        cloud=CloudConfig(tokens=TokenConfig(points=64, centres=8, neighbours=4), dim=32, depth=1,
                          heads=2, pointnet=(8, 16), pointnet_second=()),
        aggregation=AggregationConfig(clusters=4))).eval()
    save_model(model, root / 'model', {})

    rng = np.random.default_rng(5)
    images = [cv2.resize(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8), (64, 48),
                         interpolation=cv2.INTER_CUBIC) for _ in range(6)]
    T = np.stack([planar(1e6 + 50.0 * i, 2e6, 0.3) for i in range(6)])
    write_calibration(root / 'kitti', CAMERA, AHEAD, transform(None, [0.0, 0.0, 1.7]))
    stamps = np.arange(6) * 10 ** 8 + 1_700_000_000_000_000_007
    with DriveWriter(root / 'kitti', 'city_0042_drive_0000_sync') as writer:
        for i, image in enumerate(images):
            writer.image(i, image)
        writer.finish(stamps, stamps, np.arange(6), T)
    pixels = torch.from_numpy(np.stack([prepare_image(i, CAMERA, model.config.image)
                                        for i in images]))
    with torch.inference_mode():
        descriptors = model.encode_image(pixels).descriptor.numpy()
    write_database(
        root / 'map', descriptors, T, [StandInDatabase().cloud(0)] * 6,
        encoder_hash=encoder_hash(model), preprocessing_hash=preprocessing_hash(model.config),
        model_name='tiny', submap={}, spacing_m=50.0)
    return root


def test_evaluate_finds_each_image_at_its_place(world, tmp_path, monkeypatch):
    # The places' descriptors are hardly apart in a model that has learned nothing.
    monkeypatch.setattr('saliency_i2ploc_ros.localization.localizer.LocalizerConfig',
                        lambda: LocalizerConfig(temperature=1e-6))
    arguments = [world / 'kitti', '--map', world / 'map', '--model', world / 'model', '--out']
    output = i2ploc('evaluate', *arguments, tmp_path / 'a')
    assert 'Recall@1' in output and '100.0 %' in output
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert summary['coverage']['accepted'] == 6
    assert summary['errors']['position_m']['max'] < 0.01
    assert summary['recall']['at']['1']['recall'] == 1.0
    assert summary['recall']['at']['1']['chance'] == pytest.approx(1 / 6)
    assert len(summary['provenance']['model_hash']) == 16
    i2ploc('evaluate', *arguments, tmp_path / 'b')
    for name in ('fixes.tum', 'truth.tum', 'answers.jsonl'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
    check_images_of_run(world, tmp_path / 'a')


def check_images_of_run(world, out):
    """The results of a run lead back to its images."""
    from saliency_i2ploc_ros.cli.scene import provenance_of, seen
    from saliency_i2ploc_ros.data.readers import open_drive
    run, drive = provenance_of(out), open_drive(world / 'kitti')
    stamp = int(drive.cameras['image_00'].stamps_ns[4])
    image, camera = seen(run, stamp)
    np.testing.assert_array_equal(image, drive.image('image_00', 4))
    assert camera == drive.cameras['image_00'].camera
    assert seen(run, stamp + 1) is None
    assert seen({**run, 'root': str(out)}, stamp) is None


def test_evaluate_of_a_drive_without_poses_gives_fixes_and_says_so(world, tmp_path):
    import shutil

    shutil.copytree(world / 'kitti', tmp_path / 'kitti')
    shutil.rmtree(tmp_path / 'kitti' / 'data_poses')
    output = i2ploc('evaluate', tmp_path / 'kitti', '--drive', 'city_0042_drive_0000_sync',
                    '--map', world / 'map', '--model', world / 'model',
                    '--out', tmp_path / 'out')
    assert 'has no poses' in output
    assert json.loads((tmp_path / 'out' / 'summary.json').read_text())['recall'] is None


def test_localize_answers_in_words_and_in_json(world):
    image = next((world / 'kitti').rglob('0000000003.png'))
    arguments = [image, '--map', world / 'map', '--model', world / 'model',
                 '--camera', '40,40,31.5,23.5']
    answer = json.loads(i2ploc('localize', *arguments, '--json', '--yaw', '180'))
    assert answer['candidates'][0]['place'] == 3
    assert answer['candidates'][0]['position_m'][:2] == pytest.approx([1e6 + 150, 2e6])
    assert answer['candidates'][0]['yaw_deg'] == pytest.approx(np.degrees(0.3) - 180)
    assert 'similarity 1.000' in i2ploc('localize', *arguments)


def test_what_does_not_belong_together_is_refused(world, tmp_path):
    import torch

    from saliency_i2ploc_ros.encoders.files import load_model, save_model
    image = next((world / 'kitti').rglob('0000000003.png'))
    other = load_model(world / 'model')
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    save_model(other, tmp_path / 'other', {})
    camera = ['--camera', '40,40,31.5,23.5']
    with pytest.raises(InputError, match='was built with encoder'):
        i2ploc('localize', image, '--map', world / 'map', '--model', tmp_path / 'other',
               *camera)
    with pytest.raises(InputError, match='not a map'):
        i2ploc('localize', image, '--map', tmp_path, '--model', world / 'model', *camera)
    with pytest.raises(InputError, match='calibration'):
        i2ploc('localize', image, '--map', world / 'map', '--model', world / 'model')
    with pytest.raises(InputError, match='device'):
        i2ploc('localize', image, '--map', world / 'map', '--model', world / 'model', *camera,
               '--device', 'abacus')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='is a file'):
        i2ploc('evaluate', world / 'kitti', '--map', world / 'map', '--model', world / 'model',
               '--out', tmp_path / 'file')
