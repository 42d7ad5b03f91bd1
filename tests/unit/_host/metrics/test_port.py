# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to one port, with a clock of the test, over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.port import NEVER, Port, connect
from refusal import refused

REQUEST = b"GET /metrics/XML\n\n"
REPLY = b"<metrics/>\n\n"
INVALID = b"INVALID REQUEST\n\n"


class Side:
    """The port at a path, and the lines of its log."""

    def __init__(self, path: Path, document: Callable[[], bytes] = lambda: b"<metrics/>") -> None:
        self.log: list[str] = []
        self.port = Port(str(path), document, self.log.append)


@pytest.fixture
def open_port() -> Iterator[Callable[..., Side]]:
    made: list[Side] = []

    def create(*arguments: Any) -> Side:
        made.append(Side(*arguments))
        return made[-1]

    yield create
    for side in made:
        side.port.close()


def test_a_request_gets_the_metrics_of_its_moment(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    versions = iter([b"<metrics>1</metrics>", b"<metrics>2</metrics>"])
    port = open_port(guest.path, lambda: next(versions)).port
    port.act(0)
    guest.accept()
    assert (port.is_reading, port.is_writing, port.due) == (True, False, NEVER)
    port.act(1)  # without data nothing happens
    for now, version in ((2, b"1"), (5, b"2")):
        guest.send(REQUEST)
        port.act(now)
        assert guest.read_available() == b"<metrics>" + version + b"</metrics>\n\n"
        assert (port.is_reading, port.due) == (False, now + 1)
        port.act(now + 1)
        assert (port.is_reading, port.due) == (True, NEVER)


def test_one_request_in_a_second(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    port = open_port(guest.path).port
    port.act(0)
    guest.accept()
    guest.send(REQUEST * 2 + b"GET /foo\n\n" + REQUEST)
    found = []
    for number in range(20):
        port.act(number / 4)
        found.append(guest.read_available())
    assert found[::4] == [REPLY, REPLY, INVALID, REPLY, b""]
    assert b"".join(found) == REPLY + REPLY + INVALID + REPLY


def test_a_request_in_pieces_is_read_with_pauses(make_guest: Any, open_port: Any) -> None:
    """A guest that sends single bytes causes no more than two reads in a second."""
    guest = make_guest()
    port = open_port(guest.path).port
    port.act(0)
    guest.accept()
    guest.send(REQUEST[:1])
    port.act(10)
    assert (port.is_reading, port.due) == (False, 10.5)
    for byte in REQUEST[1:]:
        guest.send(bytes([byte]))
        port.act(10.1)
    assert guest.read_available() == b""
    port.act(10.5)
    assert guest.read_available() == REPLY


def test_a_guest_that_floods_the_port_fills_no_memory(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    port = open_port(guest.path).port
    port.act(0)
    guest.accept()
    assert guest.flood(b"x" * 4096) > 0
    for number in range(100):
        port.act(0.5 + number / 1000)
    assert guest.read_available() == INVALID
    # The port has read no more than one request, so that the kernel stops the guest.
    assert guest.flood(b"x") <= 512
    port.act(1.5)
    assert guest.read_available() == INVALID


def test_a_guest_that_never_reads_gets_no_more(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    calls = []
    port = open_port(guest.path, lambda: calls.append(1) or b"m" * 4096).port
    port.act(0)
    guest.accept()
    now = 0
    while not port.is_writing:
        guest.send(REQUEST)
        now += 1
        port.act(now)
    replies = len(calls)
    # The socket holds some replies, and the port the rest of one.
    assert replies < 20
    guest.send(REQUEST * 3)
    for _unused in range(100):
        now += 1
        port.act(now)
        assert not port.is_reading
    assert len(calls) == replies
    received = b""
    while len(received) < (replies + 3) * 4098:
        received += guest.read_available()
        now += 1
        port.act(now)
    assert received == (b"m" * 4096 + b"\n\n") * (replies + 3)


def test_six_attempts_with_doubled_pauses(tmp_path: Path, open_port: Any) -> None:
    side = open_port(tmp_path / "missing")
    times = []
    while side.port.due != NEVER:
        times.append(side.port.due)
        side.port.act(side.port.due)
    assert times == [0, 1, 3, 7, 15, 31]
    assert len(side.log) == 1
    assert str(tmp_path / "missing") in side.log[0]


def test_qemu_that_listens_later(make_guest: Any, open_port: Any, tmp_path: Path) -> None:
    # A socket without a listener, as between bind(2) and listen(2).
    waiting = socket.socket(socket.AF_UNIX)
    waiting.bind(str(tmp_path / "port"))
    port = open_port(tmp_path / "port").port
    port.act(0)
    assert port.due == 1
    waiting.close()
    (tmp_path / "port").unlink()
    port.act(1)
    assert port.due == 3
    guest = make_guest()
    port.act(3)
    guest.accept()
    guest.send(REQUEST)
    port.act(4)
    assert guest.read_available() == REPLY
    # A connection with data starts the attempts anew.
    guest.close()
    port.act(5)
    assert (port.socket, port.due) == (None, 6)
    port.act(6)
    guest.accept()
    assert port.is_reading


def test_half_a_request_and_half_a_reply_end_with_the_connection(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    port = open_port(guest.path, lambda: b"m" * 100000).port
    port.act(0)
    guest.accept()
    guest.send(REQUEST + REQUEST[:5])
    port.act(0)
    assert port.is_writing
    guest.close()
    port.act(2)
    port.act(3)
    guest.accept()
    assert port.is_reading
    guest.send(REQUEST)
    port.act(4)
    assert guest.read_available().startswith(b"m")


def test_qemu_that_closes_each_connection_ends_the_attempts(make_guest: Any, open_port: Any) -> None:
    guest = make_guest()
    side = open_port(guest.path)
    now, connections = 0.0, 0
    while side.port.due != NEVER or side.port.socket:
        side.port.act(now)
        if side.port.socket:
            guest.accept()
            connections += 1
            guest.close()
            side.port.act(now)
        now = side.port.due
    assert (connections, len(side.log)) == (6, 1)


def test_only_a_socket_is_connected(make_guest: Any, open_port: Any, tmp_path: Path) -> None:
    """QEMU's user owns the directory, and could put a link to a socket of root there."""
    guest = make_guest("secret")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "file", "fifo"):
        side = open_port(tmp_path / name)
        if name == "link":
            # The link is root's own here, so it leads to the socket.
            side.port.act(0)
            guest.accept()
            continue
        side.port.act(0)
        assert (side.port.socket, side.port.due, len(side.log)) == (None, NEVER, 1)
        with refused(OSError):
            connect(str(tmp_path / name))


def test_a_path_can_be_longer_than_an_address(tmp_path: Path, open_port: Any) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(deep, os.O_PATH)
    listener.bind(f"/proc/self/fd/{directory}/port")
    os.close(directory)
    listener.listen(1)
    port = open_port(deep / "port").port
    port.act(0)
    assert port.is_reading
    listener.close()
