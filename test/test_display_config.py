"""config/i2ploc.rviz and config/foxglove.json, held against nodes that run."""

import json
from pathlib import Path

from helpers_ros import client_in, EXTRINSICS, new_domain, Process, write_world
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
import yaml

from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.ros import display
from saliency_i2ploc_ros.ros.conversions import header_at

CONFIG = Path(__file__).resolve().parents[1] / 'config'
IMAGE = 'sensor_msgs/msg/Image'
CLOUD, PATH = 'sensor_msgs/msg/PointCloud2', 'nav_msgs/msg/Path'
# RViz's displays by the type that each takes (rviz_default_plugins/plugins_description.xml, the
# same from Humble on); None: takes none.
RVIZ_DISPLAYS = {
    'rviz_default_plugins/PointCloud2': CLOUD, 'rviz_default_plugins/Path': PATH,
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'rviz_default_plugins/PoseWithCovariance': 'geometry_msgs/msg/PoseWithCovarianceStamped',
    'rviz_default_plugins/PoseArray': 'geometry_msgs/msg/PoseArray',
    'rviz_default_plugins/Image': IMAGE,
    'rviz_default_plugins/Grid': None, 'rviz_default_plugins/TF': None,
    'rviz_default_plugins/Axes': None,
}
RVIZ_OTHERS = {
    'rviz_common/Displays', 'rviz_common/Views', 'rviz_common/Selection', 'rviz_common/Time',
    'rviz_common/Tool Properties', 'rviz_default_plugins/Interact',
    'rviz_default_plugins/MoveCamera', 'rviz_default_plugins/Select',
    'rviz_default_plugins/FocusCamera', 'rviz_default_plugins/Measure',
    'rviz_default_plugins/Orbit', 'rviz_default_plugins/TopDownOrtho',
    'rviz_default_plugins/XYOrbit', 'rviz_default_plugins/ThirdPersonFollower',
    'rviz_default_plugins/FPS',
}
RELIABILITY = {'Reliable': ReliabilityPolicy.RELIABLE,
               'Best Effort': ReliabilityPolicy.BEST_EFFORT}
DURABILITY = {'Transient Local': DurabilityPolicy.TRANSIENT_LOCAL,
              'Volatile': DurabilityPolicy.VOLATILE}
FOXGLOVE_PANELS = {'3D', 'Image', 'DiagnosticSummary', 'RawMessages'}
# What the 3D panel draws, with the settings that it has for each (its renderables' settings).
FOXGLOVE_SETTINGS = {
    CLOUD: {'colorMode', 'colorField', 'gradient', 'colorMap', 'minValue', 'maxValue',
            'pointSize', 'pointShape', 'decayTime', 'flatColor', 'explicitAlpha'},
    PATH: {'type', 'lineWidth', 'gradient', 'axisScale', 'arrowScale'},
    'geometry_msgs/msg/PoseArray': {'type', 'lineWidth', 'gradient', 'axisScale', 'arrowScale'},
    'geometry_msgs/msg/PoseWithCovarianceStamped': {
        'type', 'axisScale', 'arrowScale', 'color', 'showCovariance', 'covarianceColor'},
    'visualization_msgs/msg/MarkerArray': {'showOutlines', 'color', 'namespaces'},
}
# What issue and page promise to be seen.
SHOWN = {'/localizer/map', '/localizer/retrieved_submap', '/localizer/retrieved_view',
         '/localizer/saliency', '/localizer/markers', '/localizer/fix', '/localizer/candidates',
         '/evaluator/true_path', '/evaluator/estimated_path', '/camera/image_rect'}


@pytest.fixture(scope='module')
def endpoints(tmp_path_factory):
    """Return what each topic's publishers (of an input: subscribers) are, by topic."""
    root, domain = tmp_path_factory.mktemp('tools'), new_domain()
    write_world(root)
    processes = [
        Process('localizer', domain, root, 'image:=/camera/image_rect', model=root / 'model',
                database=root / 'map', camera_extrinsics=EXTRINSICS),
        Process('evaluator', domain, root, output=root / 'out', database=root / 'map')]
    try:
        with client_in(domain) as client:
            node = client.node

            def found(topic):
                return (node.get_subscriptions_info_by_topic(topic) if topic.startswith('/camera')
                        else node.get_publishers_info_by_topic(topic))

            topics = [*SHOWN, '/diagnostics', '/localizer/answer']
            assert client.until(lambda: all(map(found, topics)), 90), \
                [t for t in topics if not found(t)] + [p.log for p in processes]
            yield {topic: found(topic) for topic in topics}
    finally:
        for process in processes:
            process.close()


def rviz():
    """Return RViz's configuration."""
    return yaml.safe_load((CONFIG / 'i2ploc.rviz').read_text(encoding='utf-8'))


def displays():
    """Return RViz's displays that take a topic, by name."""
    return {display['Name']: display for display in rviz()['Visualization Manager']['Displays']
            if 'Topic' in display}


def absolute(topic):
    """Return a relative topic as RViz without a namespace means it."""
    return topic if topic.startswith('/') else f'/{topic}'


