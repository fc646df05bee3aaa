"""
The nodes' parameters: one table each, from which all else follows.

Declaration, checks, the README's tables and the comments of config/*.yaml come from `LOCALIZER`,
`REPLAY` and `EVALUATOR`; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
import textwrap
from typing import Any

import annotated_types
import rcl_interfaces.msg as rcl
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..errors import InputError
from ..export.acceleration import ACCELERATIONS, PRECISIONS
from ..export.runtime import RUNTIMES
from ..localization.belief import BeliefConfig
from ..localization.hypotheses import LocalizerConfig
from .settings import AT_CONFIGURE, AT_ONCE, AT_START, KINDS, Setting

METHOD = {
    'top_k': 'places searched for each image',
    'verify': 'compares the places found with the image once more, where the model has a verifier',
    'temperature': 'difference of scores that makes a place e times less likely',
    'merge_radius_m': 'places this near to the best one form its cluster',
    'min_probability': 'of being right, below which there is no fix, where the map or the model '
    'is calibrated (i2ploc calibrate)',
    'outside': 'share of the images that come from outside the map, before anything is seen; for '
    'the probability',
    'min_score': 'score of the best place (its cosine, with what the verifier adds) below which '
    'there is no fix',
    'min_weight': 'share of the weight in the best cluster below which there is no fix, where '
    'nothing is calibrated',
    'min_contrast': 'standard deviation of grey levels (0 to 255) of a usable image',
    'min_visible': 'share of the image in which details are to be seen: less is left by a cover, '
    'glare, or noise alone',
    'frozen_s': 'a camera that has shown the very same picture for longer than so many seconds is '
    'not believed; 0: it is (a simulation without noise, standing still)',
    'lateral_sigma_m': 'standard deviation across the road: lanes that the map was not in',
    'heading_sigma_deg': 'standard deviation of the heading within one place',
    'z_sigma_m': 'standard deviation of the height, of which an image says nothing',
    'tilt_sigma_deg': 'standard deviation of roll and pitch, taken from the map',
}

# Of a configuration's rules, by type: the bound of a `Setting`, and where its value is.
BOUNDS: dict[type, tuple[str, str]] = {
    annotated_types.Ge: ('low', 'ge'), annotated_types.Gt: ('above', 'gt'),
    annotated_types.Le: ('high', 'le'), annotated_types.Lt: ('below', 'lt'),
}


def _method_settings() -> Iterator[Setting]:
    """Yield a parameter for each field of the localizer's own configuration."""
    for name, field in LocalizerConfig.model_fields.items():
        bounds = {}
        for rule in field.metadata:
            bound, value = BOUNDS[type(rule)]
            bounds[bound] = getattr(rule, value)
        yield Setting(name, field.default, METHOD[name], takes_effect=AT_ONCE, **bounds)


