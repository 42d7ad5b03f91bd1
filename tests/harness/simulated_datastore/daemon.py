# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The daemon: one datastore, the mounts of its clients, and the control socket. ``python -m
simulated_datastore.daemon`` with its configuration on standard input as JSON; one line of JSON on standard output says
that it is ready, or why not.
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
    """Counts what was logged as an error: in this daemon, that is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Daemon:
    """Runs until it is told to stop, its last mount has gone and nothing is exported, or its parent has ended."""

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
        #: How many mounts are being replaced: with the last mount gone, there will be another one.
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
        # Of a watchdog that someone killed there is nothing to expect.
        try:
            pipe_to(self._watchdog).write(json.dumps([kind, os.fspath(path)]).encode() + b"\n")
        except BrokenPipeError:
            _log.warning("the watchdog is gone: should the daemon be killed, its mounts stay")

    async def run(self) -> None:
        """Raises :class:`SimulatedDatastoreError` for what keeps it from starting."""
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
                # Last: whoever gets a connection finds it ready.
                await nursery.start(server.serve)
                nursery.start_soon(self._write_ledger)
                if "parent" in self.config:
                    nursery.start_soon(self._watch_parent, self.config["parent"])
                _ready({"ready": True, "watchdog": self._watchdog.pid})
                gc.collect()
                gc.freeze()
                await self.stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            for adapter in list(self.adapters.values()):
                self._close(adapter)
            self.datastore.close()
            # It removes the runtime directory, and is the last to go.
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
        """Mount the datastore for one more client; with *replace*, instead of the mount that it has. Returns where;
        raises :class:`SimulatedDatastoreError`.

        *source* and *type* are what the kernel's table of mounts shows, the latter as ``fuse.TYPE`` (default: the
        client); *flags* are options of mount(8) that are there for each file system. With *soft*, what hangs fails
        after so many seconds.
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
        """Mount what is exported as *source*, as a mount helper was asked to; returns the parameters.

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
        """Offer a source no more. Raises :class:`SimulatedDatastoreError`."""
        self.exports.delete(source)
        self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        if not self.adapters and not self.exports and not self._replacing:
            self.stop.set()

    def _note_mounts(self) -> None:
        """Note what has to go, should this daemon and its watchdog be killed."""
        noted = [[adapter.device, os.fspath(adapter.mount_point)] for adapter in self.adapters.values()]
        temporary = self.runtime / ".mounts.json"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(noted), encoding="utf-8")
            temporary.rename(self.runtime / "mounts.json")

    def _check_mount_point(self, mount_point: str, old: Pyfuse3Adapter | None) -> Path:
        """The path without symbolic links; raises :class:`SimulatedDatastoreError` where nothing can be mounted, unless
        the *old* mount is there.
        """
        if not os.path.exists("/dev/fuse"):
            raise SimulatedDatastoreError(
                "There is no /dev/fuse: load the kernel module fuse, or give the container the device."
            )
        path = Path(checks.text("mount_point", mount_point, path=True)).absolute()
        resolved = Path(resolve(path))
        if old is not None and resolved == old.mount_point:
            return resolved
        # A mount can't be looked at, as it may hang; a table of the kernel tells of it.
        if os.fspath(resolved) in {found.path for found in mounts()}:
            raise SimulatedDatastoreError(
                f"mount_point: {str(path)!r} is in use, give a directory where nothing is mounted."
            )
        if any(adapter.mount_point in resolved.parents for adapter in self.adapters.values()):
            # Its answer would be ours, while we wait for it.
            raise SimulatedDatastoreError(
                f"mount_point: {str(path)!r} is in a mount of this datastore, give a directory outside."
            )
        # Unlike that of Path, this one takes a path that is too long as well.
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
        """Return when the mount has gone. Raises :class:`SimulatedDatastoreError` for a client that has no mount."""
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
        """Stop when the process that wants this daemon ends.

        A parent-death signal would come when the thread ends that started it.
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


def _ready(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
    # Whoever waits for the end of this output gets it now.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _go_first(nice: int = -10) -> None:
    """Be served before others, as a disk doesn't wait for a processor: on a busy machine each request would else wait
    some milliseconds, until somebody's time is up.

    The scheduler weighs each session as a whole (sched(7), "The autogroup feature"), and where it doesn't, each
    process. Only root may ask for more.
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
    # A request leaves no cycles behind; collections would only stop the clients.
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
        _ready({"error": str(error)})
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()

__all__ = ["Daemon"]
