"""The evaluator: what it collects, what it leaves out, and what it refuses at once."""

import json
import shutil

from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from helpers_ros import client_in, new_domain, Process, SPACE, write_world
import pytest
from std_msgs.msg import String

from saliency_i2ploc_ros.ros import evaluator_node
from saliency_i2ploc_ros.ros.bag_images import image_in_bag
from saliency_i2ploc_ros.ros.conversions import header_at


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a folder with model/, map/ and bag/, and the stamps of the bag's images."""
    root = tmp_path_factory.mktemp('world')
    return root, [int(stamp) for stamp in write_world(root)['stamps']]


@pytest.mark.parametrize(('bag', 'topic', 'expected'), [
    ('missing', f'{SPACE}/image_rect', 'there is no bag'),
    ('bag', '/other', f'it has those of {SPACE}/image_rect'),
    ('bag', f'{SPACE}/camera_info', 'has no images')])
def test_it_says_at_once_that_it_will_find_no_images(
        world, monkeypatch, capsys, bag, topic, expected):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(new_domain()))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    root, _ = world
    given = {'output': root / 'unused', 'database': root / 'map', 'bag': root / bag,
             'image_topic': topic}
    arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    with pytest.raises(SystemExit) as ended:
        evaluator_node.main(['--ros-args', *arguments])
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith('evaluator: ') and expected in line


def test_images_are_found_by_their_stamps(world, tmp_path):
    root, stamps = world
    topic = f'{SPACE}/image_rect'
    first, last = (image_in_bag(root / 'bag', topic, stamp) for stamp in (stamps[0], stamps[-1]))
    assert first.shape == last.shape == (24, 64, 3) and (first != last).any()
    assert image_in_bag(root / 'bag', topic, stamps[0] + 1) is None
    assert image_in_bag(root / 'bag', topic, 0) is None


def test_it_leaves_out_what_it_cannot_read(world, tmp_path):
    """Poses that are none, texts that are no answers, an image that is broken: all is reported."""
    root, stamps = world
    domain, out, stamp = new_domain(), tmp_path / 'out', stamps[0]
    shutil.copytree(root / 'bag', tmp_path / 'bag')
    process = Process('evaluator', domain, tmp_path, output=out, database=root / 'map',
                      bag=tmp_path / 'bag', image_topic=f'{SPACE}/image_rect', idle_timeout_s=1.0)
    truth, fix = PoseStamped(header=header_at(stamp, 'map')), PoseWithCovarianceStamped()
    truth.pose.orientation.w = 1.0
    nowhere = PoseStamped(header=header_at(stamp + 1, 'map'))
    nowhere.pose.orientation.w = 0.0
    fix.header, fix.pose.pose.position.x = header_at(stamp, 'map'), float('nan')
    candidates = [{'place': 3, 'position_m': [15.0, 0.0, 116.0], 'score': 0.5, 'yaw_deg': 0.0}]
    answer = {'stamp_ns': stamp, 'received': 3, 'dropped': 1, 'calibration': 'abc',
              'rejection': None,
              'candidates': candidates, 'milliseconds': {'total': 2.0}}
    try:
        with client_in(domain) as client:
            def publisher(kind, topic):
                return client.node.create_publisher(kind, topic, 10)

            fixes = publisher(PoseWithCovarianceStamped, '/localizer/fix')
            answers = publisher(String, '/localizer/answer')
            publisher(PoseArray, '/localizer/candidates')
            truths = publisher(PoseStamped, '/ground_truth/pose')
            assert client.until(truths.get_subscription_count, 60), process.log
            for file in (tmp_path / 'bag').glob('*.mcap'):
                file.write_bytes(file.read_bytes()[:100])
            for text in ('{', '[]', '{"stamp_ns": 1}', json.dumps(answer)):
                answers.publish(String(data=text))
            fixes.publish(fix)
            truths.publish(nowhere)
            truths.publish(truth)
            assert client.until(lambda: all(
                f'{what} is left out' in process.log
                for what in ('a fix', 'an answer', 'a true pose')), 60), process.log
            assert process.wait(120) == 0, process.log
    finally:
        process.close()
    assert 'Traceback' not in process.log
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['coverage']['rejected_by_reason'] == {'fix_lost': 1}
    assert summary['coverage']['without_truth'] == 0
    assert summary['provenance']['calibration'] == 'abc'
    lines = (out / 'answers.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'stamp_ns': stamp, 'rejection': None, 'candidates': candidates}]
    times = json.loads((out / 'times.jsonl').read_text())
    assert times == {'stamp_ns': stamp, 'milliseconds': {'total': 2.0}}
