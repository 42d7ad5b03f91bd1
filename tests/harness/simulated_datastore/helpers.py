# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The mount helpers of this host: small scripts in ``/sbin`` for mount(8) that run :mod:`.mount_helper`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from .client import RUNTIME
from .errors import SimulatedDatastoreError

#: The first directory in which mount(8) searches.
DIRECTORY = Path("/sbin")
#: Suffix of the system's helper while the shim has its name.
REAL = ".before-simulated-datastore"
#: The helpers of each kind. A remount without fstab(5) uses the helper of ``fuse.TYPE``.
KINDS = {
    "sim": ("mount.sim", "mount.fuse.sim"),
    "nfs": ("mount.nfs", "mount.nfs4", "mount.fuse.nfs", "mount.fuse.nfs4"),
}
_MARK = "# Part of the simulated datastore: 'simulated-datastore helpers remove' takes it away."


def install(kinds: list[str], *, replace: bool = False) -> list[str]:
    """Install the helpers of *kinds*, and return the names of the missing and different ones.

    Raises :class:`SimulatedDatastoreError` for a foreign helper. With *replace* the foreign helper is kept beside the
    shim.
    """
    names = [name for kind in kinds for name in KINDS[kind]]
    foreign = [name for name in names if os.path.lexists(DIRECTORY / name) and not _is_ours(DIRECTORY / name)]
    if foreign and not replace:
        raise SimulatedDatastoreError(
            f"{DIRECTORY / foreign[0]} is the system's own mount helper, --replace keeps it as {foreign[0]}{REAL} "
            "meanwhile."
        )
    changed = []
    try:
        for name in names:
            path = DIRECTORY / name
            if name in foreign:
                path.rename(path.with_name(name + REAL))
            elif path.exists() and path.read_text(encoding="utf-8") == _script():
                continue
            temporary = path.with_name(f".{name}.new")
            temporary.write_text(_script(), encoding="utf-8")
            temporary.chmod(0o755)
            temporary.rename(path)
            changed.append(name)
    except OSError as error:
        raise SimulatedDatastoreError(
            f"The mount helper {error.filename!r} can't be installed: {error.strerror}."
        ) from error
    return changed


def remove(kinds: list[str]) -> list[str]:
    """Remove the helpers of *kinds*, restore the system's helpers, and return the names of the removed ones.

    Raises :class:`SimulatedDatastoreError`.
    """
    changed = []
    try:
        for name in (name for kind in kinds for name in KINDS[kind]):
            path, real = DIRECTORY / name, DIRECTORY / (name + REAL)
            ours = _is_ours(path)
            if ours:
                path.unlink()
                changed.append(name)
            if os.path.lexists(real):
                if os.path.lexists(path):
                    # A package has installed a newer one meanwhile.
                    real.unlink()
                else:
                    real.rename(path)
    except OSError as error:
        raise SimulatedDatastoreError(
            f"The mount helper {error.filename!r} can't be removed: {error.strerror}."
        ) from error
    return changed


def installed() -> list[str]:
    return [name for names in KINDS.values() for name in names if _is_ours(DIRECTORY / name)]


def _is_ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and _MARK.encode() in path.read_bytes()[:4096]
    except OSError:
        return False


def _script() -> str:
    package = shlex.quote(str(Path(__file__).resolve().parents[1]))
    environment = f"PYTHONPATH={package} SIMULATED_DATASTORE_RUNTIME={shlex.quote(str(RUNTIME))}"
    return (
        f"#!/bin/sh\n{_MARK}\n{environment} exec {shlex.quote(sys.executable)} -P -m simulated_datastore.mount_helper "
        '"$0" "$@"\n'
    )


__all__ = ["DIRECTORY", "KINDS", "REAL", "install", "installed", "remove"]
