"""
Does the localizer grow, or fail to end? A bag played over and over through the live nodes.

    taskset -c 0,1 python bench/soak.py --minutes 60 [--city CITY --map MAP] [--out soak]

`replay` (loops without end, stamps that go on, as fast as --hz images a second), the localizer
with the shipped model, and a listener that keeps nothing. The memory of both nodes is read every
few seconds. After the warm-up a line is laid through it (Theil-Sen: the median of all slopes,
which one jump does not move). At the end all get SIGINT. The verdict is 'passed' where the
localizer's own memory grows by less than --limit MiB an hour and its last third is not --limit
above the first, every image was answered but for those replaced by newer ones, and every process
ended with 0. Writes memory.png, memory.csv and soak.json to --out; exits with 2 where it is not
passed.
"""

import argparse
import csv
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from live import large_images, LAX, Listener, nodes, own_domain, world
import numpy as np

from saliency_i2ploc_ros.data.bags import BagReader

WARM_UP_SHARE = 0.2  # of the time, at least a minute: allocators and windows fill


def main():
    """Play, watch, judge."""
    parser = argparse.ArgumentParser(description='Memory of the nodes over a long time.')
    parser.add_argument('--minutes', type=float, default=60.0)
    parser.add_argument('--city', type=Path, help='a city of i2ploc city; default: a new one')
    parser.add_argument('--map', type=Path, help='a map of its drive 0000; default: a new one')
    parser.add_argument('--drive', default='0001', help='which is played')
    parser.add_argument('--bag', type=Path, help='a bag of `i2ploc bag`, in place of the drive')
    parser.add_argument('--hz', type=float, default=10.0, help='images a second')
    parser.add_argument('--every-s', type=float, default=5.0, help='between two readings')
    parser.add_argument('--limit', type=float, default=10.0, help='MiB an hour')
    parser.add_argument('--threads', type=int, default=1, help="the model's")
    parser.add_argument('--set', nargs='*', default=[], metavar='PARAMETER=VALUE',
                        help='of the localizer, as device=cuda')
    parser.add_argument('--domain', type=int, default=own_domain())
    parser.add_argument('--out', type=Path, default=Path('soak'))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    large_images()
    with tempfile.TemporaryDirectory() as folder:
        city, map_path = world(Path(folder), given.city, given.map)
        bag = given.bag or bag_of(city, given.drive, Path(folder))
        rows, answered, codes, logs = run(given, map_path, bag, Path(folder))
        for name, text in logs.items():
            (given.out / f'{name}.log').write_text(text)
    result = judged(given, rows, answered, codes)
    with (given.out / 'memory.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['seconds', 'localizer_mib', 'localizer_own_mib', 'replay_own_mib'])
        writer.writerows(rows.round(3).tolist())
    (given.out / 'soak.json').write_text(json.dumps(result, indent=1) + '\n')
    draw(rows, result, given.out / 'memory.png')
    print(json.dumps(result, indent=1))
    sys.exit(0 if result['verdict'] == 'passed' else 2)


def bag_of(city, drive, folder):
    """Return a bag of a drive's images, as `i2ploc bag` makes it."""
    bag = folder / 'bag'
    subprocess.run([sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', 'bag', str(city),
                    '--out', str(bag), '--drive', drive], check=True)
    return bag


def rate_of(bag, hz):
    """Return how fast a bag has to be played for so many images a second."""
    with BagReader(bag) as opened:
        images = sum(count for topic, count in opened.counts.items() if 'image_rect' in topic
                     and 'info' not in topic)
        return hz * (opened.end_ns - opened.start_ns) * 1e-9 / images


def run(given, map_path, bag, folder):
    """Return the readings (n, 4), what was answered, the exit codes and the logs."""
    space = '/kitti360/image_00'
    remaps = f'image:={space}/image_rect', f'camera_info:={space}/camera_info'
    parameters = {
        **LAX, 'device': 'cpu', 'threads': given.threads, 'database': map_path,
        'exit_on_failure': True, 'use_sim_time': True,
        **dict(pair.split('=', 1) for pair in given.set)}
    playing = {'bag': bag, 'loops': 0, 'restamp': True, 'rate': rate_of(bag, given.hz),
               'wait_timeout_s': 300.0}
    listener = Listener(given.domain)
    rows = []
    first, last, counted, begin = None, None, 0, 0.0
    with nodes() as start:
        localizer = start('localizer', given.domain, folder, parameters, remaps)
        replay = start('replay', given.domain, folder, playing)
        if not listener.until(lambda: listener.count or localizer.process.poll() is not None
                              or replay.process.poll() is not None, 360.0) or not listener.count:
            raise SystemExit(f'no answer came: {localizer.log.read_text()[-800:]}'
                             f'{replay.log.read_text()[-800:]}')
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < 60.0 * given.minutes:
            if localizer.process.poll() is not None or replay.process.poll() is not None:
                break
            rows.append([passed, *localizer.memory_mib(), replay.memory_mib()[1]])
            listener.spin(given.every_s)
            for answer in listener.answers():
                first, last, counted = first or answer, answer, counted + 1
            listener.forget()
        # The camera first, then who listens to it.
        ended = (replay, localizer)
        codes = {node.name: node.end() for node in ended}
    listener.close()
    logs = {node.name: node.log.read_text() for node in ended}
    received = last['received'] - first['received'] + 1
    return np.array(rows), {
        'received': received, 'answered': counted,
        'dropped': last['dropped'] - first['dropped'],
        'hz': round(counted / max(1.0, rows[-1][0] + given.every_s), 2)}, codes, logs


def slope_mib_per_hour(seconds, mib):
    """Return the median of the slopes between all pairs of readings (Theil-Sen)."""
    # A thousand readings have half a million pairs; more add nothing.
    step = max(1, len(seconds) // 1000)
    t, m = seconds[::step], mib[::step]
    i, j = np.triu_indices(len(t), 1)
    return 3600.0 * float(np.median((m[j] - m[i]) / (t[j] - t[i])))


def judged(given, rows, answered, codes):
    """Return figures and verdict."""
    seconds, whole, own, replayed = rows.T
    warm = max(60.0, WARM_UP_SHARE * seconds[-1]) if seconds[-1] > 90.0 else 0.5 * seconds[-1]
    after = seconds >= warm
    t, m = seconds[after], own[after]
    third = max(1, len(m) // 3)
    figures = {
        'minutes': round(seconds[-1] / 60.0, 2), 'warm_up_s': round(warm, 1),
        'cores': len(os.sched_getaffinity(0)), 'readings': len(rows), **answered,
        'localizer_mib': [round(float(v), 1) for v in (whole[0], whole[-1], whole.max())],
        'own_mib_at_start_after_warm_up_at_end':
            [round(float(v), 1) for v in (own[0], m[0], own[-1])],
        'slope_mib_per_hour': round(slope_mib_per_hour(t, m), 2),
        'last_third_over_first_mib':
            round(float(np.median(m[-third:]) - np.median(m[:third])), 2),
        'replay_slope_mib_per_hour': round(slope_mib_per_hour(t, replayed[after]), 2),
        'limit_mib_per_hour': given.limit, 'exit_codes': codes,
    }
    hours = max(1.0, seconds[-1] / 3600.0)
    lost = answered['received'] - answered['answered'] - answered['dropped']
    faults = [words for words, bad in (
        ('memory grows', figures['slope_mib_per_hour'] > given.limit),
        ('memory grew', figures['last_third_over_first_mib'] > given.limit * hours),
        (f'{lost} images without an answer', lost > 1),
        ('too short', seconds[-1] < 60.0 * given.minutes - 2.0 * given.every_s),
        ('a process did not end with 0', any(codes.values()))) if bad]
    return {'verdict': 'passed' if not faults else ', '.join(faults), **figures}


def draw(rows, result, path):
    """Draw the memory over time."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    seconds, whole, own, replayed = rows.T
    figure, axes = plt.subplots(figsize=(9.0, 4.5), layout='constrained')
    for values, label, colour in ((whole, 'localizer, resident with mapped files', '#9bb7d4'),
                                  (own, "localizer's own", '#1f4e8c'),
                                  (replayed, "replay's own", '#b5651d')):
        axes.plot(seconds / 60.0, values, color=colour, label=label)
    axes.axvspan(0.0, result['warm_up_s'] / 60.0, color='#eeeeee', label='warm-up')
    axes.set(xlabel='minutes', ylabel='MiB', ylim=(0.0, None), xlim=(0.0, None),
             title=f'{result["answered"]} images answered at {result["hz"]:.1f} Hz; '
             f'{result["slope_mib_per_hour"]:+.1f} MiB an hour: {result["verdict"]}')
    axes.legend(loc='lower right', frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    main()
