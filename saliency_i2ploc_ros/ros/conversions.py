"""
Between ROS messages and the arrays of the core: images, clouds, poses, stamps, fixes.

The one module where cv_bridge, sensor_msgs_py and tf_transformations are used: where they import
and work, and for the messages that they read rightly. Else the same is done without them, equal
to the pixel; none of them is on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
import importlib.util
from pathlib import Path
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


def working(module: str, probe: Callable[[Any], Any]) -> Any | None:
    """Return a ROS module whose `probe` came out true, or None."""
    try:
        found = importlib.import_module(module)
        return found if probe(found) else None
    except Exception:  # Absent, or of another release than what it is installed beside.
        return None


def loadable(package: str) -> bool:
    """
    Tell whether the compiled modules of a package are for this NumPy.

    One that was built for NumPy 1 only prints when NumPy 2 imports it, and ends the process with
    its first array (cv_bridge of Humble and Jazzy, vision_opencv#535). So it is not even imported,
    but searched for the name of NumPy 2's core, which headers of NumPy 2 leave in it.
    """
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    libraries = [path for folder in folders for path in Path(folder).rglob('*.so')]
    return np.__version__.startswith('1.') or all(
        b'numpy._core' in path.read_bytes() for path in libraries)


def _converts(cv_bridge: Any) -> bool:
    probe = Image(height=1, width=1, step=1, encoding='mono8', data=b'\x07')
    return cv_bridge.CvBridge().imgmsg_to_cv2(probe, 'rgb8').tolist() == [[[7, 7, 7]]]


_cv_bridge = working('cv_bridge', _converts) if loadable('cv_bridge') else None
CV_BRIDGE = None if _cv_bridge is None else _cv_bridge.CvBridge()
POINT_CLOUD2 = working('sensor_msgs_py.point_cloud2',
                       lambda found: found.create_cloud_xyz32(Header(), [(0.0, 0.0, 0.0)]))
TF_TRANSFORMATIONS = working('tf_transformations',
                             lambda found: found.quaternion_from_matrix(np.eye(4))[3] == 1.0)

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
_COLOURED = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'rgb16', 'bgr16', 'rgba16', 'bgra16')


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
    # With padding that is no whole number of pixels cv_bridge skews the image.
    if CV_BRIDGE is not None and step * width % row == 0:
        try:
            return np.ascontiguousarray(CV_BRIDGE.imgmsg_to_cv2(message, 'rgb8'))
        except Exception:  # An encoding or byte order that this release does not know.
            pass
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)[:, :row]
    order = '>' if message.is_bigendian else '<'
    pixels = np.ascontiguousarray(rows).view(np.dtype(dtype).newbyteorder(order)).astype(dtype)
    pixels = pixels.reshape(height, width, channels) if channels > 1 else pixels
    try:
        rgb = pixels if code is None else cv2.cvtColor(pixels, code)
    except cv2.error as error:  # A Bayer or YUV image of one pixel's width, say.
        raise InputError(f'a {width} x {height} image cannot be {message.encoding}') from error
    return _eight_bits(rgb)


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    wide = pixels.dtype == np.uint16
    return cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0) if wide else pixels


def compressed_to_rgb(message: CompressedImage) -> NDArray[np.uint8]:
    """
    Return a CompressedImage (JPEG, PNG, WebP...) as (H, W, 3) uint8 RGB; else an InputError.

    Read as image_transport does. The format may say what was compressed: 'rgb8; jpeg compressed
    bgr8'. Then OpenCV's decoder gives BGR; but RGB where colours were not compressed as bgr
    ('rgb8; png compressed rgb8'), and the mosaic as grey where that was compressed. The EXIF
    orientation is ignored: the camera's calibration is that of the sensor.
    """
    source, _, compressed = (part.strip() for part in message.format.partition(';'))
    mosaic = source.startswith('bayer_') and source in ENCODINGS
    flags = cv2.IMREAD_GRAYSCALE if mosaic else cv2.IMREAD_COLOR
    flags |= cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, flags) if len(data) else None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16) \
            or 'compressedDepth' in message.format:
        raise InputError(f'the compressed image ({message.format!r}, {len(data)} bytes) cannot be '
                         'decoded: JPEG or PNG is needed')
    if mosaic:
        return _eight_bits(cv2.cvtColor(pixels, ENCODINGS[source][2]))
    if source in _COLOURED and compressed and 'compressed bgr' not in compressed:
        return _eight_bits(pixels)
    return _eight_bits(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def rgb_to_image(rgb: NDArray[np.uint8], header: Header) -> Image:
    """Return (H, W, 3) uint8 RGB as an Image of encoding rgb8."""
    height, width = rgb.shape[:2]
    message = Image(header=header, height=height, width=width, encoding='rgb8', step=3 * width)
    message.data = np.ascontiguousarray(rgb).tobytes()
    return message


def cloud_to_message(
    points: NDArray[np.floating[Any]], header: Header,
    intensity: NDArray[np.floating[Any]] | None = None,
) -> PointCloud2:
    """Return points (n, 3) as a PointCloud2 of x, y, z and, if given, intensity (n,), float32."""
    columns = np.asarray(points).reshape(-1, 3)
    names = ['x', 'y', 'z']
    if intensity is not None:
        columns = np.column_stack([columns, np.asarray(intensity).reshape(-1, 1)])
        names.append('intensity')
    values = np.ascontiguousarray(columns, '<f4')
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
              for i, name in enumerate(names)]
    if POINT_CLOUD2 is not None:
        return POINT_CLOUD2.create_cloud(header, fields, values)
    step = 4 * len(names)
    message = PointCloud2(header=header, height=1, width=len(values), is_dense=False,
                          is_bigendian=False, fields=fields, point_step=step,
                          row_step=step * len(values))
    message.data = values.tobytes()
    return message


def message_to_cloud(message: PointCloud2) -> NDArray[np.float32]:
    """Return the finite points (n, 3) of a PointCloud2, which needs float x, y, z; InputError."""
    kinds = {PointField.FLOAT32: 'f4', PointField.FLOAT64: 'f8'}
    order = '>' if message.is_bigendian else '<'
    fields = {field.name: (field.offset, order + kinds[field.datatype])
              for field in message.fields if field.name in 'xyz' and field.datatype in kinds}
    size, used = message.height * message.row_step, message.width * message.point_step
    if not message.height * message.width:
        return np.empty((0, 3), np.float32)
    ends = [offset + int(kind[-1]) for offset, kind in fields.values()]
    if len(ends) != 3 or max(ends) > message.point_step or message.row_step < used \
            or len(message.data) < size:
        raise InputError('the point cloud is malformed: float x, y, z and whole rows are needed')
    columns = None
    # sensor_msgs_py overlooks the padding of rows, and swaps the bytes in the message itself.
    if POINT_CLOUD2 is not None and message.row_step == used and not message.is_bigendian:
        try:
            columns = POINT_CLOUD2.read_points(message, ('x', 'y', 'z'))
        except Exception:  # Another field that it refuses, of count 0 say.
            pass
    if columns is None:
        layout = np.dtype({'names': list(fields), 'offsets': [o for o, _ in fields.values()],
                           'formats': [kind for _, kind in fields.values()],
                           'itemsize': message.point_step})
        rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, -1)
        columns = np.ascontiguousarray(rows[:, :used]).reshape(-1).view(layout)
    points = np.stack([columns[name] for name in 'xyz'], -1).reshape(-1, 3).astype(np.float32)
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
