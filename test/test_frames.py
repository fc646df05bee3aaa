"""Where a camera sits in the vehicle: from a parameter or from TF."""

import math
import sys
from types import SimpleNamespace

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from helpers_ros import EXTRINSICS
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.ros.frames import Extrinsics, extrinsics_of, send_static_transform


def test_extrinsics():
    assert extrinsics_of([]) is None
    np.testing.assert_allclose(extrinsics_of(EXTRINSICS)[:3, 2], [1.0, 0.0, 0.0], atol=1e-12)
    # An optical frame, as roll and yaw of -90 degrees: its z axis looks ahead, its x right.
    T = extrinsics_of([1.0, 2.0, 3.0, -math.pi / 2, 0.0, -math.pi / 2])
    np.testing.assert_allclose(T, extrinsics_of([1.0, 2.0, 3.0, -0.5, 0.5, -0.5, 0.5]), atol=1e-12)
    with pytest.raises(InputError, match='length 1'):
        extrinsics_of([0.0] * 7)


@pytest.fixture
def tf2(monkeypatch):
    """A stand-in for tf2_ros, which knows `known` and counts what is made of it."""
    seen = SimpleNamespace(known={}, listening=0, broadcasters=0, sent=[])

    class Buffer:
        def lookup_transform(self, base, frame, time):
            return seen.known[base, frame]

    class TransformListener:
        def __init__(self, buffer, node):
            seen.listening += 1

        def unregister(self):
            seen.listening -= 1

    class StaticTransformBroadcaster:
        def __init__(self, node):
            seen.broadcasters += 1

        def sendTransform(self, message):
            seen.sent.append(message)

    monkeypatch.setitem(sys.modules, 'tf2_ros', SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener,
        StaticTransformBroadcaster=StaticTransformBroadcaster))
    return seen


class ExecutorStandIn:
    """A node whose guard condition acts when `spin` is called, as in the executor's thread."""

    def __init__(self):
        self.callback, self.triggered = None, False

    def create_guard_condition(self, callback):
        self.callback = callback
        return SimpleNamespace(trigger=lambda: setattr(self, 'triggered', True))

    def destroy_guard_condition(self, guard):
        self.callback = None

    def spin(self):
        if self.triggered:
            self.triggered = False
            self.callback()


def test_tf_is_heard_only_while_a_mounting_is_unknown(tf2):
    node = ExecutorStandIn()
    extrinsics = Extrinsics(node, 'base_link', None)
    extrinsics.listen()
    with pytest.raises(InputError, match="'left' sits in 'base_link' is not known"):
        extrinsics.of('left')
    node.spin()
    assert tf2.listening == 1
    for x, frame in ((1.0, 'left'), (2.0, 'right')):
        tf2.known['base_link', frame] = TransformStamped(transform=Transform(
            translation=Vector3(x=x), rotation=Quaternion(w=1.0)))
    assert extrinsics.of('left')[0, 3] == 1.0
    assert tf2.listening == 1  # not in the thread that asks
    node.spin()
    assert tf2.listening == 0
    extrinsics.listen()  # activated again
    assert tf2.listening == 0 and extrinsics.of('left')[0, 3] == 1.0
    with pytest.raises(InputError, match="'rear'"):
        extrinsics.of('rear')
    node.spin()
    assert tf2.listening == 1  # another camera
    assert extrinsics.of('right')[0, 3] == 2.0
    extrinsics.close()
    assert tf2.listening == 0 and node.callback is None


def test_one_broadcaster_serves_every_activation(tf2):
    node = SimpleNamespace(get_clock=lambda: SimpleNamespace(
        now=lambda: SimpleNamespace(to_msg=Time)))
    kept = None
    for x in (1.0, 2.0):
        kept = send_static_transform(node, 'map', 'map_origin', np.array([x, 0.0, 0.0]), kept)
    assert tf2.broadcasters == 1
    assert [message.transform.translation.x for message in tf2.sent] == [1.0, 2.0]
