# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The adapter's handlers with a fake model and without a mount: their results for answers, errors and bugs."""

from __future__ import annotations

import errno
import logging
import os
import stat
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
from simulated_datastore.adapters.pyfuse3_adapter import _operations
from simulated_datastore.profiles import PROFILES


class FakeMount:
    """A mount with the test's answers."""

    client = "host1"

    def __init__(self, answer: Any = None) -> None:
        self.export = SimpleNamespace(profile=PROFILES["local"], strict=False)
        self.root = SimpleNamespace(ino=777, kind=stat.S_IFDIR, generation=0, handles=[], lookups=1)
        self.nodes = SimpleNamespace(root=self.root)
        self.lookups: dict[int, int] = {}
        self.forgotten: list[tuple[int, int]] = []
        self.asked: list[Any] = []
        self.answer = answer

    def forget(self, ino: int, number: int) -> None:
        self.forgotten.append((ino, number))

    async def _any(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    lookup = getattr = read = setattr = _any


@pytest.fixture
def mount() -> FakeMount:
    return FakeMount()


@pytest.fixture
def handlers(mount: FakeMount) -> Any:
    return _operations(SimpleNamespace(mount=mount, trim_nodes=lambda: None), pyfuse3, acl=True)  # type: ignore[arg-type]


CONTEXT = SimpleNamespace(uid=0, gid=0, pid=1)


def test_the_root_is_called_one_by_the_kernel(mount: FakeMount, handlers: Any) -> None:
    mount.answer = SimpleNamespace(found=mount.root, node=mount.root, stat=os.stat("/"))
    assert trio.run(handlers.lookup, 1, b"..", CONTEXT).st_ino == 1
    assert mount.asked == [(777, b"..", CONTEXT)]
    status = trio.run(handlers.getattr, 1, CONTEXT)
    assert (status.st_mtime_ns, status.st_mode, status.attr_timeout) == (
        os.stat("/").st_mtime_ns,
        os.stat("/").st_mode,
        60,
    )
    handlers.forget([(1, 5), (42, 2)])
    assert mount.forgotten == [(42, 2)]


def test_an_error_is_the_answer(mount: FakeMount, handlers: Any, caplog: pytest.LogCaptureFixture) -> None:
    mount.answer = OSError(errno.EDQUOT, "quota")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(handlers.read, 1, 0, 10)
    assert caught.value.errno == errno.EDQUOT
    assert caplog.records == []


def test_a_bug_is_eio_and_a_traceback(mount: FakeMount, handlers: Any, caplog: pytest.LogCaptureFixture) -> None:
    mount.answer = ZeroDivisionError("a bug")
    with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(handlers.read, 1, 0, 10)
    assert caught.value.errno == errno.EIO
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].name.startswith("simulated_datastore")


def test_only_what_is_asked_for_is_changed(mount: FakeMount, handlers: Any) -> None:
    mount.answer = SimpleNamespace(node=mount.root, stat=os.stat("/"))
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size, wanted.st_mode = 5, 0o100600
    fields = SimpleNamespace(
        update_size=True, update_uid=False, update_gid=False, update_mode=True, update_atime=False, update_mtime=False
    )
    trio.run(handlers.setattr, 42, wanted, fields, None, CONTEXT)
    assert mount.asked == [(42, {"size": 5, "mode": 0o100600}, None, CONTEXT)]
