# ROS 2 Jazzy, the package, and PyTorch with CUDA. PyTorch's wheel brings CUDA and cuDNN; the host
# needs NVIDIA's driver and container toolkit only.
#
#   docker build -t i2ploc .
#   docker run --rm -it --gpus all --network host --ipc host -v $HOME/maps:/maps i2ploc \
#       ros2 launch saliency_i2ploc_ros localization.launch.py database:=/maps/town camera:=/front
#
# Without CUDA, some gigabytes less:
#   docker build --build-arg \
#       TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu' -t i2ploc .

FROM ros:jazzy-ros-base AS base
ARG TORCH=torch==2.13.0
ENV VIRTUAL_ENV=/opt/i2ploc PATH=/opt/i2ploc/bin:$PATH
WORKDIR /ws
COPY package.xml src/saliency_i2ploc_ros/
# From Ubuntu and ROS all but what has to be newer: that comes from PyPI, below.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rosdep update --rosdistro jazzy \
    && rosdep install -y --from-paths src --ignore-src --dependency-types exec --skip-keys \
       'python3-faiss python3-opencv python3-plyfile-pip python3-pydantic python3-rich \
        python3-rosbags-pip python3-tensorboard-pip python3-torch python3-typer' \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages "$VIRTUAL_ENV"
# NumPy 1 is what cv_bridge and the rest of Jazzy were built for.
RUN pip install --no-cache-dir 'numpy<2' 'setuptools<80' $TORCH
COPY setup.py README.md src/saliency_i2ploc_ros/
RUN python3 -c "import runpy, setuptools; \
        setuptools.setup = lambda **given: print(*given['install_requires'], sep='\n'); \
        runpy.run_path('src/saliency_i2ploc_ros/setup.py')" > /tmp/requirements.txt \
    && pip install --no-cache-dir 'numpy<2' 'setuptools<80' -r /tmp/requirements.txt

FROM base AS build
COPY . src/saliency_i2ploc_ros
RUN . /opt/ros/jazzy/setup.sh && colcon build --packages-select saliency_i2ploc_ros

FROM base
COPY --from=build /ws/install install
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ubuntu
ENTRYPOINT ["bash", "-c", "source /opt/ros/jazzy/setup.bash && source /ws/install/setup.bash && exec \"$@\"", "--"]
CMD ["bash"]
