"""`i2ploc evaluate` of drives on disk with a small model: pairings, report, cache, processes."""

import json
import os
import re
import subprocess
import sys

from helpers_cli import i2ploc
from helpers_street import save_small_model, write_street
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.judging import figures

SECOND = 10 ** 9


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a KITTI-360 root of a street driven twice, with scans, and a small model."""
    root = tmp_path_factory.mktemp('world')
    save_small_model(root / 'model')
    write_street(root / 'data')
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def evaluate(*arguments):
    return i2ploc('evaluate', *arguments)


def test_every_pairing_is_judged_by_model_and_baseline(world, cache):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation.protocols import PAIRINGS
    from saliency_i2ploc_ros.evaluation.retrieval import describe, judge_all, Question
    drive = open_drive(world / 'data', '0000')
    prepared = describe(Question('same_pass', PAIRINGS), load_model(world / 'model'), drive)
    results = [figures(judgement) for judgement in judge_all(prepared)]
    assert [(r['pairing'], r['method']) for r in results] == [
        (pairing, method)
        for pairing in ('image-cloud', 'cloud-image', 'image-image', 'cloud-cloud')
        for method in ('model', 'skyline')]
    for result in results:
        assert (result['queries'], result['database']) == (20, 20)
        assert result['at']['20']['queries'] == 20 and result['unanswered'] == 0
        assert set(result['at']) == {'5', '10', '20', '25'}


def test_a_report_says_all_that_must_be_said(world, cache, tmp_path):
    out = tmp_path / 'out'
    output = evaluate(world / 'data', '--drive', '0000', '--protocol', 'same_pass', '--pairing',
                      'cloud-image', '--model', world / 'model', '--out', out)
    assert 'cloud to image, model' in output and 'does not say' in output
    evaluation = json.loads((out / 'evaluation.json').read_text())
    assert evaluation['schema'] == 1
    assert evaluation['protocol']['sessions'] == {'queries': 'city_0007_drive_0000_sync',
                                                  'database': 'city_0007_drive_0000_sync'}
    markdown = (out / 'report.md').read_text()
    for said in ('every 3 m', 'in the plane', 'Heading', 'seed 0', 'excluded', '20 to 40 m',
                 'round(N / 100)', 'Latency', '50 m blocks', '5, 10, 20, 25 m', 'not ruled out'):
        assert said in markdown, said
    pictures = re.findall(r'\]\((.+?\.png)\)', markdown)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (out / picture).stat().st_size > 1000
    assert 'html' in (out / 'report.html').read_text()
    lines = (out / 'queries.csv').read_text().splitlines()
    assert len(lines) == 1 + 2 * 20 and lines[0].endswith('rank_5m,rank_10m,rank_20m,rank_25m')


def test_descriptors_are_made_once_and_never_mixed(world, cache, tmp_path, monkeypatch):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation import stored
    from saliency_i2ploc_ros.evaluation.retrieval import describe, judge_all, Question
    made = []
    encoded = stored._encoded
    monkeypatch.setattr(stored, '_encoded', lambda rows, *rest: made.append(len(rows)) or
                        encoded(rows, *rest))

    def results(model, **changed):
        asks, answers = (open_drive(world / 'data', name) for name in ('0001', '0000'))
        prepared = describe(Question(baseline=False, **changed), load_model(model), asks, answers)
        found = [figures(judgement) for judgement in judge_all(prepared)]
        for result in found:
            del result['latency_ms']['search_and_rank_a_query']
        return found

    first = results(world / 'model')
    assert made == [20, 12]  # images, and submaps every 5 m of poses 3 m apart
    assert results(world / 'model') == first
    assert made == [20, 12]  # nothing was described again
    save_small_model(tmp_path / 'other', seed=1)
    assert results(tmp_path / 'other') != first
    assert made == [20, 12] * 2
    results(world / 'model', spacing_m=10.0)
    assert made == [20, 12] * 2 + [6]  # other submaps, the same images
    image = next((world / 'data').rglob('city_0007_drive_0001_sync/image_00/**/*3.png'))
    os.utime(image, ns=(1, 1))  # another file, for all that can be told
    results(world / 'model')
    assert made == [20, 12] * 2 + [6, 20]


def test_of_two_runs_at_the_same_descriptors_the_second_takes_those_of_the_first(
        world, cache, monkeypatch):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.distributed import World
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation import described, stored
    drive, model = open_drive(world / 'data', '0001'), load_model(world / 'model')
    merge = stored._merge_parts

    def overtaken(*arguments):
        merge(*arguments)  # by the other run, which takes the parts away
        merge(*arguments)

    monkeypatch.setattr(stored, '_merge_parts', overtaken)
    by_model = described.ByModel(model)
    found = described.describe_images(drive, 'image_00', range(20), by_model, World())
    assert len(found) == 20
    monkeypatch.setattr(stored, '_merge_parts', lambda folder, *rest:
                        (folder.parent / 'gone').read_text())
    with pytest.raises(FileNotFoundError):  # nobody made them
        described.describe_images(drive, 'image_00', range(9), by_model, World())


def test_the_map_drive_needs_the_camera_only_where_its_images_answer(world, cache):
    from dataclasses import replace

    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation.retrieval import describe, Question
    asks, answers = (open_drive(world / 'data', name) for name in ('0001', '0000'))
    other = replace(answers, cameras={'front': answers.cameras['image_00']})
    model = load_model(world / 'model')
    prepared = describe(Question(baseline=False, camera='image_00'), model, asks, other)
    assert prepared.queries.camera == 'image_00'
    with pytest.raises(InputError, match='image_00'):
        describe(Question(baseline=False, camera='image_00', pairings=('image-image',)), model,
                 asks, other)


def test_a_map_on_disk_answers_as_it_was_built(world, cache, tmp_path):
    from saliency_i2ploc_ros.cli import build_map
    build_map.command(out=tmp_path / 'map', root=world / 'data', drive='0000', cloud=None,
                      trajectory=None, scale=1.0, model=world / 'model', spacing=None,
                      headings=None, picture=None, overwrite=False, device='cpu')
    output = evaluate(world / 'data', '--drive', '0000', '--map', tmp_path / 'map', '--model',
                      world / 'model', '--out', tmp_path / 'a')
    assert 'Recall@1' in output and 'image to cloud, skyline' in output
    evaluate(world / 'data', '--drive', '0000', '--map-drive', '0000', '--model',
             world / 'model', '--out', tmp_path / 'b')
    assert 'no test of coming back' in (tmp_path / 'b' / 'report.md').read_text()
    a, b = (json.loads((tmp_path / x / 'evaluation.json').read_text())['results'][0]
            for x in 'ab')
    assert a['at'] == b['at'] and a['database'] == 12
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert summary['recall']['at']['1']['recall'] == a['at']['20']['recall']['1']['recall']
    assert 'overview.png' in (tmp_path / 'a' / 'report.md').read_text()


def test_two_processes_make_what_one_makes(world, cache, tmp_path):
    import socket
    arguments = ['evaluate', world / 'data', '--drive', '0001', '--map-drive', '0000', '--model',
                 world / 'model', '--out']
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', *map(str, arguments),
         str(tmp_path / 'two')], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # What torchrun sets.
        env={**os.environ, 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2',
             'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1',
             'I2PLOC_CACHE': str(tmp_path / 'cache2')}) for rank in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert 'image to cloud, model' in said[0] and said[1].strip() == ''  # one of them speaks
    evaluate(*arguments[1:], tmp_path / 'one')
    shared = sorted((tmp_path / 'cache2').glob('descriptors/*/descriptors.npy'))
    alone = sorted(cache.glob('descriptors/*/descriptors.npy'))
    assert [p.parent.name for p in shared] == [p.parent.name for p in alone] and len(alone) == 4
    for a, b in zip(shared, alone, strict=True):
        assert np.load(a) == pytest.approx(np.load(b), abs=1e-5)
    assert not list((tmp_path / 'cache2' / 'descriptors').glob('*.npy'))  # the parts are gone
    one, two = (json.loads((tmp_path / name / 'evaluation.json').read_text())['results']
                for name in ('one', 'two'))
    assert [r['at'] for r in one] == [r['at'] for r in two]


@pytest.mark.parametrize('arguments, said', [
    (['--drive', '0000'], 'give a map'),
    (['--drive', '0000', '--protocol', 'sideways'], 'no protocol'),
    (['--drive', '0000', '--protocol', 'same_pass', '--pairing', 'sound-smell'], 'no pairing'),
    (['--drive', '0000', '--protocol', 'revisit', '--map-drive', '0001'], 'is its own map'),
    (['--drive', '0000', '--protocol', 'cross_drive'], 'needs a map'),
    (['--drive', '0000', '--protocol', 'same_pass', '--limit', '5'], 'places ask'),
    (['--drive', '0000', '--protocol', 'same_pass', '--spacing', '0'], 'spacing above 0'),
    (['--drive', '0000', '--protocol', 'same_pass', '--spacing', 'nan'], 'no distance'),
    (['--split', 'kitti360-urban'], 'has none'),
    (['--split', 'mine'], 'no split'),
])
def test_what_cannot_be_asked_is_refused(world, cache, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        evaluate(world / 'data', *arguments, '--model', world / 'model', '--out',
                 tmp_path / 'out')
