"""
Between ROS messages and the arrays of the core: images, clouds, poses, stamps, fixes.

The one module where cv_bridge, sensor_msgs_py and tf_transformations are used: where they import
and work. Where they do not (cv_bridge's and transforms3d's binaries of Humble and Jazzy fail under
NumPy 2; none of them is on PyPI) the same is done without them, equal to the pixel.
"""

from __future__ import annotations

import importlib
from typing import Any

import cv2
from geometry_msgs.msg import Point, Pose, PoseWithCovarianceStamped, Quaternion
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from ..errors import InputError
from ..geometry.poses import from_quaternion, to_quaternion
from ..localization.fix import Fix


def optional(module: str, probe: str) -> Any | None:
    """Return a ROS module, or None where it is absent or cannot call its function `probe`."""
    try:
        found = importlib.import_module(module)
        getattr(found, probe)
    except Exception:  # A binary built for another NumPy raises more than ImportError.
        return None
    return found


def working_cv_bridge() -> Any | None:
    """Return a CvBridge that has just converted an image, or None."""
    try:
        bridge = importlib.import_module('cv_bridge').CvBridge()
        probe = Image(height=1, width=1, step=1, encoding='mono8', data=b'\x07')
        works = bridge.imgmsg_to_cv2(probe, 'rgb8').tolist() == [[[7, 7, 7]]]
    except Exception:  # Its compiled half raises AttributeError under NumPy 2 (vision_opencv#535).
        return None
    return bridge if works else None


CV_BRIDGE = working_cv_bridge()
POINT_CLOUD2 = optional('sensor_msgs_py.point_cloud2', 'create_cloud_xyz32')
TF_TRANSFORMATIONS = optional('tf_transformations', 'quaternion_from_matrix')

# What a pixel of an encoding consists of (type, channels) and OpenCV's code that makes it RGB.
# OpenCV names a Bayer pattern after its second row's second and third pixel, ROS after the first.
_COLOURS: dict[str, tuple[int, int | None]] = {
    'rgb': (3, None), 'bgr': (3, cv2.COLOR_BGR2RGB), 'rgba': (4, cv2.COLOR_RGBA2RGB),
    'bgra': (4, cv2.COLOR_BGRA2RGB), 'mono': (1, cv2.COLOR_GRAY2RGB),
    'bayer_rggb': (1, cv2.COLOR_BayerBG2RGB), 'bayer_bggr': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': (1, cv2.COLOR_BayerGR2RGB), 'bayer_grbg': (1, cv2.COLOR_BayerGB2RGB),
}
ENCODINGS: dict[str, tuple[type, int, int | None]] = {
    **{f'{name}8': (np.uint8, n, code) for name, (n, code) in _COLOURS.items()},
    **{f'{name}16': (np.uint16, n, code) for name, (n, code) in _COLOURS.items()},
    '8UC1': (np.uint8, 1, cv2.COLOR_GRAY2RGB), '16UC1': (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    'yuv422': (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY), 'uyvy': (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (np.uint8, 2, cv2.COLOR_YUV2RGB_YUYV),
    'yuyv': (np.uint8, 2, cv2.COLOR_YUV2RGB_YUYV),
}


def image_to_rgb(message: Image) -> NDArray[np.uint8]:
    """
    Return an Image as (H, W, 3) uint8 RGB; one that cannot be read is an InputError.

    Rows may be padded (`step`) and 16-bit pixels big-endian; 16 bits are scaled to 8 (255/65535).
    """
    if message.encoding not in ENCODINGS:
        raise InputError(f'the image has the encoding {message.encoding!r}, which is not one of '
                         f'{", ".join(sorted(ENCODINGS))}')
    dtype, channels, code = ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    row = width * channels * np.dtype(dtype).itemsize
    if height == 0 or width == 0 or step < row or len(message.data) < height * step:
        raise InputError(f'the image is malformed: {width} x {height} {message.encoding} in rows '
                         f'of {step} bytes (at least {row}), {len(message.data)} bytes in all')
    if CV_BRIDGE is not None:
        try:
            return np.ascontiguousarray(CV_BRIDGE.imgmsg_to_cv2(message, 'rgb8'))
        except Exception:  # An encoding that this release's cv_bridge does not know.
            pass
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)[:, :row]
    order = '>' if message.is_bigendian else '<'
    pixels = np.ascontiguousarray(rows).view(np.dtype(dtype).newbyteorder(order)).astype(dtype)
    pixels = pixels.reshape(height, width, channels) if channels > 1 else pixels
    try:
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
    except cv2.error as error:  # A Bayer or YUV image of one pixel's width, say.
        raise InputError(f'a {width} x {height} image cannot be {message.encoding}') from error
    return cv2.convertScaleAbs(rgb, alpha=255.0 / 65535.0) if rgb.dtype == np.uint16 else rgb


def compressed_to_rgb(message: CompressedImage) -> NDArray[np.uint8]:
    """
    Return a CompressedImage (JPEG, PNG, WebP...) as (H, W, 3) uint8 RGB; else an InputError.

    Decoding by OpenCV gives BGR whatever was encoded, but a Bayer mosaic, which comes as grey and
    is recognised by the format ('bayer_rggb8; png compressed'). The EXIF orientation is ignored:
    the camera's calibration is that of the sensor.
    """
    source = message.format.partition(';')[0].strip()
    mosaic = source if source.startswith('bayer_') and source in ENCODINGS else None
    flags = cv2.IMREAD_GRAYSCALE if mosaic else cv2.IMREAD_COLOR
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if pixels is None or 'compressedDepth' in message.format:
        raise InputError(f'the compressed image ({message.format!r}, {len(data)} bytes) cannot be '
                         'decoded: JPEG or PNG is needed')
    code = ENCODINGS[mosaic][2] if mosaic else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code)


