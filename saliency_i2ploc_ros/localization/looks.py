"""
What an answer looks like: the query, what the network marks in it, and the place that it found.

All three are pictures of one size and one camera, the network's own, so that whoever sees them
beside each other compares pixel with pixel. For RViz, Foxglove and `i2ploc scene`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.submaps import ROAD_AHEAD_M, ROAD_ASIDE_M
from ..encoders.config import ImageConfig, ModelConfig
from ..errors import InputError
from ..geometry.cameras import Camera, Panorama
from ..geometry.poses import apply, inverse, R_base_optical, yaw_of
from ..geometry.remapping import remap_between
from ..mapping.database import PlaceDatabase

Pixels = NDArray[np.uint8]

WIDTH = 640
SENSOR_HEIGHT_M = 1.6  # of the camera that a place is looked at with, above the road
NEAR_M, FAR_M = 3.0, 60.0  # ends of the colours of range
ROAD_POINT_M, POINT_M = 1.2, 0.8  # a point of the road, or of what stands on it, covers so much
DISCS = (1, 3, 5, 9, 17)  # its widths in pixels
NEAREST_M = 1.0  # of the camera: nothing nearer is drawn
ROAD_M = 0.3  # below this is road
# The points kept of one place are few; those of its neighbours show the same walls.
NEIGHBOURS_M, NEIGHBOURS_MOST = 30.0, 12
STRONGEST = 2.5  # saliency, over the picture's mean, at one end of the colours; its inverse: other
BELOW, AS_MEAN, ABOVE = (59, 76, 192), (221, 221, 221), (180, 4, 38)
NOTHING = (24, 27, 33)  # where the map has no points
# For a model that takes images as they are, whatever their camera: the full circle.
CIRCLE = Panorama(WIDTH, WIDTH // 5, 30.0, -30.0)


def looking_camera(config: ModelConfig) -> Camera:
    """Return the model's own camera, enlarged to `WIDTH`; the full circle if it has none."""
    camera = config.image.camera
    if camera is None:
        return CIRCLE
    return camera.resized(WIDTH, max(1, round(WIDTH * camera.height / camera.width)))


def query_look(image: Pixels, camera: Camera | None, config: ModelConfig) -> Pixels:
    """
    Return an image (H, W, 3) RGB as the network's camera sees it, (h, w, 3), black where unseen.

    camera: of the image; None for a model that takes images as they are.
    """
    target = looking_camera(config)
    if config.image.camera is None:
        return np.asarray(cv2.resize(image, (target.width, target.height),
                                     interpolation=cv2.INTER_AREA), np.uint8)
    if camera is None:
        raise InputError('the model sees through a virtual camera: the image needs its '
                         'calibration')
    remap = remap_between(camera, target)
    return np.asarray(remap.sampled(remap.shrunk(image)), np.uint8)


