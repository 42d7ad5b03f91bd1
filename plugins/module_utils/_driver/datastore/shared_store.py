# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shared file system under the directory of a datastore: it must be mounted, respond, and be the expected store.

Front-ends request mounts by the attributes NFS_AUTO_ENABLE, NFS_AUTO_HOST, NFS_AUTO_PATH and NFS_AUTO_OPTS. The export
is then mounted on the datastore's own directory when an action needs it.
"""

from __future__ import annotations

import functools
import os

from ..._core.command import run
from ..._core.deadline import run_with_deadline
from ..._core.errors import (
    CommandFailed,
    Conflict,
    DependencyMissing,
    InvalidInput,
    TimedOut,
    VmstoreError,
)
from ..._core.paths import real_path
from ..._core.records import TYPE_CHECKING
from ..._host.mount import live, store
from ..._host.mount.condition import read_condition
from ..._host.mount.mountinfo import Mount, mounts_at, read_mounts, visible
from ..._host.mount.nfs import Nfs
from ..._model.file_system_types import is_shared_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..._model.datastore import Datastore


def read_nfs_auto(attributes: Mapping[str, str], called: Callable[[str], str]) -> tuple[str, tuple[str, ...]]:
    """Return the source and the mount options of a datastore that the driver mounts.

    :arg called: returns the name of an attribute for errors.
    :raises InvalidInput: an attribute is missing or isn't accepted.
    """
    host, path = (attributes.get(f"nfs_auto_{name}", "").strip() for name in ("host", "path"))
    for name, value in (("host", host), ("path", path)):
        if not value:
            raise InvalidInput(called(f"nfs_auto_{name}"), None, "NFS_AUTO_ENABLE needs a server and its directory")
    nfs = Nfs()
    # IPv6 addresses are in brackets in a source.
    source = f"[{host}]:{path}" if ":" in host and not host.startswith("[") else f"{host}:{path}"
    words = nfs.options.check(called("nfs_auto_opts"), [attributes.get("nfs_auto_opts", "")])
    return nfs.check_source(called("nfs_auto_host"), source), nfs.complete(words)


class SharedStore:
    """The shared file system of a datastore.

    :arg timeout: seconds for each access to the file system.
    :arg may_mount: whether a missing mount is made, where the attributes say so.
    :arg prepare: creates the datastore's directory.
    """

    def __init__(
        self,
        datastore: Datastore,
        *,
        timeout: float,
        may_mount: bool,
        prepare: Callable[[], object],
        called: Callable[[str], str],
    ) -> None:
        self._datastore = datastore
        self._timeout = timeout
        self._may_mount = may_mount
        self._prepare = prepare
        self._called = called
        self._known = 0

    def require(self) -> None:
        """Require that the store is mounted, responds and has the expected marker. Mount it where that is requested.

        The table of mounts is read at each call, and the store itself once for each mount.

        :raises DependencyMissing: the store isn't mounted.
        :raises TimedOut: the store doesn't respond.
        :raises Conflict: another store is mounted.
        """
        mounts = read_mounts()
        mounted = self._mounted_source(mounts) if self._datastore.mounts_automatically else None
        if mounted is None:
            mounted = self._serving(mounts)
        if mounted.mount_id != self._known:
            self._check(mounted)
            self._known = mounted.mount_id

    @functools.cached_property
    def _path(self) -> str:
        """Return the datastore's directory without symbolic links."""
        path = self._datastore.base_path
        return run_with_deadline(self._timeout, f"Looking for {path}", functools.partial(real_path, path))

    def _serving(self, mounts: Sequence[Mount]) -> Mount:
        served = visible(mounts, self._path)[-1]
        # A file system on a cluster block device has the name of a local type, so only its marker identifies it.
        if is_shared_type(served.fstype) or (self._datastore.marker is not None and served.mount_point != "/"):
            return served
        raise DependencyMissing(
            f"The datastore {self._datastore.name!r} is on a shared file system, which is not mounted: "
            f"{self._path} is on {served}. Mount it with granary.vmstore.shared_mount; nothing was changed."
        )

    def _mounted_source(self, mounts: Sequence[Mount]) -> Mount:
        """Return the mount of the server that the attributes name, mounted now if it is missing."""
        source, words = read_nfs_auto(self._datastore.attributes, self._called)
        here = mounts_at(mounts, self._path)
        if not here:
            if not self._may_mount:
                raise DependencyMissing(
                    f"The datastore {self._datastore.name!r} is on {source}, which is not mounted on {self._path}; the "
                    "first action mounts it (NFS_AUTO_ENABLE)."
                )
            self._prepare()
            try:
                self._mount(source, words)
            except VmstoreError:
                # Another action may have mounted the store at the same time.
                if not _is_of(mounts_at(read_mounts(), self._path), source):
                    raise
            here = mounts_at(read_mounts(), self._path)
        if not _is_of(here, source):
            found = here[-1] if here else "nothing"
            raise Conflict(
                f"The datastore {self._datastore.name!r} needs {source} on {self._path} (NFS_AUTO_HOST, "
                f"NFS_AUTO_PATH), and {found} is mounted there; nothing was changed."
            )
        return here[-1]

    def _mount(self, source: str, words: Sequence[str]) -> None:
        nfs = Nfs()
        nfs.require_supported()
        settings = nfs.options.desired_settings(words)
        if os.geteuid() == 0:
            live.mount_with_deadline(self._timeout, nfs, source, self._path, settings)
            return
        options = ",".join(nfs.options.kernel_words(settings)) or "defaults"
        # A front-end's drivers run as the service user, whom sudoers(5) has to allow this command.
        command = ["sudo", "--non-interactive", "mount", "-t", nfs.name, "-o", options, "--", source, self._path]
        run_with_deadline(self._timeout, f"Mounting {source} on {self._path}", functools.partial(run, command))

    def _check(self, mounted: Mount) -> None:
        path = mounted.mount_point
        if self._datastore.marker is None:
            condition = read_condition(path, self._timeout)
            if not condition.is_ok:
                raise (CommandFailed if condition.responds else TimedOut)(
                    f"The datastore {self._datastore.name!r} can't be used: the mount {mounted} is away "
                    f"({condition.error}); nothing was changed."
                )
            return
        doing = f"Reading the marker of {path}"
        marker = run_with_deadline(self._timeout, doing, functools.partial(store.read_root, path)).marker
        if marker != self._datastore.marker:
            found = f"the marker {marker}" if marker else f"no marker {store.MARKER}"
            raise Conflict(
                f"The datastore {self._datastore.name!r} is on the store {self._datastore.marker}, but {mounted} has "
                f"{found}: another store is mounted there, so it is not used."
            )


def _is_of(here: Sequence[Mount], source: str) -> bool:
    """Return whether the last of some mounts is the NFS mount of ``source``."""
    nfs = Nfs()
    return bool(here) and nfs.matches_type(here[-1].fstype) and nfs.is_same_source(here[-1].source, source)


__all__ = ["SharedStore", "read_nfs_auto"]
