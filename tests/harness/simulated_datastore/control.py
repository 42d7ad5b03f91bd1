# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The control socket: one JSON object a line, ``{"id", "method", "params"}``; answered, once the change is in force, by
``{"id", "result"}`` or ``{"id", "error"}``. This is the daemon's end; the other one is in :mod:`.client`.
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
#: The longest line that is read, in bytes.
_LONGEST = 1 << 20
#: How many requests of a connection may be in progress: whoever asks more, or reads no answers, is read no further.
_MOST = 64
_log = logging.getLogger(__name__)


class ControlServer:
    """Serves *methods* on a unix socket at *path*, which only its owner may connect to."""

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
                f"The control socket {str(self.path)!r} can't be made: {error.strerror or error}."
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
                        # Too many descriptors, say: no reason to end the mounts.
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
                        # A request that waits must not hold up those after it.
                        nursery.start_soon(
                            self._request, stream, lock, room, None if too_long or len(line) > _LONGEST else line
                        )
                        too_long = False
                    if len(buffer) > _LONGEST:
                        buffer, too_long = b"", True
                # It may have no more to ask and still want its answers.
                await _take(room, _MOST, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # The other end has gone: nobody is waiting for an answer.
            pass

    async def _request(
        self, stream: trio.SocketStream, lock: trio.Lock, room: trio.Semaphore, line: bytes | None
    ) -> None:
        """Answer a line; None is one that was too long to be kept."""
        if line is not None:
            answer = await self.answer(line)
        else:
            answer = {"id": None, "error": f"A request must not be longer than {_LONGEST} bytes."}
        async with lock:
            await stream.send_all(json.dumps(answer).encode() + b"\n")
        room.release()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line."""
        number = None
        try:
            try:
                message = json.loads(line)
            except ValueError as error:
                raise SimulatedDatastoreError("A request must be a JSON object on one line.") from error
            if not isinstance(message, dict) or not isinstance(message.get("params", {}), dict):
                raise SimulatedDatastoreError("A request must be a JSON object, and its params one as well.")
            if isinstance(message.get("id"), (dict, list)):
                raise SimulatedDatastoreError("id: it must be a number or a text.")
            number = message.get("id")
            method = self._methods[choose("method", message.get("method"), sorted(self._methods))]
            params = message.get("params", {})
            parameters = inspect.signature(method).parameters
            if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
                if params and not parameters:
                    raise SimulatedDatastoreError(f"params of {message['method']}: it takes none.")
                for key in params:
                    choose(f"params of {message['method']}", key, sorted(parameters))
                missing = [
                    key
                    for key, parameter in parameters.items()
                    if parameter.default is inspect.Parameter.empty and key not in params
                ]
                if missing:
                    raise SimulatedDatastoreError(f"params of {message['method']}: {missing[0]!r} is missing.")
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


async def _take(room: trio.Semaphore, count: int, stream: trio.SocketStream) -> None:
    """Wait until *count* more requests may be in progress; raises :class:`trio.BrokenResourceError` when the other end
    goes meanwhile.
    """
    with contextlib.suppress(trio.WouldBlock):
        while count:
            room.acquire_nowait()
            count -= 1
    if count:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_gone, stream)
            for _unused in range(count):
                await room.acquire()
            nursery.cancel_scope.cancel()


async def _gone(stream: trio.SocketStream) -> None:
    """Raises :class:`trio.BrokenResourceError` when the other end is closed in both directions, which reading doesn't
    tell.
    """
    poll = select.poll()
    poll.register(stream.socket.fileno(), 0)
    while not poll.poll(0):
        await trio.sleep(0.1)
    raise trio.BrokenResourceError


__all__ = ["ControlServer", "Method"]