def saliency_look(look: Pixels, saliency: NDArray[np.floating], config: ModelConfig) -> Pixels:
    """
    Return a query's look (h, w, 3) in grey under the network's saliency (N,) of its patches.

    Red is above the picture's mean, blue below, the ends are 2.5 times and 1 / 2.5 of it. Patches
    stay squares: that is the resolution that there is. A model without is an InputError.
    """
    image = config.image
    if not config.has_saliency or not isinstance(image, ImageConfig):
        raise InputError(f'the model {config.name!r} has no attention that says what it looks '
                         'at: there is no saliency to show')
    of_patches = np.asarray(saliency, np.float64)
    relative = of_patches.reshape(image.grid) / max(float(of_patches.mean()), 1e-12)
    level = np.log(np.maximum(relative, 1e-6)) / np.log(STRONGEST)
    ends, stops = np.array([BELOW, AS_MEAN, ABOVE], np.float64), [-1.0, 0.0, 1.0]
    colour = np.stack([np.interp(level, stops, ends[:, c]) for c in range(3)], -1)
    wide = colour.repeat(image.patch, 0).repeat(image.patch, 1)[:image.height, :image.width]
    height, width = look.shape[:2]
    heat = cv2.resize(wide, (width, height), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(look, cv2.COLOR_RGB2GRAY)[:, :, None]
    return np.asarray(0.5 * grey + 0.5 * heat, np.uint8)


def place_look(database: PlaceDatabase, place: int, config: ModelConfig) -> Pixels:
    """
    Return the map as the network's camera would see it from a place, (h, w, 3) RGB.

    The road is grey; what stands on it is coloured by range, near red and far blue, on a
    logarithm from 3 to 60 m. What is hidden is not seen, and the map keeps only some of its
    points, so that thin things and far walls have holes.
    """
    whole = looking_camera(config)
    # Discs cost by their area, and there is no more to see at twice the size.
    camera = whole.resized(whole.width // 2, whole.height // 2)
    of_vehicle = points_about(database, place)
    height = of_vehicle[:, 2] - road_height(of_vehicle)
    points = of_vehicle.copy()
    points[:, 2] = height - SENSOR_HEIGHT_M
    points = points @ R_base_optical
    distance = np.linalg.norm(points, axis=1)
    uv, inside = camera.project(points)
    seen = inside & (distance > NEAREST_M) & (distance < FAR_M)
    road = height < ROAD_M
    below, above = (nearest_of(uv[rows], distance[rows].astype(np.float32), camera, size)
                    for rows, size in ((seen & road, ROAD_POINT_M), (seen & ~road, POINT_M)))
    colour = np.empty((camera.height, camera.width, 3), np.uint8)
    colour[:] = NOTHING
    is_road = np.isfinite(below) & (below <= above)
    colour[is_road] = (150.0 - 90.0 * _share(below[is_road]))[:, None]
    standing = np.isfinite(above) & ~is_road
    shade = np.asarray(np.rint(255.0 * (1.0 - _share(above[standing]))), np.uint8)
    colour[standing] = _turbo(shade)
    return np.asarray(cv2.resize(colour, (whole.width, whole.height),
                                 interpolation=cv2.INTER_NEAREST), np.uint8)


def nearest_of(
    uv: NDArray[np.float64], distance: NDArray[np.float32], camera: Camera, size_m: float,
) -> NDArray[np.float32]:
    """
    Return the range (h, w) of the nearest of the points that cover each pixel; inf for none.

    uv: (n, 2) inside the image. A point covers a disc of `size_m`, drawn 1, 3, 5, 9 or 17 pixels
    wide.
    """
    height, width = camera.height, camera.width
    at = np.clip(np.rint(uv).astype(np.int64), 0, [width - 1, height - 1])
    index = at[:, 1] * width + at[:, 0]
    level = np.digitize(size_m / camera.pixel_angle / distance, DISCS[1:])
    nearest = np.full((height, width), np.inf, np.float32)
    for i, size in enumerate(DISCS):
        rows = level == i
        if rows.any():
            flat = np.full(height * width, np.inf, np.float32)
            np.minimum.at(flat, index[rows], distance[rows])
            shape = cv2.MORPH_ELLIPSE if size > 3 else cv2.MORPH_RECT  # that of 3 is a cross
            disc = cv2.getStructuringElement(shape, (size, size))
            # Erosion is the least of all under the disc: each point spreads over its own.
            np.minimum(nearest, cv2.erode(
                flat.reshape(height, width), disc, borderType=cv2.BORDER_CONSTANT,
                borderValue=float('inf')), out=nearest)
    return nearest


def _share(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far along the colours ranges are, 0 (near) to 1 (far)."""
    return np.asarray(np.log(np.clip(distance, NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M))


def _turbo(shade: NDArray[np.uint8]) -> Pixels:
    """Return the colours (n, 3) RGB of shades (n,)."""
    bgr = cv2.applyColorMap(shade[:, None], cv2.COLORMAP_TURBO)[:, 0]
    return np.asarray(bgr[:, ::-1], np.uint8)


def points_about(database: PlaceDatabase, place: int) -> NDArray[np.float64]:
    """
    Return the map's points (m, 3) about a place, in the frame of its vehicle.

    Its own, and those of the nearest places that look about the same way.
    """
    T = database.T_map_base
    apart = np.linalg.norm(T[:, :2, 3] - T[place, :2, 3], axis=1)
    # The other view of the same submap has the same points.
    alike = np.cos(yaw_of(T) - yaw_of(T[place])) > 0.0
    near = np.flatnonzero((apart <= NEIGHBOURS_M) & alike)
    chosen = near[np.argsort(apart[near], kind='stable')][:NEIGHBOURS_MOST]
    back = inverse(T[place])
    return np.concatenate([apply(back @ T[i], database.cloud(int(i))) for i in chosen])


def map_points(database: PlaceDatabase, place: int, step: int = 1) -> NDArray[np.float64]:
    """Return every `step`th point of a place: x, y, z in the map, height above the road (n, 4)."""
    cloud = database.cloud(place)
    height = cloud[::step, 2] - road_height(cloud)
    return np.column_stack([apply(database.T_map_base[place], cloud[::step]), height])


def road_height(points: NDArray[np.floating]) -> float:
    """
    Return the height of the road in base_link, metres, from points (n, 3) in its frame.

    The median of what lies in the vehicle's own way; 0 where nothing does. (base_link stands on
    the road in the city, and at the IMU, a metre above it, in KITTI.)
    """
    way = (np.abs(points[:, 0]) < ROAD_AHEAD_M) & (np.abs(points[:, 1]) < ROAD_ASIDE_M)
    return float(np.median(points[way, 2])) if way.any() else 0.0
