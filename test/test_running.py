"""How a node's process ends, and what is made up for in some versions of rclpy."""

import os
import signal
import subprocess
import sys

from helpers_ros import client_in, new_domain
import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from saliency_i2ploc_ros.ros.running import LifecycleNode

INTERRUPTED = """
import os, signal, time
from rclpy.node import Node
from saliency_i2ploc_ros.ros.running import ros
from std_msgs.msg import String

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


@pytest.mark.parametrize(('spins', 'signals', 'said'), [
    (True, [signal.SIGINT], ['published', 'ended']),
    (True, [signal.SIGTERM], ['published', 'ended']),
    (True, [signal.SIGINT, signal.SIGTERM], ['ended']),
    (False, [signal.SIGINT], ['ended']),
])
def test_a_callback_runs_to_its_end_unless_the_process_is_asked_twice(spins, signals, said):
    """What else runs, such as the loading of a model, ends at once."""
    script = f'SPINS, SIGNALS = {spins}, {[int(number) for number in signals]}\n{INTERRUPTED}'
    ended = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=60,
        env={**os.environ, 'ROS_DOMAIN_ID': str(new_domain()),
             'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'})
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, said, '')


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
