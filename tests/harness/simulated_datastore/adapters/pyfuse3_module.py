# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Copies of the pyfuse3 extension. Its session is in module globals, so each mount needs a module of its own."""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from ..errors import SimulatedDatastoreError

_numbers = itertools.count(1)


class _Lock:
    """A replacement of trio's lock without its checkpoint. The adapter never has two waiting readers."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_unused: object) -> None:
        pass


class _Nursery:
    """A replacement of trio's nursery for the one loop of pyfuse3.

    The loop starts again after a withdrawn request, because pyfuse3 would leak its buffer of some hundred KiB.
    """

    def __init__(self) -> None:
        self._loop: tuple[Callable[..., Awaitable[None]], tuple[Any, ...]] | None = None

    def start_soon(self, loop: Callable[..., Awaitable[None]], *arguments: Any, name: object = None) -> None:
        self._loop = loop, arguments

    async def __aenter__(self) -> _Nursery:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_unused: object) -> None:
        while self._loop is not None and kind is None:
            loop, arguments = self._loop
            try:
                await loop(*arguments)
            except BlockingIOError:
                continue
            break


class _Trio(types.ModuleType):
    """The part of trio that pyfuse3's loop uses, with few checkpoints, because one costs as much as a small request."""

    #: Upper bound of the time in seconds in which requests follow each other without a checkpoint.
    BURST = 0.02

    def __init__(self) -> None:
        super().__init__("trio")
        self.lowlevel = self
        self.Lock = _Lock
        self.ClosedResourceError = trio.ClosedResourceError
        self.open_nursery = _Nursery
        self.current_trio_token = trio.lowlevel.current_trio_token
        self.current_task = trio.lowlevel.current_task
        self.notify_closing = trio.lowlevel.notify_closing
        #: Function that returns True if a request is ready, or very soon. A wait in it costs a fraction of a wait in
        #: trio.
        self.ready: Callable[[], bool] = lambda: False
        self._until = 0.0
        #: True while a reader waits for the next request; ``starting`` is true before its first wait.
        self.waiting = False
        self.starting = False

    async def wait_readable(self, fd: int) -> None:
        self.starting = False
        if time.monotonic() < self._until and self.ready():
            return
        self.waiting = True
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            self.waiting = False
            self._until = time.monotonic() + self.BURST


def copy_module() -> tuple[Any, _Trio]:
    """Return a new copy of ``pyfuse3`` with a session of its own, and its replacement of trio.

    Raises :class:`SimulatedDatastoreError` if pyfuse3 is missing.
    """
    try:
        import pyfuse3
    except ImportError as error:
        raise SimulatedDatastoreError(
            f"pyfuse3 can't be imported ({error}): install libfuse3-dev, fuse3, pkg-config and gcc, then pip install "
            "pyfuse3."
        ) from error
    name = f"_simulated_datastore_mount_{next(_numbers)}"
    with tempfile.TemporaryDirectory(prefix="simulated-datastore-") as directory:
        # Two modules of one file would share their variables in the dynamic linker.
        shutil.copytree(
            Path(pyfuse3.__file__).parent,
            Path(directory, "pyfuse3"),
            ignore=shutil.ignore_patterns("*.c", "*.h", "*.pyx", "__pycache__"),
        )
        package = types.ModuleType(name)
        package.__path__ = [directory]
        sys.modules[name] = package
        module = importlib.import_module(f"{name}.pyfuse3")
    shim = _Trio()
    vars(module)["trio"] = shim
    return module, shim


__all__ = ["copy_module"]
