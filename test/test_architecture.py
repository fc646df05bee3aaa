"""What docs/architecture.md promises of imports."""

import ast
from pathlib import Path
import subprocess
import sys

import saliency_i2ploc_ros

PACKAGE = Path(saliency_i2ploc_ros.__file__).parent
ROOMS = ('errors', 'storage', 'progress', 'distributed', 'geometry', 'data', 'encoders',
         'export', 'mapping', 'localization', 'evaluation', 'training', 'ros', 'cli')


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms of this package that a module imports from, anywhere in it."""
    rooms = set()
    here = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(here[:len(here) - node.level + 1])
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {[*base, *name.split('.')][0] for name in names}
    return rooms & set(ROOMS)


def test_each_room_imports_only_from_those_above_it():
    wrong = []
    for path in sorted(PACKAGE.rglob('*.py')):
        room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if room in ROOMS:
            wrong += [f'{path.relative_to(PACKAGE)} imports from {other}/'
                      for other in imported_rooms(path)
                      if ROOMS.index(other) > ROOMS.index(room)]
    assert wrong == []


def test_the_rooms_are_those_of_the_page():
    page = (PACKAGE.parent / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / '__init__.py').is_file()}
    assert folders <= set(ROOMS)
    rows = [line for line in page.splitlines() if line.startswith('| `')]
    listed = [room for row in rows for room in row.split('|')[1].replace('`', ' ').replace(
        '/', ' ').replace(',', ' ').split()]
    assert [room for room in listed if room in ROOMS][:len(ROOMS)] == list(ROOMS)


def test_the_nodes_core_needs_no_library_of_the_offline_tool():
    """What rosdep cannot install: without them a vehicle must localize all the same."""
    code = (
        'import sys\n'
        'for name in ("laspy", "plyfile", "pypcd4", "embreex", "tensorboard", "matplotlib"):\n'
        '    sys.modules[name] = None\n'
        'import saliency_i2ploc_ros.localization.localizer\n'
        'import saliency_i2ploc_ros.mapping.builder\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_neither_ros_nor_the_data_rooms_torch():
    code = (
        'import sys, importlib, pkgutil\n'
        'for name in ("rclpy", "sensor_msgs", "std_msgs", "geometry_msgs"):\n'
        '    sys.modules[name] = None\n'  # importing any of them now fails
        'import saliency_i2ploc_ros as package\n'
        'def load(room):\n'
        '    module = importlib.import_module(f"saliency_i2ploc_ros.{room}")\n'
        '    for info in pkgutil.walk_packages(module.__path__, module.__name__ + "."):\n'
        '        importlib.import_module(info.name)\n'
        'load("geometry"); load("data")\n'
        'assert "torch" not in sys.modules\n'
        'for room in ("encoders", "export", "mapping", "localization", "evaluation", "training",'
        ' "cli"):\n'
        '    load(room)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
