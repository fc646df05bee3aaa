"""The package as pip and colcon install it."""

import ast
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import saliency_i2ploc_ros

TOP = Path(__file__).resolve().parents[1]
NAME = 'saliency_i2ploc_ros'
EXECUTABLES = {'i2ploc', 'localizer', 'replay', 'evaluator', 'check'}
COLCON = Path(sys.executable).with_name('colcon')


@pytest.fixture
def source(tmp_path):
    """A copy of what a build needs, in a workspace's src/; the models' weights left out."""
    copy = tmp_path / 'src' / NAME
    copy.mkdir(parents=True)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'README.md', 'LICENSE'):
        shutil.copy(TOP / name, copy / name)
    for name in (NAME, 'launch', 'config', 'models', 'resource'):
        shutil.copytree(TOP / name, copy / name, ignore=shutil.ignore_patterns(
            '__pycache__', '*.safetensors'))
    return copy


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, 'AMENT_PREFIX_PATH': sys.prefix,
             'PATH': f'{COLCON.parent}{os.pathsep}{os.environ["PATH"]}'})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not COLCON.is_file(), reason='colcon is not installed')
@pytest.mark.parametrize('options', [[], ['--symlink-install']])
def test_colcon_builds_and_installs(source, options):
    workspace = source.parents[1]
    run(COLCON, 'build', *options, cwd=workspace)
    prefix = workspace / 'install' / NAME
    assert {p.name for p in (prefix / 'lib' / NAME).iterdir()} == EXECUTABLES
    share = prefix / 'share' / NAME
    for kind in ('launch', 'config', 'models'):
        built = {p.relative_to(share) for p in (share / kind).rglob('*') if p.is_file()}
        given = {p.relative_to(source) for p in (source / kind).rglob('*') if p.is_file()}
        assert built == given and given
    assert (prefix / 'share/ament_index/resource_index/packages' / NAME).exists()
    # Not the interpreter of the build but whichever the environment has (ros2#1094); setuptools
    # offers no such choice to the symlink build.
    assert options or (prefix / 'lib' / NAME / 'localizer').read_text().startswith(
        '#!/usr/bin/env python3')


def test_pip_installs_without_ros(source, tmp_path):
    target = tmp_path / 'prefix'
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation',
        '--no-index', '--ignore-installed', '--prefix', target, source, cwd=tmp_path)
    installed = next(target.glob('lib/python*/site-packages'))
    code = (f'import sys; sys.path.insert(0, {str(installed)!r})\n'
            'from saliency_i2ploc_ros.storage import shared_directory\n'
            'print(shared_directory("models"))')
    found = run(sys.executable, '-c', code, cwd=tmp_path).strip()
    assert found == str(target / 'share' / NAME / 'models')


def test_the_version_is_one():
    manifest = ElementTree.parse(TOP / 'package.xml').getroot()
    assert manifest.get('format') == '3'
    assert manifest.findtext('name') == NAME
    setup = (TOP / 'setup.py').read_text()
    assert manifest.findtext('version') == saliency_i2ploc_ros.__version__
    assert re.search(r"version='([^']+)'", setup)[1] == saliency_i2ploc_ros.__version__


def test_every_imported_library_is_declared():
    """In package.xml by its rosdep key, or in the README's line of pip where there is none."""
    keys = {element.text for element in ElementTree.parse(TOP / 'package.xml').getroot()
            if element.tag.endswith('depend')}
    readme = (TOP / 'README.md').read_text()
    rosdep = {'cv2': 'python3-opencv', 'rosbags': 'python3-rosbags-pip',
              'plyfile': 'python3-plyfile-pip', 'annotated_types': 'python3-pydantic',
              'tf2_ros': 'tf2_ros_py'}
    without = {'safetensors', 'laspy', 'pypcd4', 'embreex', 'huggingface_hub', 'onnx',
               'onnxscript', 'onnxruntime', 'tensorrt'}
    imported = set()
    for path in (TOP / NAME).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split('.')[0])
    for name in imported - set(sys.stdlib_module_names) - {NAME}:
        if name in without:
            assert re.search(rf'pip install .*\b{name}\b', readme), name
        else:
            assert {name, rosdep.get(name, f'python3-{name}')} & keys, name


def test_the_image_leaves_to_pypi_what_pypi_gives():
    """What the Dockerfile does not take by its rosdep key, setup.py asks for; torch is one."""
    dockerfile = (TOP / 'Dockerfile').read_text()
    keys = {element.text for element in ElementTree.parse(TOP / 'package.xml').getroot()}
    skipped = re.search(r"--skip-keys[ \\\n]+'([^']+)'", dockerfile)[1].replace('\\', '').split()
    named = {'faiss': 'faiss-cpu', 'opencv': 'opencv-python-headless'}
    for key in skipped:
        assert key in keys
        library = key.removeprefix('python3-').removesuffix('-pip')
        assert f"'{named.get(library, library)}" in (TOP / 'setup.py').read_text()
    pinned = re.search(r'^TORCH \?= (\S+)$', (TOP / 'Makefile').read_text(), re.MULTILINE)[1]
    assert f'ARG TORCH={pinned}\n' in dockerfile


def test_the_pages_hold_no_gaps_and_no_dead_links():
    for page in (TOP / 'README.md', TOP / 'CONTRIBUTING.md', *sorted((TOP / 'docs').glob('*.md')),
                 *sorted((TOP / 'models').rglob('*.md'))):
        text = page.read_text(encoding='utf-8')
        assert not re.search(r'@[A-Z_]+@', text), f'{page.name} has a gap'
        for link in re.findall(r'\]\(([^)#]+)', text):
            if '://' not in link:
                assert (page.parent / link).exists(), f'{page.name} links to {link}'
