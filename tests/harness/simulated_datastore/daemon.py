# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The daemon: one datastore, the mounts of its clients, and the control socket. ``python -m simulated_datastore.daemon`` with its configuration on
standard input as JSON; one line of JSON on standard output says that it is ready, or why not.
"""
from __future__ import annotations

import gc
import inspect
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import trio

from . import checks, watchdog
from .adapters.pyfuse3_adapter import CAPABILITIES, Pyfuse3Adapter
from .clock import MockClock, RealClock
from .control import ControlServer, Method
from .datastore import Datastore
from .errors import SimulatedDatastoreError
from .methods import Methods
from .mount import Export, Mount
from .nodes import Node
from .profiles import PROFILES, SQUASHES, choose
from .system import mounts

_log = logging.getLogger("simulated_datastore")


class _BugCounter(logging.Handler):
    """Counts what was logged as an error: in this daemon, that is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Daemon:
    """Runs until it is told to stop, its last mount has gone, or its parent has ended."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.runtime = Path(config["runtime"])
        self.backing = Path(os.path.realpath(config["backing"]))
        self.bugs = _BugCounter()
        _log.addHandler(self.bugs)
        clock = MockClock() if config.get("clock") == "mock" else RealClock()
        self.datastore = Datastore(self.backing, CAPABILITIES, clock)
        self.datastore.invalidate = self._invalidate
        self.datastore.disconnect = self.disconnect
        self.adapters: dict[str, Pyfuse3Adapter] = {}
        self.stop = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._watchdog = subprocess.Popen([sys.executable, "-I", watchdog.__file__, str(os.getpid()), str(self.runtime)], start_new_session=True, bufsize=0,
                                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _tell_watchdog(self, kind: str, path: Path) -> None:
        # Of a watchdog that someone killed there is nothing to expect.
        try:
            self._watchdog.stdin.write(json.dumps([kind, os.fspath(path)]).encode() + b"\n")  # type: ignore[union-attr]
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
                await nursery.start(server.serve)
                for mount in self.config["mounts"]:
                    for key in mount:
                        choose("mount", key, list(inspect.signature(self.add_mount).parameters))
                    await self.add_mount(**mount)
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
            self._watchdog.stdin.close()  # type: ignore[union-attr]
            self._watchdog.wait()

    async def add_mount(self, mount_point: str, client: str = "host1", profile: str = "local", squash: str | None = None, anonymous_uid: int = 65534,
                        anonymous_gid: int = 65534, read_only: bool = False, strict: bool = False) -> None:
        """Mount the datastore for one more client; raises :class:`SimulatedDatastoreError`."""
        checks.name("client", client)
        found = PROFILES[choose("profile", profile, list(PROFILES))]
        anonymous = (checks.whole("anonymous_uid", anonymous_uid, most=checks.MOST_ID), checks.whole("anonymous_gid", anonymous_gid, most=checks.MOST_ID))
        export = Export(client, found, choose("squash", found.squash if squash is None else squash, SQUASHES), anonymous,
                        checks.flag("read_only", read_only), checks.flag("strict", strict))
        path = self._check_mount_point(mount_point)
        mount = self.datastore.add_mount(export)
        try:
            adapter = Pyfuse3Adapter(mount, path, self.config["known"])
        except BaseException:
            self.datastore.remove_mount(mount)
            raise
        self._tell_watchdog("mount", path)
        self.adapters[client] = adapter
        self._nursery.start_soon(self._serve, adapter)  # type: ignore[union-attr]

    def _check_mount_point(self, mount_point: str) -> Path:
        """The path without symbolic links; raises :class:`SimulatedDatastoreError` where nothing can be mounted."""
        if not os.path.exists("/dev/fuse"):
            raise SimulatedDatastoreError("There is no /dev/fuse: load the kernel module fuse, or give the container the device.")
        path = Path(checks.text("mount_point", mount_point, path=True)).absolute()
        # A dead mount can't be looked at, only a table of the kernel tells of it.
        taken = {found for _unused, found, _unused in mounts()}
        if os.fspath(path) in taken or (resolved := Path(os.path.realpath(path))).as_posix() in taken:
            raise SimulatedDatastoreError(f"mount_point: {str(path)!r} is in use, give a directory where nothing is mounted.")
        # Unlike that of Path, this one takes a path that is too long as well.
        if not os.path.isdir(resolved):
            raise SimulatedDatastoreError(f"mount_point: {str(path)!r} isn't a directory.")
        if resolved == self.backing or self.backing in resolved.parents or resolved in self.backing.parents:
            raise SimulatedDatastoreError(f"mount_point: {str(path)!r} and the backing directory {str(self.backing)!r} must not contain each other.")
        return resolved

    async def _serve(self, adapter: Pyfuse3Adapter) -> None:
        try:
            await adapter.run()
        except Exception:
            _log.exception("the mount of %s has ended", adapter.mount.client)
        finally:
            self._close(adapter)
        if not self.adapters:
            self.stop.set()

    def _close(self, adapter: Pyfuse3Adapter) -> None:
        if self.adapters.pop(adapter.mount.client, None) is None:
            return
        adapter.close()
        self.datastore.remove_mount(adapter.mount)
        self._tell_watchdog("gone", adapter.mount_point)

    def unmount(self, client: str) -> None:
        """Raises :class:`SimulatedDatastoreError` for a client that has no mount."""
        self.adapters[choose("client", client, list(self.adapters))].terminate()

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
        """Stop when the process that wants this daemon ends. A parent-death signal would come when the thread ends that started it."""
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


def main() -> NoReturn:
    config = json.load(sys.stdin)
    os.umask(0)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    # A request leaves no cycles behind; collections would only stop the clients.
    gc.set_threshold(100_000, 50, 50)
    logging.basicConfig(filename=config["log"], level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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
