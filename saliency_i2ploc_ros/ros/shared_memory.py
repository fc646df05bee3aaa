"""
What killed processes leave in Fast DDS's shared memory, and nobody else clears.

A participant's port is a file, whose first word is 2 once it is made (Boost's managed memory).
Whoever opens a port whose maker was killed before that waits for it: without end and without a
word, in the middle of the making of its node (Fast DDS 2.14.5; `fastdds shm clean` leaves such
ports, too). All else that the killed were seen to leave, Fast DDS notices and makes anew.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import struct
import time

SHARED_MEMORY = Path('/dev/shm')  # of Linux
PORT = re.compile(r'fast(rtps|dds)_port\d+')
MADE = 2
PATIENCE_S = 1.0  # a port is made in less than a millisecond


def remove_half_made_ports(folder: Path = SHARED_MEMORY) -> list[str]:
    """
    Remove the ports that stay half made, and return a sentence for each, for people.

    Takes a second if there are any. Those that are another user's stay; the sentence says so.
    """
    found = _half_made(folder)
    if found:
        time.sleep(PATIENCE_S)
    said = []
    for path, inode in sorted(found.items() & _half_made(folder).items()):
        what = f'{path} is of a process that was killed while it made it'
        try:
            if path.stat().st_ino == inode:  # else another has removed it and made it anew
                path.unlink()
                said.append(f'removed: {what}')
        except FileNotFoundError:  # another was faster
            continue
        except OSError:
            said.append(f'{what}, and a node that opens it hangs: remove it as its owner, or take '
                        'another ROS_DOMAIN_ID')
    return said


def _half_made(folder: Path) -> dict[Path, int]:
    """Return the ports that are not made yet, with their inodes."""
    try:
        ports = [path for path in folder.iterdir() if PORT.fullmatch(path.name)]
    except OSError:  # no such folder here, or not for us to read
        return {}
    found = {}
    for path in ports:
        try:
            # With its reader's lock beside it, Fast DDS tells by itself whether that one lives.
            if path.with_name(f'{path.name}_el').exists():
                continue
            with path.open('rb') as file:
                head = file.read(4)
                inode = os.fstat(file.fileno()).st_ino
        except OSError:  # gone by now, or not for us to read
            continue
        if len(head) < 4 or struct.unpack('=I', head)[0] < MADE:
            found[path] = inode
    return found
