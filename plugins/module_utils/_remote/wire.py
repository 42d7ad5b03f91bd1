# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages between two hosts: lines of JSON, and the table of operations that both sides share.

The other host is untrusted, so names in a message are only looked up in fixed tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._core import errors, records
from .._core.errors import CommandFailed, InvalidInput, UnsupportedAction, VmstoreError, printable

#: The byte by which a host confirms a result.
CONFIRMED = b"\n"

#: The beginning of an error of a further host, which the host of this message reached.
NESTED = "On the "

#: The errors that a message can contain, by name.
ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, VmstoreError)
}


@records.dataclass(frozen=True)
class Operation:
    """An operation that another host runs.

    :arg result: the type of the result, as an annotation for :func:`read_plain`.
    :arg is_quick: whether the operation reads no data and so has to end within the deadline of the user.
    :arg is_confirmed: whether the operation creates data that is deleted again unless the user confirms the result.
    """

    result: str = "None"
    is_quick: bool = False
    is_confirmed: bool = False


def encode(message: Mapping[str, object], *, has_kinds: bool = True) -> bytes:
    """Return a message as a line of JSON.

    :arg has_kinds: whether a dataclass includes its name under ``is``, from which :func:`decode` rebuilds it.
    """

    def plain(value: Any) -> object:
        if records.is_dataclass(value):
            kind = {"is": type(value).__name__} if has_kinds else {}
            return {**kind, **{field.name: getattr(value, field.name) for field in records.fields(value)}}
        if isinstance(value, Mapping):
            return dict(value)
        return list(value) if isinstance(value, frozenset) else str(value)

    return json.dumps(message, default=plain).encode() + b"\n"


def decode(line: bytes, kinds: Mapping[str, type]) -> Any:
    """Return the message in a line.

    :arg kinds: the dataclasses that the message may contain, by name.
    :raises LookupError, TypeError, ValueError: the line isn't such a message.
    """

    def rebuild(found: dict[str, Any]) -> object:
        name = found.pop("is", None)
        if name is None:
            return found
        fields = {field: tuple(value) if isinstance(value, list) else value for field, value in found.items()}
        return kinds[name](**fields)

    return json.loads(line, object_hook=rebuild)


def read_answer(peer: str, action: str, line: bytes, result: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return an answer: ``log`` is a text, ``result`` the result of the action, ``error`` the error to raise.

    :arg peer: the other host, for messages.
    :arg result: the type of the result, see :class:`Operation`.
    :arg kinds: the dataclasses that the result may contain, by name.
    :raises CommandFailed: the line isn't an answer to the action.
    """
    from .._core.plain import Mismatch, read_plain  # the other host doesn't need this module

    try:
        answer = dict(json.loads(line))
        if "error" in answer:
            answer["error"] = rebuild_error(peer, answer)
        elif "log" not in answer:
            answer["result"] = read_plain(answer.get("result", ...), result, kinds)
        return answer
    except Mismatch:
        why = "an unknown answer"
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    raise unexpected(peer, action, why)


def unexpected(peer: str, action: str, why: str) -> CommandFailed:
    """Return the error about an invalid answer of another host."""
    return CommandFailed(f"The {peer} sent an invalid answer to {action}: {printable(why)}.")


def describe_failure(error: Exception) -> dict[str, object]:
    """Return a message from which :func:`rebuild_error` builds the same error."""
    if isinstance(error, InvalidInput):
        return {"error": type(error).__name__, "about": [error.option, error.value, error.accepted]}
    if isinstance(error, VmstoreError):
        known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS)
        return {"error": known, "message": str(error)}
    return {"error": "CommandFailed", "message": f"The action failed: {type(error).__name__}: {error}"}


def rebuild_error(peer: str, answer: Mapping[str, Any]) -> VmstoreError:
    """Return the error in an answer.

    :raises LookupError, TypeError, ValueError: the answer isn't a result of :func:`describe_failure`.
    """
    kind = ERRORS[answer["error"]]
    if issubclass(kind, InvalidInput):
        option, value, accepted = answer["about"]
        return kind(printable(str(option)), value, printable(str(accepted)))
    message = printable(str(answer["message"]))
    if message.startswith(NESTED):
        message = message[0].lower() + message[1:]
    return kind(message if kind is UnsupportedAction else f"On the {peer}: {message}")


__all__ = [
    "CONFIRMED",
    "Operation",
    "decode",
    "encode",
    "describe_failure",
    "read_answer",
    "rebuild_error",
    "unexpected",
]
