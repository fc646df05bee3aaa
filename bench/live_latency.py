"""
How old a fix is when it arrives: from the image's stamp, over DDS, through the live node.

    taskset -c 0,1 python bench/live_latency.py [--city CITY --map MAP] [--rates 10 100]

A camera, the localizer with the shipped model and a listener are three processes. At 10 Hz the
share of the latency that is not the encoder's matters; at 100 Hz, more than a processor can
answer, the newest image has to be answered, and fixes must not grow older with time. Prints tables
in Markdown, and writes everything to --json.
"""

import argparse
import json
import multiprocessing
import os
from pathlib import Path
import platform
import tempfile

from live import (
    FRAME,
    large_images,
    LAX,
    Listener,
    MOUNTED,
    nodes,
    own_domain,
    publish,
    world,
)
import numpy as np

STAGES = ('decode', 'prepare', 'encode', 'search', 'verify', 'hypotheses', 'total')


def main():
    """Run all rates and print the tables."""
    parser = argparse.ArgumentParser(description='Latency of fixes through the live node.')
    parser.add_argument('--city', type=Path, help='a city of i2ploc city; default: a new one')
    parser.add_argument('--map', type=Path, help='a map of its drive 0000; default: a new one')
    parser.add_argument('--drive', default='0001', help='whose images are published')
    parser.add_argument('--images', type=int, default=40, help='as many of them, over and over')
    parser.add_argument('--size', type=int, nargs=2, default=[1408, 376],
                        metavar=('WIDTH', 'HEIGHT'), help="of the images; default: KITTI-360's")
    parser.add_argument('--rates', type=float, nargs='+', default=[10.0, 100.0])
    parser.add_argument('--seconds', type=float, default=60.0, help='of each rate')
    parser.add_argument('--warm-up', type=int, default=20, help='fixes that do not count')
    parser.add_argument('--threads', type=int, default=1, help="the model's")
    parser.add_argument('--reliable', action='store_true', help='ask for images reliably')
    parser.add_argument('--plain-dds', action='store_true',
                        help='without config/fastdds_large_images.xml')
    parser.add_argument('--set', nargs='*', default=[], metavar='PARAMETER=VALUE',
                        help='of the localizer, as device=cuda')
    parser.add_argument('--domain', type=int, default=own_domain())
    parser.add_argument('--json', type=Path)
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f'{platform.processor() or platform.machine()}, {cores} core{"s" * (cores > 1)}, '
          f'load {os.getloadavg()[0]:.1f}\n')
    if not given.plain_dds:
        large_images()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        city, map_path = world(Path(folder), given.city, given.map)
        for rate in given.rates:
            found[f'{rate:g}'] = result = judged(run(
                rate, given, city, map_path, Path(folder)), rate, given)
            print(in_words(rate, result))
    if given.json:
        given.json.write_text(json.dumps({'cores': cores, 'load': os.getloadavg(),
                                          'seconds': given.seconds, 'rates': found}, indent=1))


def run(rate, given, city, map_path, folder):
    """Return answers, each with the latency of its fix, in ms, and how many images were sent."""
    parameters = {
        **LAX, 'device': 'cpu', 'threads': given.threads, 'database': map_path,
        'exit_on_failure': True,
        'camera_extrinsics': MOUNTED, 'camera_frame': FRAME,
        **dict(pair.split('=', 1) for pair in given.set)}
    if given.reliable:
        for topic in ('image', 'camera_info'):
            parameters[f'qos_overrides./{topic}.subscription.reliability'] = 'reliable'
    context = multiprocessing.get_context('spawn')
    ready, begin = context.Event(), context.Event()
    camera = context.Process(target=publish, args=(
        given.domain, city, given.drive, given.images, given.size, rate, given.seconds, ready,
        begin))
    listener = Listener(given.domain)
    with nodes() as start:
        localizer = start('localizer', given.domain, folder, parameters)
        camera.start()
        try:
            if not listener.until(lambda: ready.is_set() or localizer.process.poll() is not None
                                  or not camera.is_alive(), 300.0) or not ready.is_set():
                raise SystemExit(f'the nodes did not start: {localizer.log.read_text()[-800:]}')
            begin.set()
            listener.spin(given.seconds)
            listener.until(lambda: not camera.is_alive(), 60.0)
        finally:
            camera.kill()
            camera.join()
        code = localizer.end()
    listener.close()
    answers = [a for a in listener.answers() if a['stamp_ns'] in listener.fixes]
    for answer in answers:
        answer['latency_ms'] = (listener.fixes[answer['stamp_ns']] - answer['stamp_ns']) * 1e-6
    return answers[given.warm_up:], round(rate * given.seconds), code, localizer


def judged(ran, rate, given):
    """Return the figures of a run."""
    answers, sent, code, localizer = ran
    if len(answers) < 10:
        raise SystemExit(f'only {len(answers)} fixes at {rate:g} Hz: '
                         f'{localizer.log.read_text()[-800:]}')
    age = np.array([a['latency_ms'] for a in answers])
    stages = {name: np.array([a['milliseconds'].get(name, 0.0) for a in answers])
              for name in STAGES}
    rest = age - stages['encode']
    third = len(age) // 3
    return {
        'sent': sent, 'fixes': len(answers), 'dropped': answers[-1]['dropped'], 'exit_code': code,
        'threads': given.threads, 'latency': spread(age), 'not_the_encoder': spread(rest),
        'outside_the_pipeline': spread(age - stages['total']),
        **{name: spread(values) for name, values in stages.items()},
        'median_of_first_third': float(np.median(age[:third])),
        'median_of_last_third': float(np.median(age[-third:])),
    }


def spread(values):
    """Return p50, p95, p99 and the largest."""
    return [round(float(v), 2) for v in (*np.percentile(values, [50, 95, 99]), values.max())]


def in_words(rate, result):
    """Return the figures as Markdown."""
    lines = [f'{rate:g} Hz: {result["sent"]} images sent, {result["fixes"]} fixes, '
             f'{result["dropped"]} dropped for newer ones; median age of the first third '
             f'{result["median_of_first_third"]:.1f} ms, of the last '
             f'{result["median_of_last_third"]:.1f} ms; exit code {result["exit_code"]}\n',
             '| ms | p50 | p95 | p99 | largest |', '| --- | ---: | ---: | ---: | ---: |']
    for name in ('latency', 'not_the_encoder', 'outside_the_pipeline', *STAGES):
        lines.append(f'| {name.replace("_", " ")} | '
                     + ' | '.join(f'{v:.1f}' for v in result[name]) + ' |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
