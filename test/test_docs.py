"""What the pages name exists in the code: topics, parameters, commands, files, words."""

import ast
import functools
from pathlib import Path
import re

import pytest
import typer
import yaml

from saliency_i2ploc_ros.cli.main import app
from saliency_i2ploc_ros.localization.localizer import camera_yaw
from saliency_i2ploc_ros.localization.sequence import SEQUENCE_REASONS
from saliency_i2ploc_ros.ros.diagnostics import KEYS, REFUSALS
from saliency_i2ploc_ros.ros.frames import extrinsics_of
from saliency_i2ploc_ros.ros.parameters import LOCALIZER, TABLES

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / 'saliency_i2ploc_ros'
PAGES = [TOP / 'README.md', TOP / 'CONTRIBUTING.md', *sorted((TOP / 'docs').glob('*.md'))]
LAUNCH_FILES = {path.name: path for folder in ('launch', 'config/examples')
                for path in (TOP / folder).glob('*.launch.py')}
# Names of other packages, and words that are no names of the code.
FOREIGN = {'initial_pose_particle_covariance', 'nav2_lifecycle_manager'}
pages = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def spans(page: Path) -> list[str]:
    """What stands in backticks."""
    return re.findall(r'`([^`\n]+)`', text_of(page))


def commands(page: Path) -> list[str]:
    """Indented or quoted command lines, those that go on after a backslash joined."""
    whole = re.sub(r'\\\n\s*', '', text_of(page))
    lines = [line[4:] for line in whole.splitlines() if line.startswith('    ')]
    return [line.partition('  #')[0].strip() for line in lines] + spans(page)


@functools.cache
def code() -> str:
    """All that is no page: sources, launch files, configuration, tests of other packages."""
    paths = [*PACKAGE.rglob('*.py'), *(TOP / 'launch').glob('*.py'), *TOP.glob('bench/*.py'),
             *(TOP / 'config').rglob('*.*'), TOP / 'setup.py', TOP / 'Makefile',
             TOP / 'test' / 'test_with_others.py', TOP / 'package.xml']
    return '\n'.join(path.read_text(encoding='utf-8') for path in paths)


@functools.cache
def literals() -> set[str]:
    """All texts in the nodes' sources; parts of f-strings joined by {}."""
    found = set()
    for path in (PACKAGE / 'ros').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def private_names() -> set[str]:
    """The `~/` names that the nodes make; those of Paths are made of two parts."""
    names = {text for text in literals() if re.fullmatch(r'~/\w+', text)}
    return names | {f'~/{name}' for name in ('true_path', 'estimated_path') if name in literals()}


def test_every_private_name_is_documented_and_every_documented_one_is_made():
    shown = set(re.findall(r'`(~/\w+)`', text_of(TOP / 'docs' / 'nodes.md')))
    assert shown == private_names()
    for page in PAGES:
        assert set(re.findall(r'(~/\w+)', ' '.join(spans(page)))) <= shown, page.name


def executables() -> set[str]:
    return set(re.findall(r"'(\w+) = saliency_i2ploc_ros", text_of(TOP / 'setup.py')))


def test_the_executables_are_those_of_the_page():
    table = text_of(TOP / 'docs' / 'nodes.md').partition('## ')[0]
    assert set(re.findall(r'^\| `(\w+)`', table, re.M)) == executables()


@pages
def test_commands_of_ros_exist(page):
    for command in commands(page):
        for name in re.findall(r'ros2 run saliency_i2ploc_ros (\w+)', command):
            assert name in executables(), command
        for name in re.findall(r'ros2 launch saliency_i2ploc_ros (\S+)', command):
            assert name in LAUNCH_FILES, command
            given = set(re.findall(r' (\w+):=', command))
            known = re.findall(r"'(\w+)'", text_of(LAUNCH_FILES[name])
                               + text_of(LAUNCH_FILES['localization.launch.py']))
            assert given <= set(known), command


@functools.cache
def cli() -> typer.core.TyperGroup:
    return typer.main.get_command(app)


@pages
def test_commands_of_the_tool_exist_with_their_options(page):
    for command in commands(page):
        for name, rest in re.findall(r'\bi2ploc ([a-z][\w-]*)(.*)', command):
            assert name in cli().commands, command
            options = {option for parameter in cli().commands[name].params
                       for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r'(--[a-z][\w-]*)', rest)) - {'--help', '--debug'} <= options, \
                command


