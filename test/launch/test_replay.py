"""The launch files that end by themselves: their exit codes, and what they leave."""

import json
import os
from pathlib import Path
import re
import signal
import time

from helpers_drives import write_all_cameras
from helpers_launch import launched, LONG_S
from helpers_ros import client_in, new_domain
import pytest
import yaml

from saliency_i2ploc_ros import __version__
from saliency_i2ploc_ros.encoders.files import encoder_hash, load_model


def test_the_demo_takes_a_city_that_is_there_and_ends_with_its_report(world, tmp_path):
    out = tmp_path / 'demo'
    out.mkdir()
    for name in ('map', 'bag'):
        (out / name).symlink_to(world / name)
    (out / 'demo.json').write_text(json.dumps({
        'made by': 'i2ploc demo', 'version': __version__, 'seed': 7, 'length_m': 120.0,
        'model': encoder_hash(load_model(world / 'model'))}))
    with launched(new_domain(), tmp_path, 'demo.launch.py', seed=7, length=120, out=out,
                  model=world / 'model', params_file=world / 'lax.yaml') as launch:
        assert launch.wait() == 0, launch.log
        assert not launch.processes()
    summary = json.loads((out / 'results' / 'summary.json').read_text())
    assert summary['coverage']['attempted'] == 6 and summary['verdict']['passed']
    assert (out / 'results' / 'overview.png').is_file()


def test_a_missed_threshold_of_a_drive_with_two_cameras_is_the_exit_code(world, tmp_path):
    write_all_cameras(tmp_path / 'drive')
    limits = tmp_path / 'limits.yaml'
    limits.write_text(yaml.safe_dump({'/**/evaluator': {'ros__parameters': {'min_images': 5}}}))
    with launched(new_domain(), tmp_path, 'replay.launch.py', root=tmp_path / 'drive',
                  database=world / 'map', model=world / 'model', output=tmp_path / 'out',
                  params_file=world / 'lax.yaml', replay_params_file=limits, namespace='car',
                  cameras='[/kitti360/image_00, /kitti360/image_01]',
                  image_transport='compressed') as launch:
        assert launch.wait() == 1, launch.log
        assert not launch.processes()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['coverage']['attempted'] == 4 and not summary['verdict']['passed']
    answer = json.loads((tmp_path / 'out' / 'answers.jsonl').read_text().splitlines()[0])
    assert answer['cameras'] == ['/kitti360/image_00', '/kitti360/image_01']
    assert len([*(tmp_path / 'cache' / 'bags').iterdir()]) == 1


def test_ctrl_c_in_the_middle_ends_all_three_and_leaves_a_report(world, tmp_path):
    domain, limits = new_domain(), tmp_path / 'limits.yaml'
    # The evaluator may not have got the answer yet that the client waits for.
    limits.write_text(yaml.safe_dump({'/**/evaluator': {'ros__parameters': {'min_images': 0}}}))
    with client_in(domain) as client:
        client.listen_to_localizer()
        with launched(domain, tmp_path, 'replay.launch.py', bag=world / 'bag',
                      database=world / 'map', model=world / 'model', output=tmp_path / 'out',
                      params_file=world / 'lax.yaml', replay_params_file=limits,
                      rate=0.01) as launch:
            assert client.until(lambda: client.got['/localizer/answer'], LONG_S), launch.log
            assert launch.interrupt() == 0, launch.log
            assert launch.log.count('process has finished cleanly') == 3, launch.log
            assert not launch.processes()
    assert (tmp_path / 'out' / 'summary.json').is_file()


def handles_interrupts(process):
    status = Path(f'/proc/{process}/status').read_text()
    return int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16) >> signal.SIGINT - 1 & 1


@pytest.mark.parametrize('file', ['replay.launch.py', 'demo.launch.py'])
def test_ctrl_c_while_it_prepares_is_no_failure_whatever_that_ends_with(world, tmp_path, file):
    given = {'out': tmp_path / 'demo'} if 'demo' in file else {
        'root': world / 'drive', 'database': world / 'map', 'output': tmp_path / 'out'}
    with launched(new_domain(), tmp_path, file, model=world / 'model', **given) as launch:
        preparation = int(launch.says(r'process started with pid \[(\d+)\]')[1])
        while not handles_interrupts(preparation):  # else not even one that is stopped outlives it
            time.sleep(0.01)
        os.kill(preparation, signal.SIGSTOP)  # too busy to hear of it
        launch.ask()
        launch.says("sending signal 'SIGINT'")
        os.kill(preparation, signal.SIGKILL)
        assert launch.wait() == 0, launch.log
        assert 'exit code -9' in launch.log


@pytest.mark.parametrize(('change', 'said'), [
    ({'database': 'other'}, 'configuring failed'), ({'bag': 'nowhere'}, 'nowhere'),
    ({'bag': ''}, 'give either bag:=')])
def test_a_replay_that_cannot_run_ends_at_once_with_1(world, tmp_path, change, said):
    names = {'database': 'map', 'bag': 'bag', **change}
    with launched(new_domain(), tmp_path, 'replay.launch.py', model=world / 'model',
                  output=tmp_path / 'out', params_file=world / 'lax.yaml',
                  **{key: world / name if name else '' for key, name in names.items()},
                  ) as launch:
        assert launch.wait() == 1, launch.log
        assert not launch.processes()
        assert said in launch.log
