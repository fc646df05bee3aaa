"""All here needs ROS 2's own launch, and is passed over where that cannot be imported."""

from importlib.util import find_spec
from pathlib import Path
import sys

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
collect_ignore = []
if find_spec('launch_pytest') is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob('test_*.py')]
else:
    from helpers_launch import ament, world  # noqa: F401
