# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The side of a session that does the work: one request on standard input, one answer on standard output."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from .stream import Received
from .wire import CONFIRMED, Operation, decode, encode, failure

#: Seconds until a signal is sent again.
SIGNAL_INTERVAL = 0.5

#: The request of one operation: ``action``, ``arguments``, ``named``, ``size`` (bytes of the data behind the request,
#: or ``None``), and whatever ``begin`` needs.
Request = Mapping[str, Any]

#: A function for each name of an operation, and the function that deletes the thing that an operation made, by its
#: result.
Handlers = tuple[Mapping[str, Callable[..., Any]], Callable[[Any], object]]


def serve(
    stdin: IO[bytes],
    *,
    operations: Mapping[str, Operation],
    kinds: Mapping[str, type],
    begin: Callable[[Request, Received | None, Callable[[str], object]], Handlers],
) -> None:
    """Read a request, do its operation, and write the answer. A result that has to be confirmed and isn't is undone.

    :arg operations: the table that both sides share.
    :arg kinds: the dataclasses that the request may have, by name.
    :arg begin: returns the handlers. Its arguments are the request, the data behind the request or ``None``, and a
        function that writes a log line.
    """
    import signal

    # Other code that prints doesn't write an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    confirmation = _Confirmation()
    signal.signal(signal.SIGTERM, _terminate)
    request = decode(stdin.readline(), kinds)
    received = None
    if request["size"] is None:
        confirmation.watch()
    else:
        received = Received(stdin, request["size"], confirmation.watch)
    handlers, undo = begin(request, received, lambda text: answers.write(encode({"log": text})))
    is_confirmed = operations[request["action"]].is_confirmed
    result: Any = None
    try:
        try:
            result = handlers[request["action"]](*request["arguments"], **request["named"])
        except Exception as error:  # pylint: disable=broad-except  # any error is an answer
            with contextlib.suppress(OSError):
                answers.write(encode(failure(error)))
            return
        answers.write(encode({"result": result}, has_kinds=False))
        if is_confirmed:
            confirmation.wait()
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if result is not None and is_confirmed:
            undo(result)
        raise


class _Confirmation:
    """The end of standard input: a confirmation, or the end of the other side, which ends this process."""

    def __init__(self) -> None:
        import threading

        self._confirmed = threading.Event()
        self._main = threading.get_ident()
        self.wait = self._confirmed.wait

    def watch(self) -> None:
        """Begin to read standard input, whose data was read."""
        import threading

        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        import signal

        with contextlib.suppress(OSError):
            if os.read(0, 1) == CONFIRMED:
                self._confirmed.set()
                return
        while True:  # a signal that comes just before the main thread waits for something doesn't wake it
            signal.pthread_kill(self._main, signal.SIGTERM)
            time.sleep(SIGNAL_INTERVAL)


def _terminate(number: int, _frame: object) -> NoReturn:
    """Let the action remove what it made. Nothing interrupts this."""
    import signal

    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


__all__ = ["Handlers", "Request", "serve"]
