"""How a node's process ends, and what is made up for in some versions of rclpy."""

import os
import signal
import subprocess
import sys

from helpers_ros import client_in, new_domain
import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from saliency_i2ploc_ros.ros import running
from saliency_i2ploc_ros.ros.running import LifecycleNode

INTERRUPTED = """
import os, signal, time
from rclpy.node import Node
from saliency_i2ploc_ros.ros import running
from saliency_i2ploc_ros.ros.running import ros
from std_msgs.msg import String

running.SAME_S = SAME

def work():
    for number in SIGNALS:
        os.kill(os.getpid(), number)
        time.sleep(0.3)  # for whoever hears of it in another thread
    output.publish(String(data='whole'))
    assert output.get_subscription_count() == 0 and node.context.ok()
    print('published', flush=True)

with ros([]) as executor:
    node = Node('busy')
    executor.add_node(node)
    output = node.create_publisher(String, 'output', 1)
    if SPINS:
        node.create_timer(0.01, work)
        executor.spin()
    else:
        work()
os.kill(os.getpid(), signal.SIGINT)  # too late to stop what is done after the block
print('ended', flush=True)
"""


def python(script):
    """Run it as a process, in a domain of its own."""
    return subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=60,
        env={**os.environ, 'ROS_DOMAIN_ID': str(new_domain()),
             'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'})


@pytest.mark.parametrize(('spins', 'same_s', 'signals', 'said'), [
    (True, 0.1, [signal.SIGINT], ['published', 'ended']),
    (True, 0.1, [signal.SIGTERM], ['published', 'ended']),
    (True, 0.1, [signal.SIGINT, signal.SIGTERM], ['ended']),
    (True, 60.0, [signal.SIGINT, signal.SIGTERM], ['published', 'ended']),  # one wish
    (False, 0.1, [signal.SIGINT], ['ended']),
])
def test_a_callback_runs_to_its_end_unless_the_process_is_asked_twice(
        spins, same_s, signals, said):
    """What else runs, such as the loading of a model, ends at once."""
    script = (f'SPINS, SAME, SIGNALS = {spins}, {same_s}, '
              f'{[int(number) for number in signals]}\n{INTERRUPTED}')
    ended = python(script)
    assert (ended.returncode, ended.stdout.split()) == (0, said), ended.stderr
    assert 'Traceback' not in ended.stderr


EARLY = """
import os, signal
from saliency_i2ploc_ros.ros import running

signal.signal(signal.SIGINT, signal.default_int_handler)  # children of `&` begin deaf
running.remove_half_made_ports = lambda: [os.kill(os.getpid(), signal.SIGINT)]
with running.ros([]):
    print('begun')
"""
LATE = """
import os, signal, time
from rclpy.node import Node
from saliency_i2ploc_ros.ros import running
from saliency_i2ploc_ros.ros.running import ros

running.SAME_S = 0.1

class Waiting(Node):
    def destroy_node(self):
        time.sleep(0.3)
        for number in signal.SIGINT, signal.SIGTERM:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
            print('waits', flush=True)

with ros([]) as executor:
    executor.add_node(Waiting('waiting'))
    if INTERRUPTED:
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(('script', 'said'), [
    (EARLY, []), (f'INTERRUPTED = True\n{LATE}', []), (f'INTERRUPTED = False\n{LATE}', ['waits'])])
def test_before_the_block_and_asked_twice_while_its_node_ends_the_process_ends(script, said):
    """Without ado, and with the code of what a signal cut short."""
    ended = python(script)
    assert (ended.returncode, ended.stdout.split()) == (130, said), ended.stderr
    assert 'Traceback' not in ended.stderr


def test_what_is_removed_is_in_the_log(monkeypatch, capfd):
    monkeypatch.setattr(running, 'remove_half_made_ports', lambda: ['removed: a port'])
    with running.ros([]):
        pass
    assert 'removed: a port' in capfd.readouterr().err


def test_spinning_ends_with_its_executor():
    ended = python("""if True:
        from saliency_i2ploc_ros.ros.running import ros
        with ros([]) as executor:
            executor.shutdown()
            executor.spin()""")
    assert ended.returncode == 0, ended.stderr


def test_a_transition_that_the_state_does_not_have_is_refused_and_the_node_lives_on():
    with client_in(new_domain()) as client:
        node = LifecycleNode('managed', context=client.context)
        try:
            assert node.trigger_activate() == TransitionCallbackReturn.ERROR
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_configure() == TransitionCallbackReturn.ERROR
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        finally:
            node.destroy_node()