LOCALIZER: tuple[Setting, ...] = (
    Setting('autostart', True, 'configures and activates itself; false: a lifecycle manager does'),
    Setting('exit_on_failure', False, 'ends with exit code 1 where autostart fails; false: stays, '
            'to be configured again'),
    Setting('model', '', 'folder of the model; empty: the one shipped with the package',
            takes_effect=AT_CONFIGURE),
    Setting('database', '', 'folder of the place database (i2ploc build-map); needed',
            takes_effect=AT_CONFIGURE),
    Setting('runtime', 'torch', 'what runs the model: PyTorch with its weights, or its export '
            '(i2ploc export) by PyTorch or by onnxruntime', choices=RUNTIMES,
            takes_effect=AT_CONFIGURE),
    Setting('device', 'auto', 'where the model runs; auto: cuda if there is one',
            choices=('auto', 'cpu', 'cuda'), takes_effect=AT_CONFIGURE),
    Setting('precision', 'auto', 'of the matrix products of runtime torch; auto: fp16 on CUDA, '
            'else fp32; what the device cannot is replaced, and the log says so',
            choices=PRECISIONS, takes_effect=AT_CONFIGURE),
    Setting('acceleration', 'none', 'of runtimes torch and pt2: compile (torch.compile, a minute '
            'or two while configuring), graph (CUDA graphs); where it fails the model runs '
            'without, and the log says so', choices=ACCELERATIONS, takes_effect=AT_CONFIGURE),
    Setting('threads', 0,
            'processor threads of the model, whatever runs it; 0: as PyTorch chooses',
            low=0, high=256, takes_effect=AT_CONFIGURE),
    Setting('cameras', [], 'names of several cameras, each with the topics <name>/image and '
            '<name>/camera_info, whose images of one moment are answered together; empty: one, '
            'with image and camera_info', items=str, takes_effect=AT_CONFIGURE),
    Setting('camera_slop_s', 0.02, 'stamps of several cameras this near are of one moment',
            low=0.0, high=1.0, takes_effect=AT_CONFIGURE),
    Setting('camera_wait_s', 0.1, 'how long the images of a moment wait for those that are '
            'missing, before they are answered without', low=0.0, high=10.0,
            takes_effect=AT_CONFIGURE),
    Setting('image_transport', 'raw', 'raw listens to image, compressed to image/compressed',
            choices=('raw', 'compressed'), takes_effect=AT_CONFIGURE),
    Setting('image_is_rectified', True,
            'the images are rectified (image_rect): their camera is P; false: raw, with K and D',
            takes_effect=AT_CONFIGURE),
    Setting('map_frame', 'map', 'frame of the fixes', takes_effect=AT_CONFIGURE),
    Setting('base_frame', 'base_link', 'frame of the vehicle, x forward and z up',
            takes_effect=AT_CONFIGURE),
    Setting('camera_frame', '', 'optical frame of the one camera; empty: as its images say',
            takes_effect=AT_CONFIGURE),
    Setting('camera_extrinsics', [],
            'optical frame in base_frame: x y z qx qy qz qw, or x y z roll pitch yaw (metres, '
            'radians), of several cameras one after the other in their order; empty: from TF',
            each=(6, 7), takes_effect=AT_CONFIGURE),
    Setting('publish_tf', 'none', 'what each fix becomes on /tf, of which the node must then be '
            'the only source: map_to_odom corrects an odometry, map_to_base needs none',
            choices=('none', 'map_to_odom', 'map_to_base'), takes_effect=AT_CONFIGURE),
    Setting('sequence', 'none', 'whether fixes are those of a belief over many images, which '
            'moves with the odometry, or as if the vehicle went on as its fixes do; none: of each '
            'image alone', choices=('none', 'odometry', 'constant_velocity'),
            takes_effect=AT_CONFIGURE),
    Setting('sequence_min_probability', BeliefConfig().min_probability, 'share of the belief '
            'within merge_radius_m, below which a sequence has no fix', low=0.0, high=1.0,
            takes_effect=AT_CONFIGURE),
    Setting('prior_share', BeliefConfig().prior_share, 'share of the belief of a sequence that '
            '~/prior puts into its region at least: the rest stays where it was; 0: ~/prior is '
            'not heard', low=0.0, below=1.0, takes_effect=AT_CONFIGURE),
    Setting('odom_frame', 'odom', 'frame of the odometry, for map_to_odom and sequence',
            takes_effect=AT_CONFIGURE),
    Setting('odometry', 'tf', 'where map_to_odom and sequence hear the odometry: tf from '
            'odom_frame to base_frame, topic from odom (nav_msgs/Odometry), which costs much less',
            choices=('tf', 'topic'), takes_effect=AT_CONFIGURE),
    Setting('tf_period_s', 0.05, 'map_to_odom is sent again so often, dated twice that ahead',
            low=0.01, high=1.0, takes_effect=AT_CONFIGURE),
    Setting('publish_initialpose', False, 'each fix on initialpose too, as nav2 accepts it',
            takes_effect=AT_CONFIGURE),
    Setting('map_points', 200_000, 'points of ~/map at most; 0: no ~/map',
            low=0, high=10_000_000, takes_effect=AT_CONFIGURE),
    Setting('localize_timeout_s', 5.0, 'how long ~/localize waits for an image',
            above=0.0, high=600.0, takes_effect=AT_ONCE),
    Setting('input_timeout_s', 2.0, 'silence of the camera after which the node complains',
            above=0.0, high=3600.0, takes_effect=AT_ONCE),
    Setting('diagnostics_period_s', 1.0, 'time between two messages on /diagnostics',
            low=0.05, high=60.0),
    *_method_settings(),
)

REPLAY: tuple[Setting, ...] = (
    Setting('bag', '', 'folder of the rosbag2 (MCAP or sqlite3); needed'),
    Setting('rate', 1.0, 'speed, 1.0 is as recorded; 0.0: lock-step, the next image when the last '
            'one is answered', low=0.0, high=1000.0),
    Setting('answer_topic', 'localizer/answer', 'where the answers of lock-step are listened for'),
    Setting('answer_timeout_s', 10.0, 'lock-step: how long an answer is waited for',
            above=0.0, high=3600.0),
    Setting('wait_for', '', 'topics of the bag, with spaces between, that must all have a '
            'subscriber before it starts; empty: any image topic'),
    Setting('wait_timeout_s', 60.0, 'how long these subscribers are waited for',
            above=0.0, high=3600.0),
    Setting('clock', True, 'publish /clock, in place of one in the bag'),
    Setting('topics', '', 'topics to play, with spaces between; empty: all'),
    Setting('start_s', 0.0, 'begin so long after the first message', low=0.0, high=1e6),
    Setting('duration_s', 0.0, 'play so much of it; 0.0: to its end', low=0.0, high=1e6),
    Setting('loops', 1, 'how often it is played; 0: until interrupted', low=0, high=1_000_000_000),
    Setting('restamp', False, 'of further loops, move stamps and /clock on, so that time does '
            'not go back; false: stamps are as recorded'),
)