def test_every_command_of_the_tool_is_in_the_readme():
    shown = set(re.findall(r'^\| `i2ploc ([\w-]+)` \|', text_of(TOP / 'README.md'), re.M))
    assert shown == set(cli().commands)


@pages
def test_targets_of_make_exist(page):
    targets = set(re.findall(r'^(\w+):', text_of(TOP / 'Makefile'), re.M))
    for command in commands(page):
        for name in re.findall(r'^make (\w+)', command):
            assert name in targets, command


@pages
def test_files_exist(page):
    for span in spans(page):
        if re.fullmatch(r'(docs|config|launch|models|bench|test)/[\w./-]*\w/?', span):
            assert (TOP / span).exists(), span
        elif re.fullmatch(r'[a-z_]+/[\w/]+\.py', span):
            assert (PACKAGE / span).exists(), span
        elif re.fullmatch(r'[\w]+\.(launch\.py|rviz)', span):
            assert list(TOP.glob(f'*/{span}')) or list(TOP.glob(f'config/*/{span}')), span


@pages
def test_words_that_look_like_names_are_names_of_the_code(page):
    known = set(re.findall(r'[A-Za-z_]\w*', code())) | FOREIGN
    for span in spans(page):
        # `name`, `name:=value`, `name: value`
        found = re.fullmatch(r'([a-z]\w*)(?:(?::=|: ).*)?', span)
        if found and '_' in found[1]:
            assert found[1] in known, span


@pages
def test_parameters_are_given_values_that_they_take(page):
    settings = {s.name: s for table in TABLES.values() for s in table}
    for span in spans(page):
        found = re.fullmatch(r'(\w+):=(\S+)', span)
        if found and found[1] in settings:
            setting = settings[found[1]]
            assert setting.checked(yaml.safe_load(found[2])) is not None, span


def test_every_rejection_is_explained():
    page = text_of(TOP / 'docs' / 'troubleshooting.md')
    explained = set(re.findall(r'^\| `(\w+)` \|', page.partition('## The node does')[0], re.M))
    assert {*REFUSALS, *SEQUENCE_REASONS, 'out_of_order', 'no_texture', 'low_score',
            'ambiguous'} == explained
    sources = '\n'.join(path.read_text() for folder in ('ros', 'localization')
                        for path in (PACKAGE / folder).glob('*.py'))
    assert all(f"'{reason}'" in sources for reason in explained)


def test_the_frames_have_the_names_of_their_parameters():
    page = text_of(TOP / 'docs' / 'frames.md')
    settings = {s.name: s for s in LOCALIZER}
    rows = re.findall(r'^\| `(\w+)` \| `(\w+_frame)` \|', page, re.M)
    assert {frame for frame, _ in rows} == {'map', 'odom', 'base_link'}
    for frame, parameter in rows:
        assert settings[parameter].default == frame
    section = page.partition('## Who')[2].partition('## What')[0]
    modes = re.findall(r'^\| `(\w+)` \|', section, re.M)
    assert tuple(modes) == settings['publish_tf'].choices
    assert settings['publish_tf'].default == 'none'


def test_the_example_of_a_mounting_looks_forward_and_level():
    page = text_of(TOP / 'docs' / 'frames.md')
    T = extrinsics_of(yaml.safe_load(re.search(r'^    (camera_extrinsics: .*)$', page, re.M)[1])[
        'camera_extrinsics'])
    assert camera_yaw(T) == pytest.approx(0.0)
    assert T[:3, 2] == pytest.approx([1.0, 0.0, 0.0])  # its z is the vehicle's x
    assert T[:3, 1] == pytest.approx([0.0, 0.0, -1.0])  # its y points down


def test_the_pages_of_diagnostics_name_keys():
    keys = {key for _, key, *_ in KEYS}
    page = text_of(TOP / 'docs' / 'troubleshooting.md')
    shown = set(re.findall(r'`(\w+_ms_p50_p95)`', page))
    assert shown and shown <= keys


def test_the_architecture_names_all_rooms():
    shown = set(re.findall(r'`(\w+)/`', text_of(TOP / 'docs' / 'architecture.md')))
    assert {path.parent.name for path in PACKAGE.glob('*/__init__.py')} <= shown
