"""What killed processes leave in shared memory, and that a node starts in spite of it."""

import struct

from helpers_ros import new_domain, Process
import pytest

from saliency_i2ploc_ros.ros import shared_memory
from saliency_i2ploc_ros.ros.shared_memory import remove_half_made_ports, SHARED_MEMORY

SIZE = 52400


def port(path, word):
    """Write a port as Fast DDS's, whose first word tells how far its maker came; None: empty."""
    path.write_bytes(b'' if word is None else struct.pack('=I', word) + bytes(SIZE - 4))
    return path


def test_only_ports_that_stay_half_made_are_removed(tmp_path, monkeypatch):
    half_made = {port(tmp_path / 'fastrtps_port7000', None), port(tmp_path / 'fastrtps_port1', 0),
                 port(tmp_path / 'fastdds_port7411', 1)}
    stay = {port(tmp_path / 'fastrtps_port7001', 2), port(tmp_path / 'else', None),
            port(tmp_path / 'sem.fastrtps_port7_mutex', 0),
            port(tmp_path / 'fastrtps_8079cacd587e527d', 0),
            # Of these Fast DDS tells whether the reader lives.
            port(tmp_path / 'fastrtps_port7002', 1), port(tmp_path / 'fastrtps_port7002_el', None)}
    made, anew = port(tmp_path / 'fastrtps_port8', 1), port(tmp_path / 'fastrtps_port9', 1)

    def sleep(seconds):  # meanwhile one is completed, one made again, and one begun
        port(made, 2)
        port(tmp_path / 'again', 1).rename(anew)
        port(tmp_path / 'fastrtps_port10', 1)

    monkeypatch.setattr(shared_memory.time, 'sleep', sleep)
    said = remove_half_made_ports(tmp_path)
    assert set(tmp_path.iterdir()) == stay | {made, anew, tmp_path / 'fastrtps_port10'}
    assert len(said) == 3 and all(
        any(line.startswith(f'removed: {path} ') for line in said) for path in half_made)
    assert remove_half_made_ports(tmp_path / 'nowhere') == []


def test_a_port_that_cannot_be_removed_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'PATIENCE_S', 0.0)
    path = port(tmp_path / 'fastrtps_port7000', 1)

    def unlink(self, missing_ok):
        raise PermissionError

    monkeypatch.setattr(shared_memory.Path, 'unlink', unlink)
    said, = remove_half_made_ports(tmp_path)
    assert said.startswith(f'{path} is of') and 'ROS_DOMAIN_ID' in said


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason='shared memory is no folder here')
def test_a_node_starts_where_another_was_killed_while_it_made_its_port(tmp_path):
    domain = new_domain()
    # Of the domain's first participant, for the messages of users (RTPS 9.6.1).
    left = port(SHARED_MEMORY / f'fastrtps_port{7400 + 250 * domain + 11}', None)
    process = Process('replay', domain, tmp_path)
    try:
        assert process.wait(60.0) == 1 and 'the parameter bag is empty' in process.log
        assert f'removed: {left} ' in process.log
    finally:
        process.close()
        if left.exists() and left.stat().st_size == 0:
            left.unlink()
