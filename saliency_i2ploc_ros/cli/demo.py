"""`i2ploc demo`: from nothing to fixes, the whole way, through real ROS 2 nodes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
import importlib.util
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import InputError
from ..progress import console
from ..storage import read_json, shared_directory, write_json

CAMERA = '/kitti360/image_00'
MARK = 'demo.json'
BEGIN_TIMEOUT_S = 180.0  # the replay waits a minute for the others by itself
REPLAY_TIMEOUT_S, END_TIMEOUT_S = 600.0, 60.0
ASKED_S = 5.0  # a node that is asked to end with the others is given so long


def command(
    out: Annotated[Path, typer.Option(
        help='Folder for the city, its map, the bag and the results; made anew.')],
    seed: Annotated[int, typer.Option(
        min=0, help='Which city; the shipped model has seen none from 1000 on.')] = 1001,
    length: Annotated[float, typer.Option(
        min=100.0, help='Metres that are mapped and driven.')] = 800.0,
    model: Annotated[Path | None, typer.Option(
        help='Folder of a model; default: the one shipped.')] = None,
    rate: Annotated[float, typer.Option(
        min=0.0, help='Speed of the replay; 0: the next image when the last one is answered.',
    )] = 0.0,
    domain: Annotated[int | None, typer.Option(
        min=0, max=101, help='ROS_DOMAIN_ID of the nodes; default: one of 1 to 100.')] = None,
    prepare: Annotated[bool, typer.Option(
        '--prepare', help='Only make city, map and bag, as demo.launch.py replays them; what is '
        'there already of this city and model stays.')] = False,
) -> None:
    """
    Generate a city, map it, and localize another drive through it with the ROS 2 nodes.

    One drive becomes the map; another, in another lane, light and traffic, is replayed as a bag.
    The nodes (localizer, replay, evaluator) are processes of their own and talk over DDS, on this
    host only. Ends with a table, OUT/results/overview.png and one line of figures.
    """
    if not prepare and importlib.util.find_spec('rclpy') is None:
        raise InputError('the demo runs ROS 2 nodes, and rclpy cannot be imported: use `make '
                         'demo`, which installs it, or source a ROS 2 installation')
    from ..data.bags import write_bag
    from ..data.city.generate import generate_city
    from ..data.readers import open_drive
    from ..data.submaps import submaps_of_drive
    from ..encoders.files import encoder_hash, load_model
    from ..evaluation.report import summary_table
    from ..mapping.builder import build_database

    model_path = model or shared_directory('models') / 'city'
    encoder = load_model(model_path)
    made = {'made by': 'i2ploc demo', 'version': __version__, 'seed': seed, 'length_m': length,
            'model': encoder_hash(encoder)}
    if prepare and (out / MARK).is_file() and read_json(out / MARK) == made:
        typer.echo(f'{out}: city, map and bag are there already')
        return
    clear(out)
    started = time.monotonic()
    # Two demos on one host should not hear each other.
    domain = 1 + os.getpid() % 100 if domain is None else domain

    def step(number: int, what: str) -> None:
        console.print(f'[bold]{number}/4[/bold] {time.monotonic() - started:3.0f} s  {what}',
                      highlight=False)

    step(1, f'a city: seed {seed}, {length:.0f} m, two drives in different light and traffic')
    names = generate_city(out / 'city', seed, traversals=2, length_m=length, scan_every=2)
    mapped, driven = (open_drive(out / 'city', name) for name in names)

    step(2, 'its map: the scans of the first drive, as submaps, as descriptors')
    store = submaps_of_drive(mapped, encoder.config.submap, cache=out / 'cache')
    database = build_database(store, encoder, out / 'map')

    step(3, f'the second drive as a bag of {len(driven.cameras["image_00"])} images')
    write_bag(replace(driven, lidar=None), out / 'bag')
    write_json(out / MARK, made)
    if prepare:
        return

    step(4, f'localizer, evaluator and replay as processes, in ROS domain {domain}')
    run_nodes(out, model_path, driven.cameras['image_00'].T_base_sensor, rate, domain)

    summary = read_json(out / 'results' / 'summary.json')
    console.print(summary_table(summary))
    typer.echo(f'{time.monotonic() - started:.0f} s in all; '
               f'picture: {out / "results" / "overview.png"}')
    typer.echo(last_line(summary, seed, len(database.descriptors)))


def clear(out: Path) -> None:
    """Make an empty folder for a demo; what is there goes only if it was a demo's."""
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f'{out} exists and is not the folder of a demo: name another one')
    if out.exists():
        shutil.rmtree(out)
    write_json(out / MARK, {'made by': 'i2ploc demo'})


