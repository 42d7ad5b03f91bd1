# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The daemon's end of the control socket; :mod:`.client` is the other end.

A request is a line of JSON, ``{"id", "method", "params"}``. The answer, ``{"id", "result"}`` or ``{"id", "error"}``,
follows when the change is in force.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import select
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from .errors import SimulatedDatastoreError
from .profiles import choose

Method = Callable[..., Any | Awaitable[Any]]
#: Upper bound of a line in bytes.
_LONGEST = 1 << 20
#: Upper bound of the requests of a connection in progress. At this bound, and until the client reads its answers, the
#: server reads no more lines.
_MOST = 64
_log = logging.getLogger(__name__)


class ControlServer:
    """A server of *methods* on a unix socket at *path*. Only the owner may connect."""

    def __init__(self, path: Path, methods: dict[str, Method]) -> None:
        self.path = path
        self._methods = methods

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        old = os.umask(0o177)
        try:
            listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            await listener.bind(os.fspath(self.path))
        except OSError as error:
            raise SimulatedDatastoreError(
                f"The control socket {str(self.path)!r} can't be created: {error.strerror or error}."
            ) from error
        finally:
            os.umask(old)
        listener.listen(64)
        with listener:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    try:
                        connection, _unused = await listener.accept()
                    except OSError as error:
                        # A lack of descriptors, for example, must not end the mounts.
                        _log.warning("a connection can't be accepted: %s", error.strerror)
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._connection, trio.SocketStream(connection))

    async def _connection(self, stream: trio.SocketStream) -> None:
        lock, room = trio.Lock(), trio.Semaphore(_MOST)
        try:
            async with stream, trio.open_nursery() as nursery:
                buffer, too_long = b"", False
                while chunk := await stream.receive_some(65536):
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        await _take(room, 1, stream)
                        # A waiting request must not delay later ones.
                        nursery.start_soon(
                            self._request, stream, lock, room, None if too_long or len(line) > _LONGEST else line
                        )
                        too_long = False
                    if len(buffer) > _LONGEST:
                        buffer, too_long = b"", True
                # The client may have closed its sending side and still read the answers.
                await _take(room, _MOST, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client is gone: no one reads an answer.
            pass

    async def _request(
        self, stream: trio.SocketStream, lock: trio.Lock, room: trio.Semaphore, line: bytes | None
    ) -> None:
        """Answer a line; None stands for a line over the bound."""
        if line is not None:
            answer = await self.answer(line)
        else:
            answer = {"id": None, "error": f"A request must not be longer than {_LONGEST} bytes."}
        async with lock:
            await stream.send_all(json.dumps(answer).encode() + b"\n")
        room.release()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to one line."""
        number = None
        try:
            message = _parse(line)
            number = message.get("id")
            name = choose("method", message.get("method"), sorted(self._methods))
            method, params = self._methods[name], message.get("params", {})
            _check_params(f"params of {name}", method, params)
            result = method(**params)
            if inspect.isawaitable(result):
                result = await result
        except SimulatedDatastoreError as error:
            return {"id": number, "error": str(error)}
        except RecursionError:
            return {"id": number, "error": "A request must not be nested so deeply."}
        except Exception as error:
            _log.exception("a bug in the answer to %r", line[:500])
            return {
                "id": number,
                "error": f"This is a bug in the daemon, its log has more: {type(error).__name__}: {error}.",
            }
        return {"id": number, "result": result}


def _parse(line: bytes) -> dict[str, Any]:
    """Parse the JSON object of a request; its id and its params have the right type."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise SimulatedDatastoreError("A request must be a JSON object on one line.") from error
    if not isinstance(message, dict) or not isinstance(message.get("params", {}), dict):
        raise SimulatedDatastoreError("A request must be a JSON object, and its params one as well.")
    if isinstance(message.get("id"), (dict, list)):
        raise SimulatedDatastoreError("id: only a number or a text is accepted.")
    return message


def _check_params(option: str, method: Method, params: dict[str, Any]) -> None:
    """Raise :class:`SimulatedDatastoreError` unless *method* accepts the names of *params*."""
    parameters = inspect.signature(method).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if params and not parameters:
        raise SimulatedDatastoreError(f"{option}: none are accepted.")
    for key in params:
        choose(option, key, sorted(parameters))
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in params:
            raise SimulatedDatastoreError(f"{option}: {key!r} is missing.")


async def _take(room: trio.Semaphore, count: int, stream: trio.SocketStream) -> None:
    """Wait for room for *count* more requests. Raises :class:`trio.BrokenResourceError` if the client goes."""
    with contextlib.suppress(trio.WouldBlock):
        while count:
            room.acquire_nowait()
            count -= 1
    if count:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_closed, stream)
            for _unused in range(count):
                await room.acquire()
            nursery.cancel_scope.cancel()


async def _wait_closed(stream: trio.SocketStream) -> None:
    """Wait, and raise :class:`trio.BrokenResourceError` when the client closes both directions, which a read doesn't
    show.
    """
    poll = select.poll()
    poll.register(stream.socket.fileno(), 0)
    while not poll.poll(0):
        await trio.sleep(0.1)
    raise trio.BrokenResourceError


__all__ = ["ControlServer", "Method"]
