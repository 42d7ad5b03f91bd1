# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The remote side of a session: one request on standard input, one answer on standard output."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from .stream import Received
from .wire import CONFIRMED, Operation, decode, describe_failure, encode

#: Interval between two signals in seconds.
SIGNAL_INTERVAL = 0.5

#: Interval between two heartbeats in seconds. It is a small part of :data:`.session.SILENCE`.
HEARTBEAT_INTERVAL = 10.0

#: The request of one operation: ``action``, ``arguments``, ``named``, ``size`` (bytes of the data behind the request,
#: or ``None``), and further fields for ``begin``.
Request = Mapping[str, Any]

#: The functions of operations by name, and a function that deletes what an operation created. The argument of the
#: latter is the result of the operation.
Handlers = tuple[Mapping[str, Callable[..., Any]], Callable[[Any], object]]


def serve(
    stdin: IO[bytes],
    *,
    operations: Mapping[str, Operation],
    kinds: Mapping[str, type],
    begin: Callable[[Request, Any, Callable[[str], object]], Handlers],
    peer: Callable[[IO[bytes], IO[bytes], Request], object] | None = None,
) -> None:
    """Read a request, run its operation, and write the answer. If a result needs a confirmation and none arrives, undo
    the operation.

    :arg operations: the table that both sides share.
    :arg kinds: the dataclasses that the request may contain, by name.
    :arg begin: returns the handlers. Its arguments are the request, the data behind the request, and a function that
        writes a log line. The data is a :class:`.Received`, the result of ``peer``, or ``None``.
    :arg peer: returns the other side of an operation that sends or receives a tree (:func:`.open_peer`), from standard
        input, from a file that writes to the other side, and from the request.
    """
    import signal
    import threading

    # Code that prints must not write into the answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    threading.Thread(target=_send_heartbeats, daemon=True).start()
    confirmation = _Confirmation()
    signal.signal(signal.SIGTERM, _terminate)
    request = decode(stdin.readline(), kinds)
    received: object = None
    if request.get("transfer") and peer is not None:
        received = peer(stdin, answers, request)
    elif request["size"] is None:
        confirmation.watch()
    else:
        received = Received(stdin, request["size"], confirmation.watch)
    handlers, undo = begin(request, received, lambda text: answers.write(encode({"log": text})))
    is_confirmed = operations[request["action"]].is_confirmed
    result: Any = None
    try:
        try:
            result = handlers[request["action"]](*request["arguments"], **request["named"])
        except Exception as error:  # pylint: disable=broad-except  # any error is sent to the other side
            with contextlib.suppress(OSError):
                answers.write(encode(describe_failure(error)))
            return
        answers.write(encode({"result": result}, has_kinds=False))
        if is_confirmed:
            confirmation.wait()
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if result is not None and is_confirmed:
            undo(result)
        raise


def _send_heartbeats() -> None:
    """Write an empty line to standard error from time to time, as long as this process isn't stopped.

    Standard error has its own channel of ssh(1), so heartbeats don't mix with data. A slow disk doesn't stop them.
    """
    with contextlib.suppress(OSError):
        while True:
            time.sleep(HEARTBEAT_INTERVAL)
            os.write(2, b"\n")


class _Confirmation:
    """The end of standard input. It is a confirmation, or the end of the connection, which terminates this process."""

    def __init__(self) -> None:
        import threading

        self._confirmed = threading.Event()
        self._main = threading.get_ident()
        self.wait = self._confirmed.wait

    def watch(self) -> None:
        """Start to wait for the confirmation, after the data on standard input was read."""
        import threading

        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        import signal

        with contextlib.suppress(OSError):
            if os.read(0, 1) == CONFIRMED:
                self._confirmed.set()
                return
        while True:  # a signal just before a blocking call doesn't interrupt the call
            signal.pthread_kill(self._main, signal.SIGTERM)
            time.sleep(SIGNAL_INTERVAL)


def _terminate(number: int, _frame: object) -> NoReturn:
    """Exit, and let the action remove its files. Further signals don't interrupt this."""
    import signal

    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


__all__ = ["Handlers", "Request", "serve"]
