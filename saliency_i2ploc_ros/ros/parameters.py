"""
The nodes' parameters: one table each, from which all else follows.

Declaration, checks, the README's tables and the comments of config/*.yaml come from `LOCALIZER`,
`REPLAY` and `EVALUATOR`; a test holds them together.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
import json
import math
import textwrap
from typing import Any

import annotated_types
import rcl_interfaces.msg as rcl
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..errors import InputError
from ..export.runtime import RUNTIMES
from ..localization.hypotheses import LocalizerConfig

AT_START, AT_CONFIGURE, AT_ONCE = 'start', 'configure', 'at once'


@dataclass(frozen=True)
class Setting:
    """
    One parameter. The unit is in the name: `_m`, `_s`, `_hz`, `_deg`; a float without is a ratio.

    default: its type is the parameter's (bool, int, float, str, or a list of floats).
    low, high: inclusive bounds; above: a bound that itself is refused. choices: the only strings.
    lengths: how many numbers a list may have. takes_effect: AT_START (read-only), AT_CONFIGURE
    (of the lifecycle), AT_ONCE.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    takes_effect: str = AT_START

    def checked(self, value: Any) -> Any:
        """Return the value in the parameter's type, or raise InputError with the reason."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # `rate: 1` in a yaml is an integer and is meant as 1.0.
        if kind is list:
            return self._checked_list(value)
        if type(value) is not kind:
            raise InputError(f'{self.name} must be {_KINDS[kind]}, not {value!r}')
        if self.choices and value not in self.choices:
            raise InputError(f'{self.name} must be one of {", ".join(self.choices)}, '
                             f'not {value!r}')
        if kind is float and not math.isfinite(value):
            raise InputError(f'{self.name} must be finite, not {value}')
        if (self.low is not None and value < self.low) \
                or (self.above is not None and value <= self.above) \
                or (self.high is not None and value > self.high):
            raise InputError(f'{self.name} must be {self.range_text}, not {value}')
        return value

    def _checked_list(self, value: Any) -> list[float]:
        value = [] if value is None else value  # `name:=[]` arrives as a parameter without value
        if not isinstance(value, (list, tuple, array)) or isinstance(value, str):
            raise InputError(f'{self.name} must be {_KINDS[list]}, not {value!r}')
        numbers = [float(v) for v in value if isinstance(v, (int, float))]
        if len(numbers) != len(value) or not all(map(math.isfinite, numbers)):
            raise InputError(f'{self.name} must be {_KINDS[list]}, not {list(value)}')
        if len(numbers) not in self.lengths:
            raise InputError(f'{self.name} must have {self.range_text}, not {len(numbers)}')
        return numbers

    @property
    def range_text(self) -> str:
        """Return what is allowed, in words; '' if all is."""
        if self.choices:
            return ', '.join(choice or "''" for choice in self.choices)
        if self.lengths:
            return f'{" or ".join(map(str, self.lengths))} numbers'
        parts = [f'at least {self.low}' if self.low is not None else '',
                 f'above {self.above}' if self.above is not None else '',
                 f'at most {self.high}' if self.high is not None else '']
        return ' and '.join(part for part in parts if part)

    @property
    def descriptor(self) -> rcl.ParameterDescriptor:
        """Return the description that ROS tools show."""
        result = rcl.ParameterDescriptor(
            description=self.description, additional_constraints=self.range_text,
            read_only=self.takes_effect == AT_START,
            # Integers for floats are mended in `checked`, hence ROS's own type check must not act.
            dynamic_typing=isinstance(self.default, (float, list)))
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                result.integer_range = [rcl.IntegerRange(
                    from_value=int(self.low), to_value=int(self.high), step=1)]
            else:
                result.floating_point_range = [rcl.FloatingPointRange(
                    from_value=float(self.low), to_value=float(self.high))]
        return result


_KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text',
          list: 'a list of numbers'}


METHOD = {
    'top_k': 'places searched for each image',
    'temperature': 'difference of cosines that makes a place e times less likely',
    'merge_radius_m': 'places this near to the best one form its cluster',
    'min_score': 'cosine of the best place below which there is no fix',
    'min_weight': 'share of the weight in the best cluster below which there is no fix',
    'min_contrast': 'standard deviation of grey levels (0 to 255) of a usable image',
    'lateral_sigma_m': 'standard deviation across the road: lanes that the map was not in',
    'heading_sigma_deg': 'standard deviation of the heading within one place',
    'z_sigma_m': 'standard deviation of the height, of which an image says nothing',
    'tilt_sigma_deg': 'standard deviation of roll and pitch, taken from the map',
}


def _method_settings() -> Iterator[Setting]:
    """Yield a parameter for each field of the localizer's own configuration."""
    for name, field in LocalizerConfig.model_fields.items():
        bounds = {}
        for rule in field.metadata:
            if isinstance(rule, annotated_types.Ge):
                bounds['low'] = rule.ge
            elif isinstance(rule, annotated_types.Gt):
                bounds['above'] = rule.gt
            elif isinstance(rule, annotated_types.Le):
                bounds['high'] = rule.le
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
    Setting('threads', 0,
            'processor threads of the model, whatever runs it; 0: as PyTorch chooses',
            low=0, high=256, takes_effect=AT_CONFIGURE),
    Setting('image_transport', 'raw', 'raw listens to image, compressed to image/compressed',
            choices=('raw', 'compressed'), takes_effect=AT_CONFIGURE),
    Setting('image_is_rectified', True,
            'the images are rectified (image_rect): their camera is P; false: raw, with K and D',
            takes_effect=AT_CONFIGURE),
    Setting('map_frame', 'map', 'frame of the fixes', takes_effect=AT_CONFIGURE),
    Setting('base_frame', 'base_link', 'frame of the vehicle, x forward and z up',
            takes_effect=AT_CONFIGURE),
    Setting('camera_frame', '', 'optical frame of the camera; empty: as the image says',
            takes_effect=AT_CONFIGURE),
    Setting('camera_extrinsics', [],
            'optical frame in base_frame: x y z qx qy qz qw, or x y z roll pitch yaw (metres, '
            'radians); empty: from TF', lengths=(0, 6, 7), takes_effect=AT_CONFIGURE),
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
    Setting('clock', True, 'publish /clock'),
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


def declare(node: Node, table: tuple[Setting, ...]) -> None:
    """
    Declare all parameters of a table and refuse bad values from now on, with the reason.

    A bad value from the command line or a yaml is an InputError.
    """
    settings = {setting.name: setting for setting in table}

    def check(parameters: list[Parameter]) -> rcl.SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name in settings:
                    settings[parameter.name].checked(parameter.value)
        except InputError as error:
            return rcl.SetParametersResult(successful=False, reason=str(error))
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
                             f'{_KINDS[type(setting.default)]}') from error


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
