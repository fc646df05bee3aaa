"""
How a node's process begins and ends, the same for all, and what ROS 2's versions do differently.

Written for Humble, Jazzy, Kilted and Lyrical; whatever one of them lacks is made up for here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import gc
import os
import re
import signal
import sys
import time
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
import rclpy.lifecycle
import rclpy.logging
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
INTERRUPTED = 130  # the exit code of what a signal cut short, as shells have it
LOOK_S = 0.1  # at least so often it is looked whether the spinning is to end
SAME_S = 1.0  # signals within it are one wish: a terminal's, and that of the launch in it

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


class NodeExecutor(SingleThreadedExecutor):
    """
    Spins until the process is asked to end; the callback that runs by then runs to its end.

    rclpy's own handler of signals shuts ROS down at once, from a thread of its own: what a
    callback publishes after that fails, and an executor that is ended in that moment may crash (of
    a hundred busy nodes six ended with an error).
    """

    _spinning = False
    _asked_at: float | None = None

    def spin(self) -> None:
        """Run callbacks until SIGINT or SIGTERM comes, or one of them raises."""
        self._spinning = True
        while self._asked_at is None and not self._is_shutdown:
            self.spin_once(timeout_sec=LOOK_S)

    def end(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: `spin` ends soon; all else, and who is asked again, at once."""
        again = self._is_asked_again()
        if again or not self._spinning:
            raise KeyboardInterrupt

    def end_at_once(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal while the node ends, which may wait for its model: the second counts."""
        if self._is_asked_again():
            os._exit(INTERRUPTED)

    def _is_asked_again(self) -> bool:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        return now - self._asked_at > SAME_S


@contextlib.contextmanager
def ros(args: list[str] | None = None, about: str | None = None) -> Iterator[NodeExecutor]:
    """
    Start ROS, yield an executor for the node, and end both; an interrupt ends the block, no more.

    args: of the command line, None for the process's own; those that ROS cannot read are an
    InputError. about: what --help prints, which ends the process with 0. A node is best added at
    once, so that it is destroyed even if it cannot be made whole: what still talks over DDS when
    the interpreter ends may crash it.

    An interrupt before the block ends the process with 130, and so does a second one while the
    node ends after it. Once it has ended they are ignored for good: what the process has still to
    do, such as a report, is done whole.
    """
    if about and not {'-h', '--help'}.isdisjoint(sys.argv[1:] if args is None else args):
        print(f'{about.strip()}\n\n{PARAMETERS}')
        sys.exit(0)
    executor, begun = None, False
    try:
        try:
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        except Exception as error:  # RCLError and others, which have no public base.
            raise InputError(_refused(str(error))) from error
        for line in remove_half_made_ports():  # before the node, whose making they would stop
            rclpy.logging.get_logger('shared_memory').warning(line)
        executor = NodeExecutor()
        _handle_signals(executor.end)
        begun = True
        yield executor
    except (KeyboardInterrupt, ExternalShutdownException):
        if not begun:
            sys.exit(INTERRUPTED)
    finally:
        if executor is not None:
            _handle_signals(executor.end_at_once)
            nodes = executor.get_nodes()
            # First, since its wait set holds on to the nodes' subscriptions and timers.
            executor.shutdown()
            for node in nodes:
                node.destroy_node()
        _handle_signals(signal.SIG_IGN)
        rclpy.try_shutdown()
        # Else the interpreter's end searches all of PyTorch for cycles, on a busy computer for
        # seconds; launch sends SIGTERM 5 s after its SIGINT (here 30), and SIGKILL 5 s later.
        gc.freeze()


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, handler)


def _refused(reason: str) -> str:
    """Return rcl's reason without the places in its source, and what to do about it."""
    reason = re.sub(r', at \S+:\d+', '', reason).removeprefix('failed to initialize rcl: ')
    if 'Sequence should be of same type' in reason:
        return f'{reason}: in a list of numbers write 1.0, not 1'
    return f'ROS cannot read the arguments: {reason}'
