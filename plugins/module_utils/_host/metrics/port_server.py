# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ports of all domains, served by one thread."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections.abc import Callable, Mapping

from ..._model.metrics import RunningDomain
from .document import UNAVAILABLE
from .port import NEVER, Port

#: Time until a document is too old for a reply, in seconds.
LONGEST_AGE = 15.0

#: Size of a read from the pipe that wakes the thread, in bytes.
_WAKES = 4096


class PortServer:
    """A server of ports. One thread calls :meth:`run`. Other threads call the other methods.

    :arg log: gets a line.
    :arg clock: returns the time in seconds.
    """

    def __init__(self, log: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted: Mapping[RunningDomain, str] = {}
        self._documents: tuple[float, Mapping[RunningDomain, bytes]] = (0.0, {})
        self._is_stopped = False
        self._ports: dict[RunningDomain, Port] = {}
        #: The ports by the descriptors of their sockets, each with the events that the thread waits for.
        self._waiting: dict[int, tuple[Port, int]] = {}
        self._timers: list[tuple[float, int, Port]] = []
        self._order = itertools.count()
        self._poll = select.epoll()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_reader, select.EPOLLIN)

    def set_ports(self, paths: Mapping[RunningDomain, str]) -> None:
        """Serve these ports, by domain, and no others."""
        with self._lock:
            if paths == self._wanted:
                return
            self._wanted = dict(paths)
        self._wake()

    def publish(self, documents: Mapping[RunningDomain, bytes]) -> None:
        """Replace the documents of all domains."""
        self._documents = self._clock(), documents

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._is_stopped = True
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"\0")
        except BlockingIOError:  # the thread has enough reasons to wake up
            pass

    def run(self) -> None:
        """Serve the ports until :meth:`stop`, and close them."""
        while not self._is_stopped:
            self.step(self._timeout())
        for port in self._ports.values():
            port.close()

    def step(self, timeout: float | None) -> None:
        """Wait for something to do, and do what can be done without waiting.

        :arg timeout: upper bound of the wait in seconds; ``None`` for no bound.
        """
        events = self._poll.poll(timeout)
        now = self._clock()
        for descriptor, _event in events:
            if descriptor == self._wake_reader:
                os.read(self._wake_reader, _WAKES)
                self._apply(now)
            elif descriptor in self._waiting:
                self._act(self._waiting[descriptor][0], now)
        while self._timers and self._timers[0][0] <= now:
            due, _order, port = heapq.heappop(self._timers)
            if port.due == due:  # otherwise another step came first
                self._act(port, now)

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - self._clock()) if self._timers else None

    def _apply(self, now: float) -> None:
        """Open and close ports, so that they are those of the last call of :meth:`set_ports`."""
        with self._lock:
            wanted = self._wanted
        for key, port in list(self._ports.items()):
            if wanted.get(key) != port.path:
                self._forget(port)
                port.close()
                del self._ports[key]
        for key, path in wanted.items():
            if key not in self._ports:
                self._ports[key] = Port(path, lambda key=key: self._document(key), self._log)  # type: ignore[misc]
                self._act(self._ports[key], now)

    def _document(self, key: RunningDomain) -> bytes:
        published, documents = self._documents
        is_fresh = self._clock() - published <= LONGEST_AGE
        return documents.get(key, UNAVAILABLE) if is_fresh else UNAVAILABLE

    def _act(self, port: Port, now: float) -> None:
        descriptor, due = port.socket.fileno() if port.socket else None, port.due
        port.act(now)
        if descriptor is not None and port.socket is None:
            # The kernel has removed a closed socket from the poll.
            self._waiting.pop(descriptor, None)
        self._wait_for(port)
        if port.due not in (due, NEVER):
            heapq.heappush(self._timers, (port.due, next(self._order), port))

    def _wait_for(self, port: Port) -> None:
        """Let the thread wait for the events that the port waits for."""
        if port.socket is None:
            return
        descriptor = port.socket.fileno()
        wanted = select.EPOLLOUT if port.is_writing else select.EPOLLIN if port.is_reading else 0
        _port, known = self._waiting.pop(descriptor, (port, 0))
        if wanted and not known:
            self._poll.register(descriptor, wanted)
        elif known and not wanted:
            # Without any event to wait for, the kernel would still report a closed connection again and again.
            self._poll.unregister(descriptor)
        elif known != wanted:
            self._poll.modify(descriptor, wanted)
        if wanted:
            self._waiting[descriptor] = port, wanted

    def _forget(self, port: Port) -> None:
        if port.socket is not None:
            self._waiting.pop(port.socket.fileno(), None)


__all__ = ["LONGEST_AGE", "PortServer"]
