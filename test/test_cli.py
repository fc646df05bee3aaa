"""The command line as its user meets it: help that reads, and one clear line for each mistake."""

from pathlib import Path
import shutil
import subprocess
import sys

from helpers_drives import NAME, write_drive
import pytest

from saliency_i2ploc_ros.cli import main as cli
from saliency_i2ploc_ros.storage import shared_directory

COMMANDS = [command.name for command in cli.app.registered_commands]


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run `i2ploc` in this process; return its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, 'argv', ['i2ploc', *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    code = caught.value.code
    if isinstance(code, str):  # what sys.exit(text) prints
        return 1, out, err + code
    return code or 0, out, err


@pytest.fixture
def drive(tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    write_drive(tmp_path / 'drive')
    return tmp_path / 'drive'


@pytest.mark.parametrize('command', COMMANDS)
def test_each_help_says_what_it_does_and_what_each_option_means(monkeypatch, capsys, command):
    code, out, _ = run(monkeypatch, capsys, command, '--help')
    assert code == 0
    assert 'Usage: i2ploc ' + command in out
    assert len(out.splitlines()) > 10


def test_the_root_help_lists_every_command(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, '--help')
    assert all(f' {command} ' in out for command in COMMANDS)


def remove_poses(root: Path) -> None:
    shutil.rmtree(root / 'data_poses')


def corrupt_image(root: Path) -> None:
    first = sorted((root / 'data_2d_raw').rglob('*.png'))[0]
    first.write_bytes(first.read_bytes()[:100])


def cut_scan(root: Path) -> None:
    first = sorted((root / 'data_3d_raw').rglob('*.bin'))[0]
    first.write_bytes(first.read_bytes()[:-3])


def empty_drive(root: Path) -> None:
    for part in ('data_2d_raw', 'data_3d_raw', 'data_poses'):
        shutil.rmtree(root / part / NAME)
        (root / part / NAME).mkdir()


@pytest.mark.parametrize('damage, arguments, says', [
    (remove_poses, ['train', 'ROOT', '--out', 'OUT'], 'pose'),
    (corrupt_image, ['bag', 'ROOT', '--out', 'OUT'], 'not a readable image'),
    (corrupt_image, ['show', 'ROOT', '--frame', '0', '--out', 'OUT/a.png'],
     'not a readable image'),
    (cut_scan, ['train', 'ROOT', '--out', 'OUT'], '.bin'),
    (empty_drive, ['bag', 'ROOT', '--out', 'OUT'], 'no images and no scans'),
    (empty_drive, ['train', 'ROOT', '--out', 'OUT'], 'scans'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--set', 'stepps=3'], 'stepps'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--set', 'steps'], 'NAME=VALUE'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--set', 'steps=['], 'YAML'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--set', 'model.name.x=1'], 'NAME=VALUE'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--drive', '0007'], '0007'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--drive', '0042', '--held-out', 'ROOT'], '0042'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--held-out', 'ROOT'], 'held out'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--preset', 'huge'], 'choose one of paper, '),
    (None, ['train', 'ROOT/calibration', '--out', 'OUT'], 'i2ploc city'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--resume'], 'leave --resume out'),
    (None, ['train', 'ROOT', '--out', 'OUT', '--init', 'nowhere'], 'nowhere'),
    (None, ['model', 'nowhere'], 'nowhere'),
    (None, ['show', 'nowhere'], 'nowhere'),
    (None, ['city', 'OUT', '--length', '-5'], 'at least two steps'),
    (None, ['localize', 'nowhere.png', '--map', 'nowhere', '--model', 'nowhere', '--camera',
            '1,1,1,1'], 'nowhere'),
])
def test_a_mistake_is_one_clear_line(
        monkeypatch, capsys, tmp_path, drive, damage, arguments, says):
    if damage:
        damage(drive)
    out = tmp_path / 'out'
    named = [a.replace('ROOT', str(drive)).replace('OUT', str(out)) for a in arguments]
    code, _, err = run(monkeypatch, capsys, *named)
    lines = [line for line in err.splitlines() if line.startswith('i2ploc: ')]
    assert code == 1
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    assert says in lines[0]
    assert 'defect' not in lines[0] and 'Traceback' not in err
    assert not list(out.rglob('*')), 'something half-made was left'


def test_debug_shows_the_traceback():
    command = [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', 'model', 'nowhere']
    plain = subprocess.run(command, capture_output=True, text=True)
    debug = subprocess.run([*command, '--debug'], capture_output=True, text=True)
    assert plain.returncode != 0 and 'Traceback' not in plain.stderr
    assert debug.returncode != 0 and 'Traceback' in debug.stderr


def test_a_terminated_command_ends_at_once():
    process = subprocess.run(
        [sys.executable, '-c',
         'import os, signal, sys\n'
         'from saliency_i2ploc_ros.cli import main, model\n'
         'main.app.command("stop")(lambda: os.kill(os.getpid(), signal.SIGTERM))\n'
         'sys.argv = ["i2ploc", "stop"]\n'
         'main.main()\n'], capture_output=True, text=True)
    assert process.returncode == 143
    assert 'Traceback' not in process.stderr


def test_a_model_is_told_in_short_lines(monkeypatch, capsys):
    """However many drives it was trained on."""
    code, out, _ = run(monkeypatch, capsys, 'model', shared_directory('models') / 'city')
    lines = {name: line.split(maxsplit=1)[1] for line in out.splitlines()
             for name in [line.split()[0]]}
    assert code == 0
    assert lines['trained_on'].startswith('273: city_0000_drive_0000_sync, ')
    assert lines['trained_on'].endswith(' ... city_0090_drive_0002_sync')
    assert lines['step'] == '15000' and '"trains": "verifier"' in lines['recipe']
