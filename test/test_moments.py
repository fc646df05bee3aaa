"""Which images belong together, and that only the newest are answered."""

from collections import deque
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from helpers_drives import START_NS
from helpers_ros import image_at
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

from saliency_i2ploc_ros.ros import diagnostics
from saliency_i2ploc_ros.ros.conversions import header_at
from saliency_i2ploc_ros.ros.moments import JUMP_NS, Moments, MOST_WAITING, stamp_in
from saliency_i2ploc_ros.ros.newest import NewestWorker

MS = 1_000_000


def image(milliseconds: float) -> bytes:
    """Return the beginning of a serialized image, all that is read of it."""
    stamp = header_at(START_NS + round(milliseconds * MS), 'x')
    return serialize_message(CompressedImage(header=stamp))


@pytest.mark.parametrize('stamp', [0, START_NS, 2**31 * 10**9 - 1])
def test_a_stamp_is_read_without_its_message(stamp):
    for message in (image_at(stamp), CompressedImage(header=header_at(stamp, 'camera'))):
        assert stamp_in(serialize_message(message)) == stamp
    seconds, nanoseconds = divmod(stamp, 10**9)
    big = bytes([0, 0, 0, 0]) + seconds.to_bytes(4, 'big') + nanoseconds.to_bytes(4, 'big')
    assert stamp_in(big) == stamp


def test_one_camera_waits_for_nothing():
    moments = Moments([''], 0.0, 1.0)
    for at in (0, 100, 50, 50):  # whatever the order: the pipeline judges that
        moment = moments.add('', image(at), 0.0)
        assert moment.images == {'': image(at)} and moment.stamp_ns == START_NS + at * MS
    assert moments.overdue(1e9) is None and moments.dropped == 0


def test_the_images_of_a_moment_are_handed_out_together():
    moments = Moments(['a', 'b', 'c'], 0.02, 1.0)
    assert moments.add('b', image(0), 0.0) is None
    assert moments.add('a', image(100), 0.0) is None  # the next moment's, before the rest
    assert moments.add('c', image(-15), 0.0) is None
    moment = moments.add('a', image(20), 0.0)
    assert moment.images == {'b': image(0), 'c': image(-15), 'a': image(20)}
    assert moments.add('b', image(99), 0.0) is None
    assert moments.add('c', image(101), 0.0).images['b'] == image(99)
    assert moments.dropped == 0


def test_stamps_too_far_apart_do_not_belong_together():
    moments = Moments(['a', 'b'], 0.02, 1.0)
    assert moments.add('a', image(0), 0.0) is None
    assert moments.add('b', image(20.001), 0.0) is None
    assert moments.add('b', image(20), 0.0).stamp_ns == START_NS


def test_the_newest_complete_moment_ends_those_before_it():
    moments = Moments(['a', 'b'], 0.01, 1.0)
    for at in (0, 100, 200):
        assert moments.add('a', image(at), 0.0) is None
    assert moments.add('b', image(100), 0.0).stamp_ns == START_NS + 100 * MS
    assert moments.dropped == 1
    assert moments.add('b', image(1), 0.0) is None  # too late
    assert moments.dropped == 2
    assert moments.add('b', image(200), 0.0) is not None


def test_what_is_missing_is_waited_for_and_then_done_without():
    moments = Moments(['a', 'b'], 0.01, 0.5)
    moments.add('a', image(0), 10.0)
    moments.add('a', image(100), 10.1)
    moments.add('a', image(200), 10.4)
    assert moments.overdue(10.49) is None
    moment = moments.overdue(10.7)
    assert moment.images == {'a': image(100)} and moments.dropped == 1
    # Its other image comes after all: it must not be answered behind what is newer.
    assert moments.add('b', image(100), 10.7) is None and moments.dropped == 2
    assert moments.add('b', image(200), 10.7).stamps_ns.keys() == {'a', 'b'}
    assert moments.overdue(99.0) is None


def test_cameras_faster_than_the_slop():
    """At 100 Hz a moment's neighbours lie within 20 ms of it, and are moments of their own."""
    moments = Moments(['a', 'b'], 0.02, 1.0)
    found = []
    for at in range(0, 100, 10):
        for camera in ('a', 'b'):
            found += filter(None, [moments.add(camera, image(at), 0.0)])
    assert [m.stamp_ns for m in found] == [START_NS + at * MS for at in range(0, 100, 10)]
    assert all(m.images['a'] == m.images['b'] for m in found) and moments.dropped == 0


