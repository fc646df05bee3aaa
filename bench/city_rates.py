"""
How fast the procedural city renders, on one core: images of 96 x 320, scans of 64 x 512.

    OMP_NUM_THREADS=1 python bench/city_rates.py

Processor time, without what changes from frame to frame of moving cars and people, which is given
by itself; the fastest and the median of all frames of a short drive.
"""

import time

import numpy as np

from saliency_i2ploc_ros.data.city.generate import city_camera, T_BASE_CAMERA, T_BASE_LIDAR
from saliency_i2ploc_ros.data.city.lidar import scan
from saliency_i2ploc_ros.data.city.render import render
from saliency_i2ploc_ros.data.city.traversal import make_traversal
from saliency_i2ploc_ros.data.city.world import City

SEED, FRAMES = 1001, 60


def main() -> None:
    """Print a line for each part."""
    started = time.process_time()
    city = City(SEED, 5)
    trip = make_traversal(city, 0, 400.0)
    print(f'city of 5 x 5 blocks and one traversal: {time.process_time() - started:.1f} s')
    camera, rng = city_camera((96, 320)), np.random.default_rng(0)
    spent: dict[str, list[float]] = {'movers': [], 'images': [], 'scans': []}
    for frame in np.linspace(0, len(trip.stamps_ns) - 1, FRAMES).astype(int):
        pose = trip.T_map_base[frame]
        t0 = time.process_time()
        scene = trip.scene(frame)
        t1 = time.process_time()
        render(scene, pose @ T_BASE_CAMERA, camera, trip.weather, city.styles, rng)
        t2 = time.process_time()
        scan(scene, pose @ T_BASE_LIDAR, city.styles, rng)
        t3 = time.process_time()
        for name, seconds in zip(spent, (t1 - t0, t2 - t1, t3 - t2), strict=True):
            spent[name].append(seconds)
    for name, seconds in spent.items():
        print(f'{name}: median {1e3 * np.median(seconds):.1f} ms ({1 / np.median(seconds):.0f}/s),'
              f' fastest {1e3 * min(seconds):.1f} ms')


if __name__ == '__main__':
    main()
