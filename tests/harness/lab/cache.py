# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What takes long to make is made once: a directory per recipe, named by the recipe's hash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import LabError

#: An older version of a thing goes when nothing mounts it and nobody asked for it for so long (seconds).
KEEP_UNUSED = 7 * 24 * 3600


def root() -> Path:
    """The cache directory, made if it isn't there."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or "/root/.cache") / "granary-vmstore"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str, deadline: float) -> Iterator[None]:
    """Hold the lock called *name*; raises :class:`LabError` after *deadline* seconds of waiting.

    The holder's process id stands in the lock file.  The kernel gives the lock back when the holder dies.
    """
    directory = root() / "locks"
    directory.mkdir(exist_ok=True)
    end = time.monotonic() + deadline
    with open(directory / name, "a+", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    file.seek(0)
                    raise LabError(
                        f"Process {file.read().strip() or '?'} is still at work on {name!r} after {deadline:g} seconds "
                        "of waiting."
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def made_once(name: str, recipe: Any, make: Callable[[Path], None], deadline: float = 1800) -> Path:
    """The cached directory for *recipe*, a value that JSON can hold; *make* fills an empty directory when it isn't
    there yet.

    Two processes that ask for the same thing at once make it once.  A half-made one never bears the final name.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = root() / f"{name}-{digest}"
    temporary = root() / f".{name}-{digest}.tmp"
    with locked(path.name, deadline):
        if not path.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                make(temporary)
                os.sync()
                temporary.rename(path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            _prune(name, path)
        os.utime(path.parent / "locks" / path.name)
    return path


def _prune(name: str, current: Path) -> None:
    """Remove the versions of *name* other than *current* that are unused."""
    mounted = _mountinfo()
    for other in current.parent.glob(f"{name}-{'[0-9a-f]' * 16}"):
        lock = current.parent / "locks" / other.name
        used = lock.stat().st_mtime if lock.exists() else 0
        if other != current and str(other) not in mounted and time.time() - used > KEEP_UNUSED:
            shutil.rmtree(other, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _mountinfo() -> str:
    """The mounts of every process: what a container has from here shows only in its own mount namespace."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "".join(texts)


__all__ = ["locked", "made_once", "root"]