def test_time_that_jumps_back_is_a_new_time():
    moments = Moments(['a', 'b'], 0.01, 1.0)
    moments.add('a', image(9000), 0.0)
    moments.add('b', image(9000), 0.0)
    moments.add('a', image(9100), 0.0)
    back = 9000 - JUMP_NS / MS - 1
    assert moments.add('a', image(back), 0.0) is None
    assert moments.add('b', image(back), 0.0).stamp_ns == START_NS + round(back * MS)
    assert moments.overdue(9.0) is None  # what waited of the old time is gone


def test_cameras_that_never_fit_do_not_pile_up():
    moments = Moments(['a', 'b'], 0.001, 1e9)
    for i in range(100):
        moments.add('a', image(10 * i), 0.0)
        moments.add('b', image(10 * i + 5), 0.0)
    assert moments.dropped == 200 - MOST_WAITING


# The one at work, and the one that waits.

def test_only_the_newest_waits():
    seen, gate = [], []

    def work(item: int) -> None:
        seen.append(item)
        while not gate:
            time.sleep(0.001)

    worker = NewestWorker(work)
    worker.offer(1)
    while not seen:
        time.sleep(0.001)
    for item in (2, 3, 4):
        worker.offer(item)
    gate.append(True)
    worker.call(lambda: None)
    assert seen == [1, 4] and (worker.received, worker.dropped) == (4, 2)
    worker.clear()
    worker.close()


# Diagnostics.

def test_a_report_and_a_jump_of_time_do_not_meet():
    """The inference thread forgets the arrivals between two looks of the executor's at them."""
    health, others = diagnostics.Health(), []

    class Arrivals(deque):
        def __len__(self):
            length = super().__len__()
            others.append(threading.Thread(target=health.reset))
            others[-1].start()
            others[-1].join(0.05)
            return length

    health.arrivals = Arrivals([1.0])
    diagnostics.diagnostic_array('localizer', health, 2.0, 1.0, header_at(0, '').stamp)
    for other in others:
        other.join()
    assert others and list(health.arrivals) == []
    health.arrivals = Arrivals([1.0])
    assert health.last_arrival_at() == 1.0
    for other in others:
        other.join()
    assert health.last_arrival_at() is None


def tasks_of(health):
    """Return level, summary and values of each task."""
    message = diagnostics.diagnostic_array('n', health, 100.0, 2.0, header_at(0, '').stamp)
    return {status.name.removeprefix('n: '): (
        status.level, status.message, {pair.key: pair.value for pair in status.values})
        for status in message.status}


def test_the_diagnostics_of_several_cameras():
    health = diagnostics.Health(state='active', arrivals=deque([99.0, 99.9]))
    health.cameras = {'front': deque([98.9, 99.0]), 'left': deque([50.0])}
    level, summary, values = tasks_of(health)['input']
    assert (level, summary) == (DiagnosticStatus.WARN, 'no images of left')
    assert values['cameras'] == 'front 10.000 Hz, left no Hz'
    health.arrived('left', 99.5)
    assert tasks_of(health)['input'][1] == 'images arrive'
    health.left_out = {'left': 'bad_image'}
    level, summary, values = tasks_of(health)['input']
    assert (level, summary) == (DiagnosticStatus.WARN, 'answered without left')
    assert values['left_out'] == 'left: bad_image'
    health.reset()
    assert health.left_out == {} and not any(health.cameras.values())


@pytest.mark.parametrize(('reason', 'level'), [
    *diagnostics.REFUSALS.items(), ('ambiguous', DiagnosticStatus.OK)])
def test_how_bad_a_rejection_is(reason, level):
    health = diagnostics.Health(state='active', last_fix_at=99.0)
    health.answered(reason, 0.5, {'total': 3.0}, 99.5)
    assert tasks_of(health)['status'][0] == level


def test_what_could_not_be_had_is_a_warning():
    health = diagnostics.Health(state='active', arrivals=deque([99.5]), last_fix_at=99.0)
    assert tasks_of(health)['inference'][0] == DiagnosticStatus.OK
    health.notes, health.tf_trouble = ('fp16 cannot be had',), 'a fix is not on /tf'
    tasks = tasks_of(health)
    assert tasks['inference'][:2] == (DiagnosticStatus.WARN, 'fp16 cannot be had')
    assert tasks['status'][:2] == (DiagnosticStatus.WARN, 'a fix is not on /tf')
