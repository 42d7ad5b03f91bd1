# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A cache of things that take long to build: a directory per recipe, named by the recipe's hash."""

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

#: Seconds until an older version is removed, counted from its last use. A mounted version stays.
KEEP_UNUSED = 7 * 24 * 3600


def root() -> Path:
    """Return the cache directory; create a missing one."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or "/root/.cache") / "granary-vmstore"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def hold_lock(name: str, deadline: float) -> Iterator[None]:
    """Hold the lock called *name*. Raises :class:`LabError` after *deadline* seconds of waiting.

    The lock file has the holder's process id. The kernel releases the lock when the holder dies.
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
                        f"Process {file.read().strip() or '?'} still holds the lock {name!r} after {deadline:g} "
                        "seconds of waiting."
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def build_once(name: str, recipe: Any, make: Callable[[Path], None], deadline: float = 1800) -> Path:
    """Return the cached directory for *recipe*, a value for JSON; *make* fills the empty directory of a new recipe.

    Two processes with the same recipe build it once. An incomplete directory never has the final name. Raises
    :class:`LabError` after *deadline* seconds of waiting.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = root() / f"{name}-{digest}"
    temporary = root() / f".{name}-{digest}.tmp"
    with hold_lock(path.name, deadline):
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
            _remove_unused(name, path)
        os.utime(path.parent / "locks" / path.name)
    return path


def _remove_unused(name: str, current: Path) -> None:
    """Remove the unused versions of *name* other than *current*."""
    mounted = _read_mounts()
    for other in current.parent.glob(f"{name}-{'[0-9a-f]' * 16}"):
        lock = current.parent / "locks" / other.name
        used = lock.stat().st_mtime if lock.exists() else 0
        if other != current and str(other) not in mounted and time.time() - used > KEEP_UNUSED:
            shutil.rmtree(other, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _read_mounts() -> str:
    """Return the mounts of every process, because the mounts of a container are only in its own mount namespace."""
    texts = []
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "".join(texts)


__all__ = ["hold_lock", "build_once", "root"]
