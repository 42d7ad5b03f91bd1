# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of all ports: one guest can't delay another, over real sockets and with the real clock."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.port_server import LONGEST_AGE, PortServer
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import RunningDomain

REQUEST = b"GET /metrics/XML\n\n"
INVALID = b"INVALID REQUEST\n\n"
UNAVAILABLE = b"<metrics><!-- host metrics not available --><!-- VM metrics not available --></metrics>\n\n"


def domain(number: int) -> RunningDomain:
    return RunningDomain(f"00000000-0000-4000-8000-{number:012}", number)


@pytest.fixture
def start() -> Iterator[Callable[..., PortServer]]:
    """Return a function that runs a server in a thread."""
    running: list[tuple[PortServer, threading.Thread]] = []

    def run(**options: Any) -> PortServer:
        server = PortServer(lambda line: None, **options)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return server

    yield run
    for server, thread in running:
        server.stop()
        thread.join()


def test_each_domain_gets_its_own_metrics(start: Any, make_guest: Any) -> None:
    guests = [make_guest(str(number)) for number in range(20)]
    server = start()
    server.set_ports({domain(number): str(guest.path) for number, guest in enumerate(guests)})
    server.publish({domain(number): b"<metrics>%d</metrics>" % number for number in range(1, 20)})
    for guest in guests:
        guest.accept()
        guest.send(REQUEST)
    expected = [UNAVAILABLE, *(b"<metrics>%d</metrics>\n\n" % number for number in range(1, 20))]
    assert [guest.read() for guest in guests] == expected


def test_ports_come_and_go(start: Any, make_guest: Any) -> None:
    first, second = make_guest("first"), make_guest("second")
    server = start()
    server.publish({domain(1): b"1", domain(2): b"2", domain(3): b"3"})
    server.set_ports({domain(1): str(first.path)})
    first.accept()
    server.set_ports({domain(1): str(first.path), domain(2): str(second.path)})
    second.accept()
    first.send(REQUEST)
    assert first.read() == b"1\n\n"
    server.set_ports({domain(2): str(second.path)})
    assert first.connection.recv(1) == b""
    # The domain was started again, with the same socket.
    server.set_ports({domain(3): str(second.path)})
    assert second.connection.recv(1) == b""
    second.accept()
    second.send(REQUEST)
    assert second.read() == b"3\n\n"


def test_qemu_that_ends_and_comes_back(start: Any, make_guest: Any) -> None:
    guest = make_guest()
    server = start()
    server.publish({domain(1): b"1"})
    server.set_ports({domain(1): str(guest.path)})
    for _unused in range(2):
        guest.accept()
        guest.send(REQUEST)
        assert guest.read() == b"1\n\n"
        guest.close()


@contextlib.contextmanager
def attacks(hostile: list[tuple[Any, bytes]], flapping: list[Any]) -> Iterator[None]:
    """Let guests flood their ports with texts, and others close and open their ports, during a block."""
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            for guest, text in hostile:
                guest.flood(text)

    def flap() -> None:
        for guest in flapping:
            guest.close()
        for guest in flapping:
            guest.accept()

    threads = [threading.Thread(target=flood), threading.Thread(target=flap)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_hostile_guests_delay_no_other(start: Any, make_guest: Any) -> None:
    """Some guests flood their ports with lines, some never read, some send requests without an end, and some open and
    close the port all the time.
    """
    count = 5
    kinds = [b"x" * 65536, REQUEST * 1000, b"GET /metrics/XML\n" * 1000, b"\n"]
    hostile = [(make_guest(f"{kind}-{number}"), text) for kind, text in enumerate(kinds) for number in range(count)]
    flapping = [make_guest(f"flapping-{number}") for number in range(count)]
    good = make_guest("good")
    server = start()
    guests = [guest for guest, _text in hostile] + flapping + [good]
    server.publish({domain(number): b"m" * 2000 for number in range(len(guests))})
    server.set_ports({domain(number): str(guest.path) for number, guest in enumerate(guests)})
    for guest in guests:
        guest.accept()
    with attacks(hostile, flapping):
        for _unused in range(3):
            good.send(REQUEST)
            assert good.read() == b"m" * 2000 + b"\n\n"


def test_a_closed_connection_costs_nothing_while_its_port_rests(make_guest: Any) -> None:
    """Between two requests, the thread waits for no event of the socket."""
    guest = make_guest()
    now = [0.0]
    server = PortServer(lambda line: None, clock=lambda: now[0])
    server.publish({domain(1): b"1"})
    server.set_ports({domain(1): str(guest.path)})
    server.step(0)
    guest.accept()
    guest.send(REQUEST)
    server.step(0)
    assert guest.read() == b"1\n\n"
    guest.close()
    # epoll_wait(2) returns at once if there is an event. Otherwise each step takes its time.
    begin = threading.Event()
    timer = threading.Timer(0.05, begin.set)
    timer.start()
    steps = 0
    while not begin.is_set():
        server.step(0.01)
        steps += 1
    assert steps < 20
    now[0] = 1.0
    server.step(0)
    now[0] = 2.0
    server.step(0)
    guest.accept()
    server.stop()
    server.run()


def test_old_metrics_are_not_given(make_guest: Any) -> None:
    guest = make_guest()
    now = [0.0]
    server = PortServer(lambda line: None, clock=lambda: now[0])
    server.set_ports({domain(1): str(guest.path)})
    server.step(0)
    guest.accept()
    for time, published, reply in (
        (1, False, UNAVAILABLE),
        (2, True, b"1\n\n"),
        (2 + LONGEST_AGE, False, b"1\n\n"),
        (4 + LONGEST_AGE, False, UNAVAILABLE),
    ):
        now[0] = time
        if published:
            server.publish({domain(1): b"1"})
        server.step(0)  # the pause after the request before ends
        guest.send(REQUEST)
        server.step(0)
        assert guest.read() == reply
    server.stop()
    server.run()
