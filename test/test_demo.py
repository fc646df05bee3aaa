"""What `i2ploc demo` says where its nodes hang; that it works is shown by `make demo`."""

import signal
import subprocess

import numpy as np
import pytest

from saliency_i2ploc_ros.cli import demo
from saliency_i2ploc_ros.errors import InputError

SAID = {'localizer': 'no image on /a for 3 s (0 publishers)\n', 'evaluator': '', 'replay': ''}


@pytest.mark.parametrize(('replay', 'limit', 'message'), [
    ('sleep 60', 'BEGIN_TIMEOUT_S', 'the replay node did not begin in '),
    ('sleep 60', 'REPLAY_TIMEOUT_S', 'the replay node did not end in '),
    ('true', 'END_TIMEOUT_S', 'the evaluator node did not end when asked'),
])
def test_a_node_that_hangs_is_named_and_ended(tmp_path, monkeypatch, replay, limit, message):
    pytest.importorskip('rclpy')
    monkeypatch.setattr(demo, limit, 0.2)
    started = []

    def node(logs, name, *_):
        logs.mkdir(exist_ok=True)
        (logs / f'{name}.log').write_text(SAID[name])
        words = replay if name == 'replay' else 'sleep 60'
        started.append(subprocess.Popen(
            words.split(), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)))
        return started[-1]

    monkeypatch.setattr(demo, '_node', node)
    with pytest.raises(InputError, match=message) as raised:
        demo.run_nodes(tmp_path, tmp_path / 'model', np.eye(4), 0.0, 1)
    assert '(it has said nothing)' in str(raised.value)
    assert 'localizer: no image on /a for 3 s (0 publishers)' in str(raised.value)
    assert None not in [process.returncode for process in started]


@pytest.mark.parametrize(('deaf', 'code'), [(False, 3), (True, -signal.SIGKILL)])
def test_a_node_is_asked_to_end_before_it_is_killed(monkeypatch, deaf, code):
    monkeypatch.setattr(demo, 'ASKED_S', 0.2 if deaf else 60.0)
    process = subprocess.Popen(
        ['sh', '-c', f'trap "{"" if deaf else "exit 3"}" TERM; echo; while :; do sleep 0.1; done'],
        stdout=subprocess.PIPE)
    with process.stdout as output:
        output.readline()  # it handles the signal by now
    demo._end(process)
    assert process.returncode == code