def rgb_to_image(rgb: NDArray[np.uint8], header: Header) -> Image:
    """Return (H, W, 3) uint8 RGB as an Image of encoding rgb8."""
    height, width = rgb.shape[:2]
    message = Image(header=header, height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = np.ascontiguousarray(rgb).tobytes()
    return message


def cloud_to_message(points: NDArray[np.floating[Any]], header: Header) -> PointCloud2:
    """Return points (n, 3) as a PointCloud2 of x, y, z float32."""
    xyz = np.ascontiguousarray(points, '<f4').reshape(-1, 3)
    if POINT_CLOUD2 is not None:
        return POINT_CLOUD2.create_cloud_xyz32(header, xyz)
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
              for i, name in enumerate('xyz')]
    message = PointCloud2(header=header, height=1, width=len(xyz), is_dense=False,
                          is_bigendian=False, fields=fields, point_step=12, row_step=12 * len(xyz))
    message.data = xyz.tobytes()
    return message


def message_to_cloud(message: PointCloud2) -> NDArray[np.float32]:
    """Return the finite points (n, 3) of a PointCloud2, which needs float x, y, z; InputError."""
    kinds = {PointField.FLOAT32: 'f4', PointField.FLOAT64: 'f8'}
    order = '>' if message.is_bigendian else '<'
    offsets = {field.name: (field.offset, order + kinds[field.datatype])
               for field in message.fields if field.name in 'xyz' and field.datatype in kinds}
    size = message.height * message.row_step
    if len(offsets) != 3 or len(message.data) < size \
            or message.row_step < message.width * message.point_step:
        raise InputError('the point cloud is malformed: float x, y, z and whole rows are needed')
    if POINT_CLOUD2 is not None:
        columns = POINT_CLOUD2.read_points(message, ('x', 'y', 'z'))
        points = np.stack([columns[name] for name in 'xyz'], -1).reshape(-1, 3)
    else:
        layout = np.dtype({'names': list('xyz'), 'formats': [offsets[n][1] for n in 'xyz'],
                           'offsets': [offsets[n][0] for n in 'xyz'],
                           'itemsize': message.point_step})
        rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, -1)
        used = np.ascontiguousarray(rows[:, :message.width * message.point_step])
        columns = used.reshape(-1).view(layout)
        points = np.stack([columns[name] for name in 'xyz'], -1)
    points = points.astype(np.float32)
    return points[np.isfinite(points).all(axis=1)]


def pose_to_message(T: NDArray[np.float64]) -> Pose:
    """Return a pose (4, 4) as a geometry_msgs Pose, its quaternion of unit length with w >= 0."""
    if TF_TRANSFORMATIONS is not None:
        q = np.asarray(TF_TRANSFORMATIONS.quaternion_from_matrix(T))
        q = -q if q[3] < 0.0 else q
    else:
        q = to_quaternion(T)
    x, y, z, qx, qy, qz, qw = (float(v) for v in (*T[:3, 3], *q))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def message_to_pose(message: Pose) -> NDArray[np.float64]:
    """Return a Pose as (4, 4); not finite, or no unit quaternion: InputError."""
    p, o = message.position, message.orientation
    q, t = np.array([o.x, o.y, o.z, o.w]), np.array([p.x, p.y, p.z])
    if not np.isfinite([*q, *t]).all() or abs(np.linalg.norm(q) - 1.0) > 0.01:
        raise InputError(f'a pose with position {t.tolist()} and quaternion {q.tolist()} is none')
    if TF_TRANSFORMATIONS is not None:
        T = np.asarray(TF_TRANSFORMATIONS.quaternion_matrix(q), np.float64)
        T[:3, 3] = t
        return T
    return from_quaternion(q, t)


def header_at(stamp_ns: int, frame_id: str) -> Header:
    """Return a header with this stamp, to the nanosecond."""
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(int(stamp_ns), 10**9)
    return header


def stamp_of(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def fix_to_message(fix: Fix, stamp_ns: int, map_frame: str) -> PoseWithCovarianceStamped:
    """Return a fix as the message of ~/fix, stamped with its image's stamp."""
    message = PoseWithCovarianceStamped(header=header_at(stamp_ns, map_frame))
    message.pose.pose = pose_to_message(fix.T_map_base)
    message.pose.covariance = np.asarray(fix.covariance, np.float64).reshape(36)
    return message


def fix_to_initialpose(fix: Fix, stamp_ns: int, map_frame: str) -> PoseWithCovarianceStamped:
    """
    Return a fix as nav2 accepts an initial pose (navigation2#5611, #6234).

    Only the covariance's diagonal, non-negative and below 1e9.
    """
    message = fix_to_message(fix, stamp_ns, map_frame)
    diagonal = np.clip(np.diag(fix.covariance), 0.0, 9e8)
    message.pose.covariance = np.diag(diagonal).reshape(36)
    return message
