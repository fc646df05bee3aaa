"""
How a node's process begins and ends, the same for all, and what ROS 2's versions do differently.

Written for Humble, Jazzy, Kilted and Lyrical; whatever one of them lacks is made up for here.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import gc
import re
import signal
import sys
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
import rclpy.lifecycle
from rclpy.signals import SignalHandlerOptions

from ..errors import InputError
from .shared_memory import remove_half_made_ports

try:
    from rclpy.event_handler import SubscriptionEventCallbacks

    ONLY_THIS_HOST = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

    ONLY_THIS_HOST = {'ROS_LOCALHOST_ONLY': '1'}

__all__ = ['ONLY_THIS_HOST', 'LifecycleNode', 'SubscriptionEventCallbacks', 'ros']

ENDING_SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C, and what systemd and launch send
LOOK_S = 0.1  # at least so often it is looked whether the spinning is to end

PARAMETERS = """\
Parameters are given with `--ros-args -p name:=value` or `--ros-args --params-file file.yaml`.
docs/nodes.md has them all, with topics and services, config/localizer.yaml and config/replay.yaml
those of these two; a running node is asked with `ros2 param list` and `ros2 param describe`."""


class LifecycleNode(rclpy.lifecycle.LifecycleNode):
    """
    A lifecycle node that refuses a transition which its state does not have, and lives on.

    So it is from Kilted on; in Humble and Jazzy the refusal leaves the executor as an exception,
    and whoever asks an unconfigured node to activate ends it.
    """

    def _LifecycleNodeMixin__change_state(self, transition_id: int):
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)
        except Exception as error:  # RCLError, which has no public name; callbacks' are caught.
            state = self._state_machine.current_state[1]
            self.get_logger().error(
                f'transition {transition_id} is refused, the node is {state} ({error})')
            return rclpy.lifecycle.TransitionCallbackReturn.ERROR


class Executor(SingleThreadedExecutor):
    """
    Spins until the process is asked to end; the callback that runs by then runs to its end.

    rclpy's own handler of signals shuts ROS down at once, from a thread of its own: what a
    callback publishes after that fails, and an executor that is ended in that moment may crash (of
    a hundred busy nodes six ended with an error).
    """

    _spinning = False
    _asked = False

    def spin(self) -> None:
        """Run callbacks until SIGINT or SIGTERM comes, or one of them raises."""
        self._spinning = True
        while not self._asked:
            self.spin_once(timeout_sec=LOOK_S)

    def end(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: `spin` ends soon; all else, and who is asked again, at once."""
        if not self._spinning or self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextlib.contextmanager
def ros(args: list[str] | None = None, about: str | None = None) -> Iterator[Executor]:
    """
    Start ROS, yield an executor for the node, and end both; an interrupt ends the block, no more.

    args: of the command line, None for the process's own; those that ROS cannot read are an
    InputError. about: what --help prints, which ends the process with 0. A node is best added at
    once, so that it is destroyed even if it cannot be made whole: what still talks over DDS when
    the interpreter ends may crash it. After the block further interrupts are ignored: what the
    process has still to do, such as a report, is done whole.
    """
    if about and not {'-h', '--help'}.isdisjoint(sys.argv[1:] if args is None else args):
        print(f'{about.strip()}\n\n{PARAMETERS}')
        sys.exit(0)
    for line in remove_half_made_ports():
        print(line, file=sys.stderr, flush=True)
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # RCLError and others, which have no public base.
        raise InputError(_refused(str(error))) from error
    executor = Executor()
    try:
        for number in ENDING_SIGNALS:
            signal.signal(number, executor.end)
        yield executor
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        nodes = executor.get_nodes()
        # First, since its wait set holds on to the nodes' subscriptions and timers.
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
        # Else the interpreter's end searches all of PyTorch for cycles: on a busy computer for
        # longer than the 5 s after which launch kills.
        gc.freeze()


def _refused(reason: str) -> str:
    """Return rcl's reason without the places in its source, and what to do about it."""
    reason = re.sub(r', at \S+:\d+', '', reason).removeprefix('failed to initialize rcl: ')
    if 'Sequence should be of same type' in reason:
        return f'{reason}: in a list of numbers write 1.0, not 1'
    return f'ROS cannot read the arguments: {reason}'
