# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The daemon: one datastore, the mounts of its clients, and the control socket.

``python -m simulated_datastore.daemon`` reads its configuration as JSON from standard input. One line of JSON on
standard output announces that the daemon is ready, or the reason of its failure.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace as replace_field
from pathlib import Path
from typing import Any, NoReturn

import trio

from . import checks, watchdog
from .adapters.pyfuse3_adapter import CAPABILITIES, FLAGS, KernelTable, Pyfuse3Adapter
from .clock import MockClock, RealClock
from .control import ControlServer, Method
from .datastore import Datastore
from .errors import SimulatedDatastoreError
from .exports import Exports
from .methods import Methods
from .mount import Export, Mount
from .nodes import Node
from .pipes import pipe_to
from .profiles import PROFILES, SQUASHES, choose
from .system import SOURCE, mounts, resolve

_log = logging.getLogger("simulated_datastore")


class _BugCounter(logging.Handler):
    """A handler that counts logged errors, because an error in the daemon's log is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Daemon:
    """The daemon. It ends on request, with its parent, or when nothing is mounted and nothing exported."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.runtime = Path(config["runtime"])
        self.backing = Path(resolve(config["backing"]))
        self.bugs = _BugCounter()
        _log.addHandler(self.bugs)
        clock = MockClock() if config.get("clock") == "mock" else RealClock()
        self.datastore = Datastore(self.backing, CAPABILITIES, clock)
        self.datastore.invalidate = self._invalidate
        self.datastore.disconnect = self.disconnect
        self.adapters: dict[str, Pyfuse3Adapter] = {}
        self.exports = Exports()
        #: Number of mounts in replacement. Another mount follows, so the daemon must not end with the last one.
        self._replacing = 0
        self.stop = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", watchdog.__file__, str(os.getpid()), str(self.runtime)],
            start_new_session=True,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _tell_watchdog(self, kind: str, path: Path) -> None:
        # A dead watchdog sends nothing.
        try:
            pipe_to(self._watchdog).write(json.dumps([kind, os.fspath(path)]).encode() + b"\n")
        except BrokenPipeError:
            _log.warning("the watchdog is gone: if the daemon is killed, its mounts stay")

    async def run(self) -> None:
        """Serve until the end. Raises :class:`SimulatedDatastoreError` for a failed start."""
        if "ledger" in self.config:
            self.datastore.ledger.open_file(Path(self.config["ledger"]))
        methods: dict[str, Method] = {**Methods(self.datastore, self).table()}
        server = ControlServer(self.runtime / "socket", methods)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._signals)
                for export in self.config.get("exports", ()):
                    self.exports.set(**export)
                for mount in self.config["mounts"]:
                    for key in mount:
                        choose("mount", key, list(inspect.signature(self.add_mount).parameters))
                    await self.add_mount(**mount)
                # Listen last, so that a connected client finds the daemon ready.
                await nursery.start(server.serve)
                nursery.start_soon(self._write_ledger)
                if "parent" in self.config:
                    nursery.start_soon(self._watch_parent, self.config["parent"])
                _announce({"ready": True, "watchdog": self._watchdog.pid})
                gc.collect()
                gc.freeze()
                await self.stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            for adapter in list(self.adapters.values()):
                self._close(adapter)
            self.datastore.close()
            # The watchdog removes the runtime directory, and ends last.
            pipe_to(self._watchdog).close()
            self._watchdog.wait()

    def _running_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the daemon doesn't run")
        return self._nursery

    async def add_mount(
        self,
        mount_point: str,
        client: str = "host1",
        profile: str = "local",
        squash: str | None = None,
        anonymous_uid: int = 65534,
        anonymous_gid: int = 65534,
        read_only: bool = False,
        strict: bool = False,
        replace: bool = False,
        source: str = SOURCE,
        type: str | None = None,
        flags: list[str] | None = None,
        soft: float | None = None,
    ) -> dict[str, str]:
        """Mount the datastore for one more client, or with *replace* instead of the client's mount.

        *source* and *type* are the values in the kernel's table of mounts, with the type as ``fuse.TYPE`` (default: the
        client); *flags* are options of mount(8) for any file system. With *soft* a hanging request fails after that
        many seconds. Returns client and mount point. Raises :class:`SimulatedDatastoreError`.
        """
        checks.name("client", client)
        found = PROFILES[choose("profile", profile, list(PROFILES))]
        anonymous = (
            checks.whole("anonymous_uid", anonymous_uid, most=checks.MOST_ID),
            checks.whole("anonymous_gid", anonymous_gid, most=checks.MOST_ID),
        )
        export = Export(
            client,
            found,
            choose("squash", found.squash if squash is None else squash, SQUASHES),
            anonymous,
            checks.flag("read_only", read_only),
            checks.flag("strict", strict),
            soft=None if soft is None else checks.seconds("soft", soft),
        )
        table = KernelTable(
            checks.text("source", source),
            checks.name("type", client if type is None else type),
            tuple(choose("flags", flag, FLAGS) for flag in checks.texts("flags", flags or [])),
        )
        old = self.adapters.get(client) if checks.flag("replace", replace) else None
        path = self._check_mount_point(mount_point, old)
        self._replacing += 1
        try:
            if old is not None:
                await self.unmount(client)
            self._add_adapter(replace_field(export, mount_point=os.fspath(path)), path, table)
        finally:
            self._replacing -= 1
            self._stop_if_unused()
        return {"client": client, "mount_point": os.fspath(path)}

    def _add_adapter(self, export: Export, path: Path, table: KernelTable) -> None:
        mount = self.datastore.add_mount(export)
        try:
            adapter = Pyfuse3Adapter(mount, path, self.config["known"], table)
        except BaseException:
            self.datastore.remove_mount(mount)
            raise
        self._tell_watchdog("mount", path)
        self.adapters[export.client] = adapter
        self._note_mounts()
        self._running_nursery().start_soon(self._serve, adapter)

    async def mount_export(
        self,
        source: str,
        mount_point: str,
        version: str | None = None,
        read_only: bool = False,
        type: str = "sim",
        flags: list[str] | None = None,
        soft: float | None = None,
    ) -> dict[str, Any]:
        """Mount the export *source* for a mount helper, and return the parameters of the mount.

        Raises :class:`SimulatedDatastoreError`.
        """
        mount = {
            **self.exports.get(source).mount(version, list(self.datastore.mounts)),
            "mount_point": mount_point,
            "read_only": read_only,
            "type": type,
            "flags": flags,
            "soft": soft,
        }
        await self.add_mount(**mount)
        return mount

    def delete_export(self, source: str) -> None:
        """Delete an export. Raises :class:`SimulatedDatastoreError`."""
        self.exports.delete(source)
        self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        if not self.adapters and not self.exports and not self._replacing:
            self.stop.set()

    def _note_mounts(self) -> None:
        """Write the list of mounts to remove, in case this daemon and its watchdog are killed."""
        noted = [[adapter.device, os.fspath(adapter.mount_point)] for adapter in self.adapters.values()]
        temporary = self.runtime / ".mounts.json"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(noted), encoding="utf-8")
            temporary.rename(self.runtime / "mounts.json")

    def _check_mount_point(self, mount_point: str, old: Pyfuse3Adapter | None) -> Path:
        """Return the path without symbolic links.

        Raises :class:`SimulatedDatastoreError` for an invalid mount point. The point of the *old* mount is valid.
        """
        if not os.path.exists("/dev/fuse"):
            raise SimulatedDatastoreError(
                "There is no /dev/fuse: load the kernel module fuse, or give the container the device."
            )
        path = Path(checks.text("mount_point", mount_point, path=True)).absolute()
        resolved = Path(resolve(path))
        if old is not None and resolved == old.mount_point:
            return resolved
        # A mount may hang, so the check reads the kernel's table and not the mount.
        if os.fspath(resolved) in {found.path for found in mounts()}:
            raise SimulatedDatastoreError(
                f"mount_point: {str(path)!r} is in use, give a directory where nothing is mounted."
            )
        if any(adapter.mount_point in resolved.parents for adapter in self.adapters.values()):
            # This daemon would have to answer the check, while it waits for the answer.
            raise SimulatedDatastoreError(
                f"mount_point: {str(path)!r} is in a mount of this datastore, give a directory outside."
            )
        # Unlike the method of Path, os.path.isdir() accepts too long a path.
        if not os.path.isdir(resolved):
            raise SimulatedDatastoreError(f"mount_point: {str(path)!r} isn't a directory.")
        if resolved == self.backing or self.backing in resolved.parents or resolved in self.backing.parents:
            raise SimulatedDatastoreError(
                f"mount_point: {str(path)!r} and the backing directory {str(self.backing)!r} must not contain each "
                "other."
            )
        return resolved

    async def _serve(self, adapter: Pyfuse3Adapter) -> None:
        try:
            await adapter.run()
        except Exception:
            _log.exception("the mount of %s has ended", adapter.mount.client)
        finally:
            self._close(adapter)
        self._stop_if_unused()

    def _close(self, adapter: Pyfuse3Adapter) -> None:
        if self.adapters.pop(adapter.mount.client, None) is None:
            return
        adapter.close()
        self.datastore.remove_mount(adapter.mount)
        self._tell_watchdog("gone", adapter.mount_point)
        self._note_mounts()
        adapter.closed.set()

    async def unmount(self, client: str) -> None:
        """Unmount, and return when the mount is gone. Raises :class:`SimulatedDatastoreError` for a client without a
        mount.
        """
        adapter = self.adapters[choose("client", client, list(self.adapters))]
        adapter.terminate()
        await adapter.closed.wait()

    def disconnect(self, mount: Mount) -> None:
        self.adapters[mount.client].terminate()

    def _invalidate(self, mount: Mount, node: Node | None, parent: Node | None, name: bytes) -> None:
        adapter = self.adapters.get(mount.client)
        if adapter is not None:
            adapter.invalidate(node, parent, name)

    async def _signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                _log.info("signal %d", number)
                self.stop.set()

    async def _watch_parent(self, parent: int) -> None:
        """End the daemon when its parent process ends.

        A parent-death signal would already come at the end of the thread that started the daemon.
        """
        try:
            fd = os.pidfd_open(parent)
        except ProcessLookupError:
            self.stop.set()
            return
        await trio.lowlevel.wait_readable(fd)
        _log.info("the parent %d has ended", parent)
        self.stop.set()

    async def _write_ledger(self) -> None:
        while True:
            self.datastore.ledger.flush()
            await trio.sleep(0.2)


def _announce(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
    # The reader of standard output gets its end now.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _go_first(nice: int = -10) -> None:
    """Raise the priority of this process, because a disk doesn't wait for a processor.

    On a busy machine each request would otherwise wait some milliseconds, until a deadline is missed. The scheduler
    weighs each session as a whole (sched(7), "The autogroup feature"), or without that feature each process. Only root
    may raise the priority.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


def main() -> NoReturn:
    config = json.load(sys.stdin)
    _go_first()
    os.umask(0)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # A request creates no reference cycles, so frequent collections would only delay clients.
    gc.set_threshold(100_000, 50, 50)
    logging.basicConfig(
        filename=config["log"], level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        daemon = Daemon(config)
        trio.run(daemon.run)
    except* SimulatedDatastoreError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        _announce({"error": str(error)})
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()

__all__ = ["Daemon"]
