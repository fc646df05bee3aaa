"""What killed processes leave in shared memory, and that a node starts in spite of it."""

from pathlib import Path
import struct
from types import SimpleNamespace

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

    monkeypatch.setattr(shared_memory, 'time', SimpleNamespace(sleep=sleep))
    said = remove_half_made_ports(tmp_path)
    assert set(tmp_path.iterdir()) == stay | {made, anew, tmp_path / 'fastrtps_port10'}
    assert len(said) == 3 and all(
        any(line.startswith(f'removed: {path} ') for line in said) for path in half_made)


class Owned(type(Path())):
    """A folder of which files may be read, but not removed."""

    def unlink(self):
        raise PermissionError


class Hidden(type(Path())):
    """A folder that may not be read."""

    def iterdir(self):
        raise PermissionError


def test_what_cannot_be_removed_or_read_stops_no_node(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'PATIENCE_S', 0.0)
    path = port(tmp_path / 'fastrtps_port7000', 1)
    said, = remove_half_made_ports(Owned(tmp_path))
    assert said.startswith(f'{path} is of') and 'ROS_DOMAIN_ID' in said
    for folder in Hidden(tmp_path), tmp_path / 'nowhere', path:
        assert remove_half_made_ports(folder) == []


@pytest.mark.parametrize('gone', [True, False])
def test_a_port_that_another_removes_first_is_not_told_of(tmp_path, monkeypatch, gone):
    """Between the second look and the removal, and whether or not it is made anew by then."""
    monkeypatch.setattr(shared_memory, 'PATIENCE_S', 0.0)
    path, look = port(tmp_path / 'fastrtps_port7000', 1), shared_memory._half_made
    looks = []

    def then_another_comes(folder):
        found = look(folder)
        looks.append(found)
        if len(looks) == 2:
            port(tmp_path / 'again', 1).rename(path)
            if gone:
                path.unlink()
        return found

    monkeypatch.setattr(shared_memory, '_half_made', then_another_comes)
    assert remove_half_made_ports(tmp_path) == []
    assert len(looks) == 2 and path.exists() is not gone


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason='shared memory is no folder here')
def test_a_node_starts_where_another_was_killed_while_it_made_its_port(tmp_path):
    # Of the domain's first participant, for the messages of users (RTPS 9.6.1).
    domain, left = next((domain, path) for domain in iter(new_domain, None) if not (
        path := SHARED_MEMORY / f'fastrtps_port{7400 + 250 * domain + 11}').exists())
    left.open('xb').close()
    process = Process('replay', domain, tmp_path)
    try:
        assert process.wait(60.0) == 1 and 'the parameter bag is empty' in process.log
        # Whoever removed it: other tests' nodes that start just now do so, too.
        assert not left.exists() or left.stat().st_size
    finally:
        process.close()
        if left.exists() and left.stat().st_size == 0:
            left.unlink()