def run_nodes(out: Path, model: Path, T_base_camera: Any, rate: float, domain: int) -> None:
    """
    Replay `out`/bag through localizer and evaluator; the results are in `out`/results.

    T_base_camera: (4, 4). Their logs are in `out`/logs. A node that fails is an InputError that
    shows its last lines.
    """
    from ..geometry.poses import to_quaternion
    from ..ros.replay_node import PLAYS

    extrinsics = [float(v) for v in (*T_base_camera[:3, 3], *to_quaternion(T_base_camera))]
    image, truth = f'{CAMERA}/image_rect', '/kitti360/ground_truth/pose'
    remaps = [f'image:={image}', f'camera_info:={CAMERA}/camera_info',
              f'ground_truth/pose:={truth}']
    with ExitStack() as stack:
        def start(node: str, **parameters: Any) -> subprocess.Popen[bytes]:
            process = _node(out / 'logs', node, domain, remaps, parameters)
            stack.callback(_end, process)
            return process

        localizer = start('localizer', model=str(model), database=str(out / 'map'),
                          camera_extrinsics=extrinsics, use_sim_time=True, exit_on_failure=True,
                          **{f'qos_overrides.{image}.subscription.reliability': 'reliable'})
        evaluator = start('evaluator', output=str(out / 'results'), database=str(out / 'map'),
                          bag=str(out / 'bag'), image_topic=image)
        replay = start('replay', bag=str(out / 'bag'), rate=rate, wait_for=f'{image} {truth}')
        started = time.monotonic()
        while replay.poll() is None:
            waited = time.monotonic() - started
            if waited > REPLAY_TIMEOUT_S:
                raise _failed(out / 'logs', 'replay', f'did not end in {waited:.0f} s')
            if waited > BEGIN_TIMEOUT_S and PLAYS not in _log(out / 'logs', 'replay'):
                raise _failed(out / 'logs', 'replay', f'did not begin in {waited:.0f} s: does it '
                              'hang? See "A node hangs" in docs/troubleshooting.md')
            for name, process in (('localizer', localizer), ('evaluator', evaluator)):
                if process.poll() is not None:
                    raise _failed(out / 'logs', name)
            time.sleep(0.1)
        if replay.returncode != 0:
            raise _failed(out / 'logs', 'replay')
        time.sleep(1.0)  # The last answers are on their way.
        for name, process in (('evaluator', evaluator), ('localizer', localizer)):
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise _failed(out / 'logs', name, 'did not end when asked') from None
            if code != 0:
                raise _failed(out / 'logs', name)


def _node(
    logs: Path, name: str, domain: int, remaps: list[str], parameters: dict[str, Any],
) -> subprocess.Popen[bytes]:
    from ..ros.running import ONLY_THIS_HOST

    arguments = [sys.executable, '-m', f'saliency_i2ploc_ros.ros.{name}_node', '--ros-args']
    for remap in remaps:
        arguments += ['-r', remap]
    for key, value in parameters.items():
        arguments += ['-p', f'{key}:={json.dumps(value)}']
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain), **ONLY_THIS_HOST}
    with (logs / f'{name}.log').open('wb') as log:
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ASKED_S)
    except subprocess.TimeoutExpired:
        process.kill()  # last, since amid its start that leaves a half-made port in shared memory
        process.wait()


def _log(logs: Path, name: str) -> str:
    return (logs / f'{name}.log').read_text(errors='replace')


def _failed(logs: Path, name: str, how: str = 'failed') -> InputError:
    # What stops the others is mostly the localizer's: its last words are shown beside theirs.
    tails = [f'{node}: {line}' for node in dict.fromkeys((name, 'localizer'))
             for line in _log(logs, node).splitlines()[-3:] or ['(it has said nothing)']]
    return InputError(f'the {name} node {how}; more is in {logs}:\n  ' + '\n  '.join(tails))


def last_line(summary: dict[str, Any], seed: int, places: int) -> str:
    """Return the demo's figures in one line, for people and for scripts."""
    errors, latency = summary['errors']['position_m'], summary['latency_ms'].get('total')
    first = summary['recall']['at']['1'] if summary['recall'] else {}
    figures = {
        'images': summary['coverage']['images_in'], 'fixes': summary['coverage']['accepted'],
        'recall@1': _figure(first.get('recall'), 3), 'chance': _figure(first.get('chance'), 3),
        'error_p50_m': _figure(errors and errors['median'], 2),
        'latency_p95_ms': _figure(latency and latency['p95'], 1),
        'places': places, 'seed': seed}
    return 'demo: ' + ' '.join(f'{name}={value}' for name, value in figures.items())


def _figure(value: float | None, digits: int) -> str:
    return 'none' if value is None else f'{value:.{digits}f}'
