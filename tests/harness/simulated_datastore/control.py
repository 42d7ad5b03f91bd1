# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The control socket: one JSON object a line, ``{"id", "method", "params"}``; answered, once the change is in force, by ``{"id", "result"}`` or
``{"id", "error"}``. This is the daemon's end; the other one is in :mod:`.client`.
"""
from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from .errors import SimulatedDatastoreError
from .profiles import choose

Method = Callable[..., Any | Awaitable[Any]]
#: The longest line that is read, in bytes.
_LONGEST = 1 << 20
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
            raise SimulatedDatastoreError(f"The control socket {str(self.path)!r} can't be made: {error.strerror or error}.") from error
        finally:
            os.umask(old)
        listener.listen(64)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                connection, _unused = await listener.accept()
                nursery.start_soon(self._connection, trio.SocketStream(connection))

    async def _connection(self, stream: trio.SocketStream) -> None:
        lock = trio.Lock()
        try:
            async with stream, trio.open_nursery() as nursery:
                buffer = b""
                while chunk := await stream.receive_some(65536):
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        # A request that waits must not hold up those after it.
                        nursery.start_soon(self._request, stream, lock, line)
                    if len(buffer) > _LONGEST:
                        break
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # The other end has gone: nobody is waiting for an answer.
            pass

    async def _request(self, stream: trio.SocketStream, lock: trio.Lock, line: bytes) -> None:
        answer = await self.answer(line)
        async with lock:
            await stream.send_all(json.dumps(answer).encode() + b"\n")

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
            number = message.get("id")
            method = self._methods[choose("method", message.get("method"), sorted(self._methods))]
            params = message.get("params", {})
            parameters = inspect.signature(method).parameters
            if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
                if params and not parameters:
                    raise SimulatedDatastoreError(f"params of {message['method']}: it takes none.")
                for key in params:
                    choose(f"params of {message['method']}", key, sorted(parameters))
                missing = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty and key not in params]
                if missing:
                    raise SimulatedDatastoreError(f"params of {message['method']}: {missing[0]!r} is missing.")
            result = method(**params)
            if inspect.isawaitable(result):
                result = await result
        except SimulatedDatastoreError as error:
            return {"id": number, "error": str(error)}
        except Exception as error:
            _log.exception("a bug in the answer to %r", line[:500])
            return {"id": number, "error": f"This is a bug in the daemon, its log has more: {type(error).__name__}: {error}."}
        return {"id": number, "result": result}


__all__ = ["ControlServer", "Method"]
