"""Images to RGB and back, against arithmetic by hand and, where importable, cv_bridge."""

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.ros import conversions
from saliency_i2ploc_ros.ros.conversions import (
    compressed_to_rgb,
    header_at,
    image_to_rgb,
    rgb_to_image,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
HEADER = header_at(5, 'camera')


def message(encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> Image:
    """Return (H, W[, C]) pixels as an Image whose rows end in `padding` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<')).reshape(height, -1)
    rows = rows.view(np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    return Image(header=HEADER, height=height, width=width, encoding=encoding,
                 step=rows.shape[1], is_bigendian=int(big), data=rows.tobytes())


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize(('encoding', 'order'), [
    ('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 2]), ('bgra8', [2, 1, 0, 0])])
def test_colour_orders(ros_libraries, encoding, order, padding):
    np.testing.assert_array_equal(image_to_rgb(message(encoding, RGB[:, :, order], padding)), RGB)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 6])
def test_sixteen_bits_are_scaled_and_rounded(ros_libraries, padding, big):
    grey = RNG.integers(0, 65536, (6, 8), np.uint16)
    expected = np.rint(grey.astype(np.float64) * 255.0 / 65535.0).astype(np.uint8)
    rgb = image_to_rgb(message('mono16', grey, padding, big))
    np.testing.assert_array_equal(rgb, np.repeat(expected[:, :, None], 3, 2))
    colour = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    expected = np.rint(colour.astype(np.float64) * 255.0 / 65535.0).astype(np.uint8)
    np.testing.assert_array_equal(image_to_rgb(message('rgb16', colour, padding, big)), expected)
    np.testing.assert_array_equal(
        image_to_rgb(message('bgr16', colour[:, :, ::-1], padding, big)), expected)


def test_grey(ros_libraries):
    grey = RGB[:, :, 0]
    for encoding in ('mono8', '8UC1'):
        rgb = image_to_rgb(message(encoding, grey, 3))
        np.testing.assert_array_equal(rgb, np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize(('encoding', 'places'), [
    ('bayer_rggb8', 'RGGB'), ('bayer_bggr8', 'BGGR'), ('bayer_gbrg8', 'GBRG'),
    ('bayer_grbg8', 'GRBG')])
def test_a_mosaic_of_one_colour_has_that_colour(ros_libraries, encoding, places):
    """Wrong patterns swap red and blue, or mix green in: a plain colour shows it everywhere."""
    colour = {'R': 200, 'G': 120, 'B': 30}
    cell = np.array([colour[c] for c in places], np.uint8).reshape(2, 2)
    rgb = image_to_rgb(message(encoding, np.tile(cell, (4, 5)), 2))
    np.testing.assert_array_equal(rgb, np.broadcast_to([200, 120, 30], (8, 10, 3)))


@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV')])
def test_yuv(ros_libraries, encoding, order):
    """Of BT.601 in studio range: Y 81, U 90, V 240 is pure red."""
    value = {'Y': 81, 'U': 90, 'V': 240}
    pair = np.array([value[c] for c in order], np.uint8).reshape(1, 2, 2)
    rgb = image_to_rgb(message(encoding, np.tile(pair, (4, 3, 1)), 4))
    assert rgb.shape == (4, 6, 3)
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int) - [255, 0, 0], 0, atol=2)


@st.composite
def images(draw) -> Image:
    """Return noise of any size, encoding, byte order and padding, in bytes, of its rows."""
    encoding = draw(st.sampled_from(sorted(conversions.ENCODINGS)))
    dtype, channels, _ = conversions.ENCODINGS[encoding]
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    width += width % 2 if channels == 2 else 0
    pixels = np.random.default_rng(draw(st.integers(0, 999))).integers(
        0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)
    return message(encoding, pixels, draw(st.integers(0, 9)), draw(st.booleans()))


def without_libraries(image: Image) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversions, 'CV_BRIDGE', None)
        return image_to_rgb(image)


@settings(max_examples=60, deadline=None)
@given(images())
def test_neither_padding_nor_byte_order_shows(image):
    dtype, channels, _ = conversions.ENCODINGS[image.encoding]
    order = np.dtype(dtype).newbyteorder('>' if image.is_bigendian else '<')
    used = image.width * channels * order.itemsize
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)[:, :used]
    pixels = np.ascontiguousarray(rows).view(order).reshape(image.height, image.width, channels)
    rgb = without_libraries(image)
    assert rgb.shape == (image.height, image.width, 3) and rgb.dtype == np.uint8
    np.testing.assert_array_equal(
        rgb, without_libraries(message(image.encoding, pixels.astype(dtype))))


@pytest.mark.skipif(conversions.CV_BRIDGE is None, reason='cv_bridge is not here')
@settings(max_examples=200, deadline=None)
@given(images())
def test_cv_bridge_and_the_same_without_it_agree_to_the_pixel(image):
    np.testing.assert_array_equal(image_to_rgb(image), without_libraries(image))


@pytest.mark.skipif(conversions.CV_BRIDGE is None, reason='cv_bridge is not here')
@pytest.mark.parametrize('encoding', sorted(
    set(conversions.ENCODINGS) - {'8UC1', '16UC1', 'uyvy', 'yuyv'}))
def test_cv_bridge_itself_gives_what_we_give(encoding):
    """Not by way of image_to_rgb, which falls back where cv_bridge refuses an image."""
    dtype, channels, _ = conversions.ENCODINGS[encoding]
    pixels = RNG.integers(0, np.iinfo(dtype).max, (6, 8, channels), dtype, endpoint=True)
    image = message(encoding, pixels, 2 * channels * np.dtype(dtype).itemsize)
    np.testing.assert_array_equal(
        conversions.CV_BRIDGE.imgmsg_to_cv2(image, 'rgb8'), without_libraries(image))


@pytest.mark.parametrize(('content', 'numpy', 'may'), [
    (b'numpy.core._multiarray_umath', '2.2.6', False),
    (b'numpy.core._multiarray_umath', '1.26.4', True),
    (b'numpy._core._multiarray_umath', '2.2.6', True)])
def test_a_library_built_for_numpy_1_is_not_loaded_by_numpy_2(
        tmp_path, monkeypatch, content, numpy, may):
    (tmp_path / 'some_bridge' / 'boost').mkdir(parents=True)
    (tmp_path / 'some_bridge' / '__init__.py').write_text('raise SystemExit')
    (tmp_path / 'some_bridge' / 'boost' / 'some.so').write_bytes(b'\0' + content + b'\0')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(np, '__version__', numpy)
    assert conversions.loadable('some_bridge') is may


@pytest.mark.parametrize(('change', 'part'), [
    ({'encoding': 'nv21'}, "'nv21', which is not one of 16UC1"), ({'step': 23}, 'malformed'),
    ({'height': 7}, 'malformed'), ({'width': 0}, 'malformed'), ({'data': b''}, 'malformed')])
def test_malformed_images_are_refused(ros_libraries, change, part):
    broken = rgb_to_image(RGB, HEADER)
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(InputError, match=part):
        image_to_rgb(broken)


def test_there_and_back(ros_libraries):
    out = rgb_to_image(RGB[:, ::2], HEADER)
    assert (out.height, out.width, out.step) == (6, 4, 12) and out.header == HEADER
    np.testing.assert_array_equal(image_to_rgb(out), RGB[:, ::2])


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


@pytest.mark.parametrize('kind', [
    'png', 'rgb8; png compressed bgr8', 'bgr8; png compressed bgr8', 'rgba8; png compressed bgr8',
    'rgb16; png compressed bgr8', 'mono8; png compressed ', 'yuv422; png compressed'])
def test_compressed(kind):
    """OpenCV's files hold BGR, or what image_transport says it compressed as bgr."""
    data = encoded(RGB[:, :, ::-1], '.png')
    np.testing.assert_array_equal(compressed_to_rgb(CompressedImage(format=kind, data=data)), RGB)


@pytest.mark.parametrize('kind', ['rgb8; png compressed rgb8', 'bgr8; png compressed '])
def test_colours_that_were_compressed_as_they_were(kind):
    """As image_transport's subscriber takes them: the decoded channels are R, G, B."""
    image = CompressedImage(format=kind, data=encoded(RGB, '.png'))
    np.testing.assert_array_equal(compressed_to_rgb(image), RGB)


@pytest.mark.parametrize(('kind', 'source'), [
    ('.jpg', 'jpeg'), ('.jpg', 'rgb8; jpeg compressed bgr8'), ('.webp', 'webp')])
def test_lossy_images(kind, source):
    smooth = np.full((16, 16, 3), (200, 120, 30), np.uint8)
    image = CompressedImage(format=source, data=encoded(smooth[:, :, ::-1], kind))
    np.testing.assert_allclose(compressed_to_rgb(image).astype(int) - smooth, 0, atol=4)


@pytest.mark.parametrize('kind', ['png', 'mono8; png compressed ', 'mono8; png compressed mono8'])
def test_compressed_grey(kind):
    grey = CompressedImage(format=kind, data=encoded(RGB[:, :, 0], '.png'))
    np.testing.assert_array_equal(compressed_to_rgb(grey), np.repeat(RGB[:, :, :1], 3, 2))


def test_compressed_sixteen_bits_are_as_raw_ones():
    grey = RNG.integers(0, 65536, (6, 8), np.uint16)
    colour = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    for pixels, kind in ((grey, 'mono16'), (grey, 'bayer_gbrg16'), (colour, 'bgr16')):
        image = CompressedImage(format=f'{kind}; png compressed {kind}',
                                data=encoded(pixels, '.png'))
        np.testing.assert_array_equal(
            compressed_to_rgb(image), image_to_rgb(message(kind, pixels)))


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_compressed_mosaic_is_as_a_raw_one(pattern):
    mosaic = RGB[:, :, 0]
    image = CompressedImage(format=f'bayer_{pattern}8; png compressed ',
                            data=encoded(mosaic, '.png'))
    np.testing.assert_array_equal(
        compressed_to_rgb(image), image_to_rgb(message(f'bayer_{pattern}8', mosaic)))


@pytest.mark.parametrize('data', [b'', b'rubbish', encoded(RGB, '.png')[:20]])
def test_a_broken_compressed_image_is_refused(data):
    with pytest.raises(InputError, match='cannot be decoded'):
        compressed_to_rgb(CompressedImage(format='png', data=data))
