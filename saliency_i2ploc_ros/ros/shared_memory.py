"""
What killed processes leave in Fast DDS's shared memory, and nobody else clears.

A participant's port is a file, whose first word is 2 once it is made (Boost's managed memory).
Whoever opens a port whose maker was killed before that waits for it: without end and without a
word, in the middle of the making of its node (Fast DDS 2.14.5; `fastdds shm clean` leaves such
ports, too). All else that the killed were seen to leave, Fast DDS notices and makes anew.
"""

from __future__ import annotations

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
    for path, _ in sorted(found.items() & _half_made(folder).items()):
        what = f'{path} is of a process that was killed while it made it'
        try:
            path.unlink(missing_ok=True)
            said.append(f'removed: {what}')
        except OSError:
            said.append(f'{what}, and a node that opens it hangs: remove it as its owner, or take '
                        'another ROS_DOMAIN_ID')
    return said


def _half_made(folder: Path) -> dict[Path, int]:
    """Return the ports that are not made yet, with their inodes."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        # With a lock of its reader beside it, Fast DDS tells by itself whether that one lives.
        if PORT.fullmatch(path.name) and not path.with_name(f'{path.name}_el').exists():
            try:
                with path.open('rb') as file:
                    head = file.read(4)
                inode = path.stat().st_ino
            except OSError:  # gone by now, or not for us to read
                continue
            if len(head) < 4 or struct.unpack('=I', head)[0] < MADE:
                found[path] = inode
    return found