def layout():
    """Return Foxglove's layout."""
    return json.loads((CONFIG / 'foxglove.json').read_text(encoding='utf-8'))


def classes(node):
    """Yield every class that a configuration names."""
    if isinstance(node, dict):
        if node.get('Class'):
            yield node['Class']
        for value in node.values():
            yield from classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from classes(value)


def test_rviz_knows_every_class():
    unknown = set(classes(rviz())) - set(RVIZ_DISPLAYS) - RVIZ_OTHERS
    assert unknown == set()


def test_rviz_shows_everything_under_the_names_and_types_that_are_published(endpoints):
    shown = {absolute(d['Topic']['Value']) for d in displays().values()}
    assert shown == SHOWN
    for name, one in displays().items():
        topic = absolute(one['Topic']['Value'])
        assert {e.topic_type for e in endpoints[topic]} == {RVIZ_DISPLAYS[one['Class']]}, name


def test_rviz_asks_for_a_quality_that_is_offered_and_for_what_is_latched(endpoints):
    for name, one in displays().items():
        asked, topic = one['Topic'], absolute(one['Topic']['Value'])
        reliability = RELIABILITY[asked['Reliability Policy']]
        durability = DURABILITY[asked['Durability Policy']]
        assert asked['History Policy'] == 'Keep Last' and asked['Depth'] >= 1
        if topic.startswith('/camera'):
            # A camera's own QoS is not known: the weakest fits all.
            assert reliability == ReliabilityPolicy.BEST_EFFORT
            assert durability == DurabilityPolicy.VOLATILE
            continue
        for endpoint in endpoints[topic]:
            offered = endpoint.qos_profile
            if reliability == ReliabilityPolicy.RELIABLE:
                assert offered.reliability == ReliabilityPolicy.RELIABLE, name
            # What is latched is asked for as such: else RViz opened later sees nothing.
            assert offered.durability == durability, name


def test_rviz_opens_on_the_map_and_every_picture_has_a_place_in_its_window():
    manager, window = rviz()['Visualization Manager'], rviz()['Window Geometry']
    assert manager['Global Options']['Fixed Frame'] == 'map_origin'
    assert manager['Views']['Current']['Target Frame'] == '<Fixed Frame>'
    state = bytes.fromhex(window['QMainWindow State'])
    pictures = [name for name, d in displays().items() if RVIZ_DISPLAYS[d['Class']] == IMAGE]
    assert len(pictures) == 3
    for name in [*pictures, 'Displays']:
        assert name in window and name.encode('utf-16-be') in state


def test_rviz_lists_the_namespaces_of_the_markers():
    poses = np.stack([planar(0.0, 0.0, 0.0), planar(99.0, 0.0, 0.0)])
    candidates = Candidates(np.arange(2), np.array([0.9, 0.8], np.float32), poses)
    answer = Answer(Fix(poses[0], np.eye(6), 0.9), None, '', candidates, {})
    markers = display.markers_message(answer, header_at(0, 'map')).markers
    listed = displays()['Candidates and fix']['Namespaces']
    assert set(listed) == {marker.ns for marker in markers} - {''}
    assert all(listed.values())


def test_foxglove_shows_everything_under_the_names_that_are_published(endpoints):
    panels = layout()['configById']
    scene = panels['3D!scene']
    kinds = {topic: {e.topic_type for e in found} for topic, found in endpoints.items()}
    for topic, settings in scene['topics'].items():
        kind, = kinds[topic]
        assert set(settings) - {'visible'} <= FOXGLOVE_SETTINGS[kind], topic
    images = {panel['imageMode']['imageTopic'] for name, panel in panels.items()
              if name.startswith('Image!')}
    assert all(kinds[topic] == {IMAGE} for topic in images)
    assert set(scene['topics']) | images == SHOWN
    assert kinds[panels['DiagnosticSummary!health']['topicToRender']] == {
        'diagnostic_msgs/msg/DiagnosticArray'}
    topic, _, field = panels['RawMessages!answer']['topicPath'].partition('.')
    assert (kinds[topic], field) == ({'std_msgs/msg/String'}, 'data')
    assert scene['followTf'] == 'map_origin'


def test_foxglove_knows_every_panel_and_each_has_its_place():
    placed = []

    def walk(node):
        if isinstance(node, str):
            placed.append(node)
            return
        assert node['direction'] in ('row', 'column') and 0 < node['splitPercentage'] < 100
        walk(node['first'])
        walk(node['second'])

    walk(layout()['layout'])
    assert sorted(placed) == sorted(layout()['configById'])
    assert {name.partition('!')[0] for name in placed} == FOXGLOVE_PANELS


def test_the_page_names_what_is_shown():
    page = (CONFIG.parent / 'docs' / 'display.md').read_text(encoding='utf-8')
    rows = [line.split('|')[1:3] for line in page.splitlines() if line.startswith('| ')]
    listed = {name.strip(): topic.strip().strip('`') for name, topic in rows}
    assert {name: listed.get(name) for name in displays()} == {
        name: one['Topic']['Value'] for name, one in displays().items()}
