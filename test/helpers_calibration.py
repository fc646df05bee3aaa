"""A calibration of round numbers."""

from saliency_i2ploc_ros.localization.calibration import Calibration, Logistic, Power

KIND = {'encoder_hash': 'e', 'preprocessing_hash': 'p', 'map_identity': '', 'headings': 2,
        'smooth_m': 0.0, 'spacing_m': 5.0}


def calibration(**changes):
    law = Power(scale=2.0, floor=1.0, power=1.0, growth=0.0)
    values = {
        **KIND, 'top_k': 20, 'temperature': 0.03, 'merge_radius_m': 20.0, 'radius_m': 20.0,
        'right': Logistic(weights=(1.0, 0.0, 0.0, 0.0, 0.0), bias=0.0),
        'inside': Logistic(weights=(0.0, 1.0, 0.0, 0.0, 0.0), bias=0.0), 'along_m': law,
        'across_m': law, 'heading_rad': law, 'nothing': 0.1, 'provenance': {'drives': ['a']}}
    return Calibration(**{**values, **changes})
