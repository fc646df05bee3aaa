"""The benches run, on a tiny world; what they find there is no figure of anything."""

import json
import os
from pathlib import Path
import runpy
import subprocess
import sys
from types import SimpleNamespace

from helpers_drives import NAME
import numpy as np
import pytest
import torch

rclpy = pytest.importorskip('rclpy')
from helpers_ros import new_domain, write_world  # noqa: E402

BENCH = Path(__file__).resolve().parents[1] / 'bench'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    return root


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *map(str, arguments)], capture_output=True,
        text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def on_gpu(monkeypatch):
    """Return the bench as a function of its arguments, which returns its exit code or words."""
    monkeypatch.syspath_prepend(str(BENCH))

    def main(*arguments):
        monkeypatch.setattr(sys, 'argv', ['on_gpu.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(BENCH / 'on_gpu.py'), run_name='__main__')
        return end.value.code
    return main


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_cuda_the_gpu_bench_says_so(on_gpu, capsys):
    assert 'finds no CUDA device here, so nothing was measured' in on_gpu()
    assert capsys.readouterr().out == ''


def test_the_gpu_bench_runs_on_a_processor(on_gpu, tiny, tmp_path, capsys):
    code = on_gpu(
        '--device', 'cpu', '--model', tiny / 'model', '--city', tiny / 'drive', '--drive', NAME,
        '--map', tiny / 'map', '--images', 3, '--runs', 1, '--acceleration', 'none', 'graph',
        '--json', tmp_path / 'found.json')
    assert code == 0, capsys.readouterr().out
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found['faults'] == [] and 'equal within tolerance' in capsys.readouterr().out
    assert len(found['preparation']) == 7 and len(found['encoder']) == 6
    assert {row['runs_as'] for row in found['encoder']} == {'fp32, none', 'bf16, none'}
    assert [row['same_best_place'] for row in found['localizer']] == [1.0, 1.0, 1.0]


def test_latency_of_the_live_node_is_taken_from_stamp_to_fix(tiny, tmp_path):
    run('live_latency.py', '--city', tiny / 'drive', '--drive', NAME, '--map', tiny / 'map',
        '--set', f'model={tiny / "model"}', '--rates', 20, '--seconds', 4, '--size', 64, 24,
        '--warm-up', 2, '--domain', new_domain(), '--json', tmp_path / 'found.json')
    found, = json.loads((tmp_path / 'found.json').read_text())['rates'].values()
    assert found['sent'] == 80 and found['fixes'] >= 10 and found['exit_code'] == 0
    for part in ('encode', 'total', 'not_the_encoder'):
        assert 0.0 < found[part][0] <= found['latency'][0]


def test_a_short_soak_ends_every_node_with_0(tiny, tmp_path):
    run('soak.py', '--minutes', 0.1, '--every-s', 0.5, '--bag', tiny / 'bag', '--city',
        tiny / 'drive', '--map', tiny / 'map', '--set', f'model={tiny / "model"}',
        '--limit', 1e6, '--domain', new_domain(), '--out', tmp_path / 'soak')
    found = json.loads((tmp_path / 'soak' / 'soak.json').read_text())
    assert found['verdict'] == 'passed' and found['exit_codes'] == {'replay': 0, 'localizer': 0}
    assert found['answered'] > 10 and found['readings'] >= 5
    assert (tmp_path / 'soak' / 'memory.png').stat().st_size > 5000


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import soak
    return soak


@pytest.mark.parametrize('grows, jump, codes, answered, verdict', [
    (0.0, 0.0, 0, 100, 'passed'), (0.0, 40.0, 0, 100, 'passed'),
    (30.0, 0.0, 0, 100, 'memory grows, memory grew'),
    (0.0, 0.0, -9, 100, 'a process did not end with 0'),
    (0.0, 0.0, 0, 90, '10 images without an answer')])
def test_the_verdict_of_a_soak(soak, grows, jump, codes, answered, verdict):
    """The jump is one reading's; growth is in MiB an hour."""
    seconds = np.arange(0.0, 7200.0, 5.0)
    own = 200.0 + grows * seconds / 3600.0 + np.random.default_rng(0).normal(0, 0.1, len(seconds))
    own[:100] -= 100.0  # of the warm-up
    own[1000] += jump
    rows = np.stack([seconds, own + 100.0, own, np.full(len(seconds), 50.0)], 1)
    result = soak.judged(
        SimpleNamespace(minutes=120.0, every_s=5.0, limit=10.0), rows,
        {'received': 100, 'answered': answered, 'dropped': 0, 'hz': 1.0}, {'localizer': codes})
    assert result['verdict'] == verdict
    assert result['slope_mib_per_hour'] == pytest.approx(grows, abs=0.2)
