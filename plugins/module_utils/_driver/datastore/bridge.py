# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``fs`` driver of a datastore with a BRIDGE_LIST. Each action runs on one of these hosts, which have the data."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..._core import records
from ..._core.block_device import length_of
from ..._core.errors import CommandFailed, VmstoreError, printable
from ..._core.paths import is_url
from ..._image.layout import is_image_name
from ..._model.names import check_host
from ..._remote.session import Session
from ..._remote.stream import UNKNOWN, frames_of_file, frames_of_stream, seal
from . import bridge_protocol
from .base import CopiedImage, CopyOptions, DatastoreDriver
from .bridge_protocol import OPERATIONS, kinds_in
from .directory import SystemDriver
from .image_directory import ImageDirectoryDriver
from .source_file import open_source_file, size_of_directory
from .users import LOCKED

if TYPE_CHECKING:
    from ..._model.datastore import Datastore


def _forward(action: str) -> Callable[..., Any]:
    """Return a method that runs ``action`` on a bridge."""

    def ask(self: BridgedFsDriver, *arguments: object, **named: object) -> Any:
        return self.ask(action, arguments, named)

    return ask


class BridgedFsDriver(DatastoreDriver):
    """The stand-in of :class:`ImageDirectoryDriver` on the front-end.

    A local path is a path of the front-end, so the front-end checks and opens the file. The bridge fetches URLs, except
    those that need the front-end's downloader.

    :raises CommandFailed: no bridge can be used. The message names each bridge and the reason.
    :raises TransferFailed: the connection broke. The bridge removes unfinished data, and no other bridge is tried.
    :raises VmstoreError: the error of the driver on the bridge.
    """

    #: The front-end can't read the data of an image, so the record lacks ``content``.
    info = records.replace(ImageDirectoryDriver.info, actions=ImageDirectoryDriver.info.actions - {"content"})

    _where = " where the data is on the hosts of a bridge_list"

    def __init__(self, datastore: Datastore, **options: Any) -> None:
        super().__init__(datastore, **options)
        self._users: dict[bool, Mapping[str, Sequence[str]]] = {}

    prepare = _forward("prepare")
    mkfs = _forward("mkfs")
    resize = _forward("resize")
    rm = _forward("rm")
    clone = _forward("clone")
    monitor = _forward("monitor")
    snap_delete = _forward("snap_delete")
    snap_flatten = _forward("snap_flatten")
    snap_revert = _forward("snap_revert")
    snap_size = _forward("snap_size")
    snap_same = _forward("snap_same")
    export = _forward("export")
    inventory = _forward("inventory")
    sweep = _forward("sweep")
    damage = _forward("damage")
    preview_clone = _forward("preview_clone")
    preview_mkfs = _forward("preview_mkfs")
    preview_resize = _forward("preview_resize")
    preview_snapshot = _forward("preview_snapshot")
    vm_usage = _forward("vm_usage")

    def snapshots(self, source: str) -> list[int]:
        return list(self.ask("snapshots", (source,), {}))

    def stored(self) -> frozenset[str]:
        return frozenset(self.ask("stored", (), {}))

    def clone_origin(self, other: Datastore, subject: str) -> Datastore | None:
        own = self.datastore
        if other.id == own.id:
            return None
        is_beside = other.directories()[1:] == own.directories()[1:] != []
        if set(other.bridge_list) != set(own.bridge_list) or not is_beside:
            self._refuse_origin(other, subject)
        return None

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """Return the users on all hosts, because each host has programs and domains of its own. Failures of single
        hosts are only logged.

        :raises VmstoreError: no host can be queried.
        """
        if running not in self._users:
            self._users[running] = self._all_users(running)
        return self._users[running].get(source, ())

    def _all_users(self, running: bool) -> Mapping[str, Sequence[str]]:
        """Return the users of all images by source. Query every host once, regardless of the number of images."""
        named: dict[str, list[str]] = {}
        locked: dict[str, list[str]] = {}
        failed: list[VmstoreError] = []
        for host in self.datastore.bridge_list:
            try:
                uses = self.ask("uses", (running,), {}, hosts=[check_host("bridge_list", host)])
            except VmstoreError as error:
                failed.append(error)
                self.log(f"who uses images on the bridge {host} is not known: {error}")
                continue
            for use in uses:
                if use.user == LOCKED:
                    locked[use.source] = [LOCKED]
                else:
                    named.setdefault(use.source, []).append(f"{printable(use.user)} on the host {host!r}")
        if len(failed) == len(self.datastore.bridge_list):
            raise failed[0]
        return {**locked, **named}  # other hosts see only the locks of a program

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        if self._needs_downloader(path):
            with self._open_download(path, options.bandwidth) as data:
                copied: CopiedImage = self.ask("cp", (path, options), {}, data, UNKNOWN)
                return copied
        if is_url(path):
            return _make_printable(self.ask("cp", (path, options), {}))
        return self._ask_with_file("cp", path, options, bandwidth=options.bandwidth)

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        named = {"no_decompress": no_decompress, "any_content": any_content}
        if self._needs_downloader(path):
            from ..._image.downloader import read_to_end

            with self._open_download(path) as data:
                size = int(self.ask("stat", (path,), named, data, UNKNOWN))
                read_to_end(data, size << 20)
                return size
        if is_url(path):
            return int(self.ask("stat", (path,), named))
        if os.path.isdir(path):
            return size_of_directory(self, path)
        with open_source_file(path, self.check) as descriptor:
            return int(self.ask("stat", (path,), named, read_frames(descriptor), length_of(descriptor)))

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        if is_url(path):
            return _make_printable(self.ask("preview", (path, options), {}))
        return self._ask_with_file("preview", path, options)

    def _ask_with_file(
        self, action: str, path: str, options: CopyOptions, *, bandwidth: int | None = None
    ) -> CopiedImage:
        """Send a file of this host to a bridge, and return the image that the bridge creates."""
        from ..._image.still import StillFiles
        from .conversion import with_warnings

        with open_source_file(path, self.check) as descriptor:
            still = StillFiles({descriptor: path}, verify=options.verify, words=self.words)
            is_made = OPERATIONS[action].is_confirmed
            data = read_frames(descriptor, bandwidth=bandwidth, check=still.check if is_made else bool)
            copied = self.ask(action, (path, options), {}, data, length_of(descriptor))
            return with_warnings(_make_printable(copied), still.warnings)

    def _needs_downloader(self, path: str) -> bool:
        if not is_url(path):
            return False
        from ..._image.source import Source

        return Source(path, self.settings.downloader).is_for_downloader

    @contextlib.contextmanager
    def _open_download(self, path: str, bandwidth: int | None = None) -> Iterator[Iterator[bytes]]:
        """Yield the data of the front-end's downloader, in frames."""
        from ..._image.fetch import open_source

        with open_source(path, bandwidth=bandwidth, downloader=self.settings.downloader, log=self.log) as chunks:
            yield seal(frames_of_stream(chunks))

    def ask(
        self,
        action: str,
        arguments: tuple[object, ...],
        named: Mapping[str, object],
        data: Iterable[bytes] = (),
        size: int | None = None,
        hosts: Sequence[str] | None = None,
    ) -> Any:
        """Return the result of ``action`` of the driver on a bridge.

        :arg data: frames to send with the request. ``size`` is the number of bytes, or :data:`UNKNOWN`.
        :arg hosts: the bridges to choose from, by default all of the datastore.
        """
        operation = OPERATIONS[action]
        request = {
            "action": action,
            "arguments": arguments,
            "named": named,
            "datastore": records.replace(self.datastore, bridge_list=()),
            "settings": records.replace(self.settings, downloader=None),
            "timeout": self.timeout,
            "words": self.words,
            "may_mount": self.may_mount,
            "size": size,
        }
        refusals = []
        if hosts is None:
            hosts = spread([check_host("bridge_list", host) for host in self.datastore.bridge_list])
        for host in hosts:
            with Session(host, kind="bridge", module=bridge_protocol.__name__, log=self.log) as session:
                refusal = session.handshake()
                if refusal is None:
                    result = session.ask(
                        action, operation, request, kinds=kinds_in(action), data=data, timeout=self.timeout
                    )
                    if (operation.is_confirmed or action == "export") and not self._is_image(result):
                        raise session.unexpected("no image of the datastore")
                    if operation.is_confirmed:
                        session.confirm()
                    return result
            refusals.append(f"{host}: {refusal}")
            self.log(f"the bridge {refusals[-1]}")
        raise CommandFailed(
            f"{action} needs a host of the datastore's BRIDGE_LIST, and none can be used: {'; '.join(refusals)}."
        )

    def _is_image(self, result: Any) -> bool:
        """Return whether a result is an image of the datastore.

        The catalog and the front-end trust the path of an image, so a bridge must not return the path of another file.
        """
        fields = {"source": result} if isinstance(result, str) else {**vars(result)}
        source = fields.pop("source")
        fields.pop("warnings", None)  # only warnings may contain blanks
        checksum = fields.pop("checksum", None)
        directory, name = os.path.split(source)
        return (
            directory == self.datastore.base_path
            and is_image_name(name)
            and all(re.fullmatch("[a-z0-9]+", str(word)) for word in fields.values())
            and (checksum is None or re.fullmatch("[a-z0-9]+:[0-9a-f]+", checksum) is not None)
        )


class BridgedSystemDriver(BridgedFsDriver):
    """The stand-in of :class:`SystemDriver` on the front-end. A shared system datastore is read on one of the hosts."""

    info = SystemDriver.info


def spread(hosts: Sequence[str]) -> Sequence[str]:
    """Return all hosts, starting at a random one to spread the load."""
    first = int.from_bytes(os.urandom(4), "big") % len(hosts)
    return [*hosts[first:], *hosts[:first]]


def read_frames(
    descriptor: int, *, bandwidth: int | None = None, check: Callable[[], object] = bool
) -> Iterator[bytes]:
    """Return the content of an open file as frames that end with a digest.

    :arg bandwidth: upper bound in bytes a second.
    :arg check: is called before the last frame, and raises if the file must not be used.
    """
    from ..._core.sparse import extents
    from ..._core.throttle import throttle

    size = length_of(descriptor)
    return seal(throttle(frames_of_file(descriptor, size, extents(descriptor, size)), bandwidth), check)


def _make_printable(copied: CopiedImage) -> CopiedImage:
    """Return the same image with warnings that can be printed, because another host wrote them."""
    return records.replace(copied, warnings=tuple(map(printable, copied.warnings)))


__all__ = ["BridgedFsDriver", "BridgedSystemDriver"]
