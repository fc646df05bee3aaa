"""Semantic classes of the procedural city: Cityscapes ids, as KITTI-360 uses them."""

NAMES = {
    0: 'unlabeled', 7: 'road', 8: 'sidewalk', 11: 'building', 13: 'fence', 17: 'pole',
    20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 26: 'car',
    27: 'truck', 39: 'box',
}

# Parked cars are of class 26 too, as in KITTI-360; what stands or moves is not known from a label.
DYNAMIC = (24, 26, 27)

COLOURS = {
    0: (0, 0, 0), 7: (128, 64, 128), 8: (244, 35, 232), 11: (70, 70, 70), 13: (190, 153, 153),
    17: (153, 153, 153), 20: (220, 220, 0), 21: (107, 142, 35), 22: (152, 251, 152),
    23: (70, 130, 180), 24: (220, 20, 60), 26: (0, 0, 142), 27: (0, 0, 70), 39: (102, 80, 60),
}
