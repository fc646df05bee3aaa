"""One parameter of a node: its default, its bounds, and the reason why a value is refused."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
import math
import re
from typing import Any

import rcl_interfaces.msg as rcl

from ..errors import InputError

AT_START, AT_CONFIGURE, AT_ONCE = 'start', 'configure', 'at once'
_TOPIC_NAME = r'(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*'
KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text',
         list: 'a list of numbers'}


@dataclass(frozen=True)
class Setting:
    """
    One parameter. The unit is in the name: `_m`, `_s`, `_hz`, `_deg`; a float without is a ratio.

    default: its type is the parameter's (bool, int, float, str, or a list). low, high: inclusive
    bounds; above, below: bounds that themselves are refused. choices: the only strings. items: of
    a list, float or str. each: for each camera a list of numbers has one of so many. takes_effect:
    AT_START (read-only), AT_CONFIGURE (of the lifecycle), AT_ONCE.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    items: type = float
    each: tuple[int, ...] = ()
    takes_effect: str = AT_START

    def checked(self, value: Any) -> Any:
        """Return the value in the parameter's type, or raise InputError with the reason."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # `rate: 1` in a yaml is an integer and is meant as 1.0.
        if kind is list:
            value = [] if value is None else value  # `name:=[]` arrives without a value
            return self._checked_names(value) if self.items is str else self._checked_list(value)
        if type(value) is not kind:
            raise InputError(f'{self.name} must be {KINDS[kind]}, not {value!r}')
        if self.choices and value not in self.choices:
            raise InputError(f'{self.name} must be one of {", ".join(self.choices)}, '
                             f'not {value!r}')
        if kind is float and not math.isfinite(value):
            raise InputError(f'{self.name} must be finite, not {value}')
        if (self.low is not None and value < self.low) \
                or (self.above is not None and value <= self.above) \
                or (self.high is not None and value > self.high) \
                or (self.below is not None and value >= self.below):
            raise InputError(f'{self.name} must be {self.range_text}, not {value}')
        return value

    def _checked_list(self, value: Any) -> list[float]:
        if not isinstance(value, (list, tuple, array)):
            raise InputError(f'{self.name} must be {KINDS[list]}, not {value!r}')
        numbers = [float(v) for v in value if isinstance(v, (int, float))]
        if len(numbers) != len(value) or not all(map(math.isfinite, numbers)):
            raise InputError(f'{self.name} must be {KINDS[list]}, not {list(value)}')
        if all(len(numbers) % count for count in self.each):
            raise InputError(f'{self.name} must have {self.range_text}, not {len(numbers)}')
        return numbers

    def _checked_names(self, value: Any) -> list[str]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise InputError(f'{self.name} must be a list of names, like [front, left], '
                             f'not {value!r}')
        for name in value:
            if not re.fullmatch(_TOPIC_NAME, name):
                raise InputError(f'{self.name} has {name!r}, which cannot begin the name of a '
                                 'topic: take letters, digits and _, like front or /car/front')
        if len(set(value)) < len(value):
            raise InputError(f'{self.name} must be different names, not {list(value)}')
        return list(value)

    @property
    def range_text(self) -> str:
        """Return what is allowed, in words; '' if all is."""
        if self.choices:
            return ', '.join(choice or "''" for choice in self.choices)
        if self.each:
            return f'{" or ".join(map(str, self.each))} numbers for each camera'
        parts = [f'at least {self.low}' if self.low is not None else '',
                 f'above {self.above}' if self.above is not None else '',
                 f'at most {self.high}' if self.high is not None else '',
                 f'below {self.below}' if self.below is not None else '']
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
