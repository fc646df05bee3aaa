"""The package's metadata, for pip and for ament_python alike."""

from pathlib import Path

from setuptools import find_packages, setup

package_name = 'saliency_i2ploc_ros'
# colcon's symlink build runs a link to this file from a folder that has not all the others.
HERE = Path(__file__).resolve().parent


def share(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, laid out the same below share/<package>."""
    files: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob('*')):
        if path.is_file() and '__pycache__' not in path.parts:
            inside = path.relative_to(HERE)
            files.setdefault(f'share/{package_name}/{inside.parent}', []).append(str(inside))
    return list(files.items())


setup(
    name=package_name,
    version='0.1.0',
    description='Camera image to global fix in a LiDAR map (SaliencyI2PLoc) for ROS 2',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='saliency_i2ploc_ros maintainers',
    maintainer='saliency_i2ploc_ros maintainers',
    maintainer_email='maintainers@saliency-i2ploc-ros.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[package_name, f'{package_name}.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{package_name}']),
        (f'share/{package_name}', ['package.xml', 'LICENSE']),
        *share('launch'), *share('config'), *share('models'),
    ],
    install_requires=[
        'torch>=2.2', 'numpy>=1.24', 'scipy>=1.10', 'faiss-cpu>=1.7.4', 'safetensors>=0.4',
        'pydantic>=2', 'typer>=0.9', 'rich>=12', 'pyyaml>=5.4', 'opencv-python-headless>=4.5',
        'rosbags>=0.10', 'matplotlib>=3.5', 'tensorboard>=2.10', 'laspy[lazrs]>=2.3',
        'plyfile>=1.0', 'pypcd4>=1.0', 'embreex>=2.17', 'transforms3d>=0.4',
    ],
    extras_require={
        'test': ['pytest>=7.4', 'pytest-timeout', 'hypothesis'],
        'hub': ['huggingface_hub>=0.20'],
        'export': ['torch>=2.9', 'onnx>=1.17', 'onnxscript>=0.5', 'onnxruntime>=1.20'],
    },
    zip_safe=False,
    entry_points={'console_scripts': [
        'i2ploc = saliency_i2ploc_ros.cli.main:main',
        'localizer = saliency_i2ploc_ros.ros.localizer_node:main',
        'replay = saliency_i2ploc_ros.ros.replay_node:main',
        'evaluator = saliency_i2ploc_ros.ros.evaluator_node:main',
        'check = saliency_i2ploc_ros.ros.check_node:main',
    ]},
)