EVALUATOR: tuple[Setting, ...] = (
    Setting('output', '', 'folder for summary.json, TUM files and pictures; needed'),
    Setting('database', '', 'folder of the place database, for recall; needed'),
    Setting('bag', '', 'the replayed bag, whose images the pictures show; empty: no images'),
    Setting('image_topic', '', 'topic of the images in that bag'),
    Setting('max_gap_s', 1.0, 'ground truth is interpolated over gaps up to this',
            low=0.0, high=60.0),
    Setting('idle_timeout_s', 0.0, 'end after this long without a message; 0.0: when interrupted',
            low=0.0, high=3600.0),
    Setting('min_images', 1, 'fail with fewer images answered', low=0, high=1_000_000_000),
    Setting('min_accepted_share', 0.0, 'fail with a smaller share of images that got a fix',
            low=0.0, high=1.0),
    Setting('min_recall_at_1', 0.0, 'fail with a smaller Recall@1 at 20 m', low=0.0, high=1.0),
    Setting('max_false_accept_rate', 1.0, 'fail with a larger share of fixes over 20 m off',
            low=0.0, high=1.0),
)

TABLES: dict[str, tuple[Setting, ...]] = {
    'localizer': LOCALIZER, 'replay': REPLAY, 'evaluator': EVALUATOR,
}


def declare(
    node: Node, table: tuple[Setting, ...], also: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """
    Declare all parameters of a table and refuse bad values from now on, with the reason.

    A bad value from the command line or a yaml is an InputError. also: refuses, by InputError,
    values by name that are good in themselves.
    """
    settings = {setting.name: setting for setting in table}
    all_declared = False

    def check(parameters: list[Parameter]) -> rcl.SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name in settings:
                    settings[parameter.name].checked(parameter.value)
            if also is not None:
                also({parameter.name: parameter.value for parameter in parameters})
        except InputError as error:
            return rcl.SetParametersResult(successful=False, reason=str(error))
        for parameter in parameters if all_declared else ():
            if parameter.name in settings \
                    and settings[parameter.name].takes_effect == AT_CONFIGURE:
                node.get_logger().info(
                    f'{parameter.name} takes effect when the node is configured again')
        return rcl.SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    for setting in table:
        try:
            node.declare_parameter(setting.name, setting.default, setting.descriptor)
        except InvalidParameterValueException as error:
            # rclpy's sentence ends with the name, ours begin with it.
            reason = str(error).partition('Reason: ')[2].removesuffix(f': {setting.name}')
            raise InputError(f'parameter refused: {reason or error}') from error
        except InvalidParameterTypeException as error:
            raise InputError(f'parameter {setting.name} must be '
                             f'{KINDS[type(setting.default)]}') from error
    all_declared = True


def values(node: Node, table: tuple[Setting, ...]) -> dict[str, Any]:
    """Return the present values of a table's parameters."""
    return {s.name: s.checked(node.get_parameter(s.name).value) for s in table}


def localizer_config(present: dict[str, Any]) -> LocalizerConfig:
    """Return the localizer's configuration among the values of `LOCALIZER`."""
    return LocalizerConfig(**{name: present[name] for name in LocalizerConfig.model_fields})


def markdown(table: tuple[Setting, ...]) -> str:
    """Return the table as the README shows it."""
    rows = ['| parameter | default | range | takes effect | meaning |',
            '| --- | --- | --- | --- | --- |']
    rows += [f'| `{s.name}` | `{_literal(s.default)}` | {s.range_text} | {s.takes_effect} '
             f'| {s.description} |' for s in table]
    return '\n'.join(rows) + '\n'


def yaml_text(*names: str) -> str:
    """Return the parameter file of these nodes: every parameter, commented, at its default."""
    lines = ['# Made from saliency_i2ploc_ros/ros/parameters.py; every value is the default.']
    for name in names:
        lines += ['', f'/**/{name}:', '  ros__parameters:']
        for s in TABLES[name]:
            allowed = f' ({s.range_text})' if s.range_text else ''
            comment = f'{_upper(s.description)}{allowed}{_WHEN[s.takes_effect]}.'
            lines += [f'    # {line}' for line in textwrap.wrap(comment, 93)]
            # An empty list has no type for ROS's yaml parser, which makes it no value.
            mark = '# ' if s.default == [] else ''
            lines += [f'    {mark}{s.name}: {_literal(s.default)}']
    return '\n'.join(lines) + '\n'


_WHEN = {AT_START: '', AT_CONFIGURE: '; takes effect when configured',
         AT_ONCE: '; takes effect at once'}


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)
