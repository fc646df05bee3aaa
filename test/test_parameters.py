"""The one table of parameters, and what is made from it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
import yaml

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.ros import diagnostics
from saliency_i2ploc_ros.ros.check_node import CHECK
from saliency_i2ploc_ros.ros.parameters import (
    AT_START,
    declare,
    EVALUATOR,
    LOCALIZER,
    localizer_config,
    markdown,
    REPLAY,
    TABLES,
    values,
    yaml_text,
)

CONFIG = Path(__file__).resolve().parents[1] / 'config'


@pytest.fixture
def make_node():
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    context = Context()
    rclpy.init(context=context, domain_id=101)
    nodes = []

    def make(**overrides) -> Node:
        nodes.append(Node('n', context=context, parameter_overrides=[
            Parameter(name, value=value) for name, value in overrides.items()]))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_the_pages_show_the_tables():
    docs = CONFIG.parent / 'docs'
    nodes = (docs / 'nodes.md').read_text()
    for name, table in {**TABLES, 'check': CHECK}.items():
        assert f'<!-- table: {name} -->\n{markdown(table)}<!-- end -->' in nodes, \
            f'write the table of {name} into docs/nodes.md'
    assert f'-->\n{diagnostics.markdown()}<!-- end -->' in (docs / 'diagnostics.md').read_text(), \
        'write diagnostics.markdown() into docs/diagnostics.md'


@pytest.mark.parametrize(('file', 'names'), [
    ('localizer.yaml', ['localizer']), ('replay.yaml', ['replay', 'evaluator'])])
def test_the_shipped_files_are_those_that_the_table_makes(file, names):
    assert (CONFIG / file).read_text() == yaml_text(*names), \
        f'write yaml_text{tuple(names)} into config/{file}'
    loaded = yaml.safe_load((CONFIG / file).read_text())
    for name in names:
        given = loaded[f'/**/{name}']['ros__parameters']
        expected = {s.name: s.default for s in TABLES[name] if s.default != []}
        assert given == expected


@pytest.mark.parametrize('table', [LOCALIZER, REPLAY, EVALUATOR])
def test_every_default_passes_its_own_check_and_is_described(table):
    assert len({s.name for s in table}) == len(table)
    for setting in table:
        assert setting.checked(setting.default) == setting.default
        assert setting.description and not setting.description.endswith('.')
        assert f'| `{setting.name}` |' in markdown(table)


def test_the_method_has_a_parameter_for_each_of_its_settings_and_the_same_bounds():
    by_name = {s.name: s for s in LOCALIZER}
    assert localizer_config({s.name: s.default for s in LOCALIZER}) == LocalizerConfig()
    for name in LocalizerConfig.model_fields:
        setting = by_name[name]
        for value in (setting.low, setting.high):
            if value is not None:
                LocalizerConfig(**{name: value})
                assert setting.checked(type(setting.default)(value)) == value
        for word in ('above', 'below'):
            if (value := getattr(setting, word)) is not None:
                with pytest.raises(ValueError):
                    LocalizerConfig(**{name: value})
                with pytest.raises(InputError, match=f'{name} must be .*{word} {value}'):
                    setting.checked(value)


def test_every_rule_of_the_method_is_a_bound_of_its_parameter():
    by_name, met = {s.name: s for s in LOCALIZER}, set()
    for name, field in LocalizerConfig.model_fields.items():
        for rule in field.metadata:
            # A step beyond what each rule allows; another type of rule needs a line here.
            refused = {'Ge': lambda r: r.ge - 1, 'Gt': lambda r: r.gt,
                       'Le': lambda r: r.le + 1, 'Lt': lambda r: r.lt}[type(rule).__name__](rule)
            met.add(type(rule).__name__)
            value = type(field.default)(refused)
            with pytest.raises(ValueError):
                LocalizerConfig(**{name: value})
            with pytest.raises(InputError, match=f'{name} must be'):
                by_name[name].checked(value)
    assert met == {'Ge', 'Gt', 'Le', 'Lt'}
    assert by_name['outside'].range_text == 'at least 0.0 and below 1.0'


def test_declared_values_are_the_given_ones_and_integers_serve_as_numbers(make_node):
    node = make_node(min_score=-1, camera_extrinsics=[0, 0, 1, 0, 0, 0, 1], database='/d')
    declare(node, LOCALIZER)
    present = values(node, LOCALIZER)
    assert present['min_score'] == -1.0 and isinstance(present['min_score'], float)
    assert present['camera_extrinsics'] == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert present['database'] == '/d' and present['top_k'] == 20
    assert node.describe_parameter('top_k').description


def test_lists_are_empty_until_they_are_given(make_node):
    node = make_node()
    declare(node, LOCALIZER)
    present = values(node, LOCALIZER)
    assert present['camera_extrinsics'] == present['cameras'] == []
    for name, value in (('camera_extrinsics', [0.0] * 6), ('camera_extrinsics', [0.0] * 21),
                        ('cameras', ['front', '~/left', '/car/rear_2']), ('cameras', [])):
        result, = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, result.reason
        assert values(node, LOCALIZER)[name] == value


@pytest.mark.parametrize(('written', 'cameras'), [
    ('[front, left]', ['front', 'left']), ("['front']", ['front']), ('[]', [])])
def test_names_come_from_the_command_line(written, cameras):
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    context = Context()
    rclpy.init(context=context, domain_id=101,
               args=['--ros-args', '-p', f'cameras:={written}'])
    node = Node('n', context=context)
    try:
        declare(node, LOCALIZER)
        assert values(node, LOCALIZER)['cameras'] == cameras
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_what_waits_for_configure_says_so(make_node):
    node, said = make_node(), []
    node.get_logger = lambda: SimpleNamespace(info=said.append)
    declare(node, LOCALIZER)
    assert said == []
    node.set_parameters([Parameter('map_points', value=10), Parameter('min_score', value=0.5)])
    node.set_parameters([Parameter('map_points', value=-1)])
    assert said == ['map_points takes effect when the node is configured again']


@pytest.mark.parametrize(('name', 'value', 'reason'), [
    ('min_weight', 1.5, 'parameter refused: Parameter min_weight out of range Min: 0.0, Max: 1.0'),
    ('min_score', float('inf'), 'min_score must be finite'),
    ('min_score', 'high', 'min_score must be a number'),
    ('temperature', float('nan'), 'finite'),
    ('temperature', 0.0, 'temperature must be above 0.0'),
    ('outside', 1.0, 'outside must be at least 0.0 and below 1.0, not 1.0'),
    ('top_k', 0, 'parameter refused: top_k must be at least 1, not 0'),
    ('image_transport', 'theora', 'image_transport must be one of raw, compressed'),
    ('camera_extrinsics', [1.0, 2.0], '6 or 7 numbers for each camera, not 2'),
    ('camera_extrinsics', [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, float('inf')], 'a list of numbers'),
    ('cameras', ['front', 'rear view'], "'rear view', which cannot begin the name of a topic"),
    ('cameras', ['front', ''], "has '', which cannot begin"),
    ('cameras', ['front', '/a/left', 'front'], 'must be different names'),
    ('cameras', 'front', "must be a list of names, like [front, left], not 'front'"),
    ('cameras', [1, 2], 'must be a list of names'),
    ('publish_tf', 'odom', 'publish_tf must be one of none, map_to_odom, map_to_base'),
    ('map_points', -1, 'out of range'),
    ('autostart', 'yes', 'true or false'),
])
def test_a_bad_value_is_refused_with_its_reason_at_the_start(make_node, name, value, reason):
    with pytest.raises(InputError, match=name) as caught:
        declare(make_node(**{name: value}), LOCALIZER)
    assert reason in str(caught.value)


def test_a_bad_value_is_refused_later_and_the_old_one_stays(make_node):
    node = make_node()
    declare(node, LOCALIZER)
    result, = node.set_parameters([Parameter('min_weight', value=2.0)])
    assert not result.successful and 'min_weight' in result.reason
    assert node.get_parameter('min_weight').value == LocalizerConfig().min_weight
    result, = node.set_parameters([Parameter('min_weight', value=0.5)])
    assert result.successful


def test_what_takes_effect_at_the_start_is_read_only(make_node):
    node = make_node()
    declare(node, LOCALIZER)
    read_only = {s.name for s in LOCALIZER if node.describe_parameter(s.name).read_only}
    assert read_only == {s.name for s in LOCALIZER if s.takes_effect == AT_START}
    result, = node.set_parameters([Parameter('autostart', value=False)])
    assert not result.successful
