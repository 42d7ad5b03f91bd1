# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A driver of a datastore that replaces adapter and kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from simulated_datastore.capabilities import Capabilities
from simulated_datastore.clock import MockClock
from simulated_datastore.datastore import Datastore
from simulated_datastore.errors import SimulatedDatastoreError
from simulated_datastore.mount import Export, Handle, Mount
from simulated_datastore.profiles import PROFILES

BLOCK = 4096
ALL = Capabilities("fake", caller_of_data=True, disconnect=True, strict=True, invalidate=True)


@dataclass(frozen=True)
class Caller:
    uid: int = 0
    gid: int = 0
    pid: int = 0


class Model:
    """A datastore with one client, *host1*, and a clock that is moved by hand.

    Each method is one system call of that client.
    """

    def __init__(
        self, root: Path, capabilities: Capabilities = ALL, profile: str = "local", squash: str = "none", **export: Any
    ) -> None:
        self.root = root
        self.clock = MockClock()
        self.datastore = Datastore(root, capabilities, self.clock)
        self.mount = self.add("host1", profile, squash, **export)
        self.caller = Caller()

    def add(self, client: str, profile: str = "local", squash: str = "none", **export: Any) -> Mount:
        return self.datastore.add_mount(Export(client, PROFILES[profile], squash, **export))

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            with trio.fail_after(20):
                return await work()

        return trio.run(main)

    async def ino(self, path: str) -> int:
        ino = self.datastore.nodes.root.ino
        for name in path.split("/"):
            if name:
                ino = (await self.mount.lookup(ino, name.encode(), self.caller)).found.ino  # type: ignore[union-attr]
        return ino

    async def _at(self, path: str) -> tuple[int, bytes]:
        parent, _unused, name = path.rpartition("/")
        return await self.ino(parent), name.encode()

    async def acreate(self, path: str) -> Handle:
        parent, name = await self._at(path)
        return (await self.mount.create(parent, name, 0o644, os.O_RDWR, self.caller)).result

    def create(self, path: str, data: bytes = b"") -> Handle:
        async def work() -> Handle:
            handle = await self.acreate(path)
            if data:
                assert await self.mount.write(handle.number, 0, data) == len(data)
            return handle

        return self.run(work)

    def open(self, path: str, flags: int = os.O_RDWR) -> Handle:
        async def work() -> Handle:
            return await self.mount.open(await self.ino(path), flags, self.caller)

        return self.run(work)

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        return self.run(lambda: self.mount.write(handle.number, offset, data))

    def read(self, handle: Handle, offset: int, size: int) -> bytes:
        return self.run(lambda: self.mount.read(handle.number, offset, size))

    def fsync(self, handle: Handle, data_only: bool = False) -> None:
        self.run(lambda: self.mount.fsync(handle.number, data_only))

    def close(self, handle: Handle) -> None:
        async def work() -> None:
            try:
                await self.mount.close(handle.number)
            finally:
                await self.mount.release(handle.number)

        self.run(work)

    def fsyncdir(self, path: str) -> None:
        async def work() -> None:
            handle = await self.mount.opendir(await self.ino(path), self.caller)
            await self.mount.fsyncdir(handle.number, False)
            await self.mount.release(handle.number, "releasedir")

        self.run(work)

    def mkdir(self, path: str) -> None:
        async def work() -> None:
            await self.mount.mkdir(*await self._at(path), 0o755, self.caller)

        self.run(work)

    def unlink(self, path: str) -> None:
        async def work() -> None:
            parent, name = await self._at(path)
            await self.ino(path)
            await self.mount.unlink(parent, name, self.caller)

        self.run(work)

    def rmdir(self, path: str) -> None:
        async def work() -> None:
            await self.mount.rmdir(*await self._at(path), self.caller)

        self.run(work)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        async def work() -> None:
            await self.mount.rename(*await self._at(old), *await self._at(new), flags, self.caller)

        self.run(work)

    def link(self, old: str, new: str) -> None:
        async def work() -> None:
            await self.mount.link(await self.ino(old), *await self._at(new), self.caller)

        self.run(work)

    def setattr(self, path: str, **change: int) -> None:
        async def work() -> None:
            await self.mount.setattr(await self.ino(path), change, None, self.caller)

        self.run(work)

    def setxattr(self, path: str, name: bytes, value: bytes) -> None:
        async def work() -> None:
            await self.mount.setxattr(await self.ino(path), name, value, self.caller)

        self.run(work)

    def tree(self) -> dict[str, bytes | None]:
        """Return the content of the backing directory: bytes by path, None for directories."""
        return {
            str(path.relative_to(self.root)): None if path.is_dir() else path.read_bytes()
            for path in sorted(self.root.rglob("*"))
        }


def error_of(work: Callable[[], Any]) -> str:
    """Return the name of the error that *work* raises."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        work()
    return errno.errorcode[caught.value.errno or 0]


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(SimulatedDatastoreError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message
