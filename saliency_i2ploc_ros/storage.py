"""Files that are whole or absent: atomic writes, hashes, and the cache directory."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from .errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`; it takes the place of `path` if the block succeeds.

    The temporary name is the process's own, so that jobs that write the same file do not meet.
    A failing block leaves nothing behind; an OSError (a full disk, a read-only folder) becomes an
    InputError that names the path.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.{os.urandom(4).hex()}{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f'cannot write {path}: {_reason(error)}') from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """
    Yield a temporary directory beside `path`; it becomes `path` if the block succeeds.

    With `overwrite`, what stood at `path` is removed only then. Errors as in `atomic_file`;
    an existing `path` without `overwrite` is an InputError before anything is done.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists already: name another folder, or let it be overwritten')
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            old = temporary.with_name(temporary.name + '.old')
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise InputError(f'cannot write {path}: {_reason(error)}') from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _reason(error: OSError) -> str:
    # NumPy reports a short write in words of its own, without the system's reason.
    return error.strerror or f'{error}: is the disk full?'


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=False) + '\n', encoding='utf-8')


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is an InputError."""
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except ValueError as error:
        raise InputError(f'{path} is not valid JSON ({error}): make it anew') from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """Return 16 hex digits that identify a JSON-like value, whatever its keys' order."""
    text = json.dumps(value, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """Return the folder for what can be made again (env I2PLOC_CACHE, else the user's cache)."""
    named = os.environ.get('I2PLOC_CACHE')
    if named:
        return Path(named)
    base = os.environ.get('XDG_CACHE_HOME') or str(Path.home() / '.cache')
    return Path(base) / 'saliency_i2ploc'


def shared_directory(name: str) -> Path:
    """
    Return the package's installed folder `name` ('models', 'config', 'launch').

    In a checkout (and an editable install) it stands beside the package; in a pip or colcon
    installation below share/saliency_i2ploc_ros of the prefix that holds the package.
    """
    here = Path(__file__).resolve()
    beside = here.parent.parent / name
    if (here.parent.parent / 'package.xml').is_file() and beside.is_dir():
        return beside
    prefixes = [*here.parents, Path(sys.prefix)]
    for prefix in prefixes:
        folder = prefix / 'share' / 'saliency_i2ploc_ros' / name
        if folder.is_dir():
            return folder
    raise InputError(f'the folder {name}/ of the package is not installed: install it again')


def commit() -> str:
    """Return the git commit of the checkout that runs, '+' added if altered, else 'unknown'."""
    root = Path(__file__).resolve().parent.parent
    if not (root / 'package.xml').is_file():
        return 'unknown'  # installed: any repository around it is somebody else's
    try:
        name = _git(root, 'rev-parse', 'HEAD')
        return name + ('+' if _git(root, 'status', '--porcelain', '-uno') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(['git', *arguments], cwd=folder, check=True, capture_output=True,
                          text=True)
    return done.stdout.strip()
