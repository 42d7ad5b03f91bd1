# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Calls of a front-end's methods by XML-RPC.

A method returns an array: whether it succeeded, the result or the message of the error, and the code of the error.
"""

from __future__ import annotations

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING, dataclass
from .elements import escape, layout, parse_document
from .http_post import failed, post

if TYPE_CHECKING:
    from .elements import Element
    from .http_post import Endpoint

#: Path of the values in the returned array.
VALUES = "params/param/value/array/data/value"

#: Path of the members of a fault, which a server returns instead if it has no such method, or can't read the request.
MEMBERS = "fault/value/struct/member"

ANSWER = layout(
    *(f"{VALUES}/{kind}" for kind in ("boolean", "string", "i4", "int")),
    f"{MEMBERS}/name",
    f"{MEMBERS}/value/string",
)


#: The code of a fault, and of an error without a code, in an :class:`Answer`.
FAULT = -1


@dataclass(frozen=True)
class Answer:
    """The answer to a call.

    :arg text: the result, or the message of the error.
    :arg code: the code of the error; 0 for success.
    """

    text: str
    code: int


def call(endpoint: Endpoint, method: str, parameters: tuple[str | int | bool, ...], seconds: float) -> Answer:
    """Call a method, and return its answer.

    :arg parameters: texts without control characters, whole numbers and booleans.
    :arg seconds: upper bound of the time.
    :raises TimedOut: the whole answer didn't come in this time.
    :raises FrontEndFailed: the endpoint can't be reached, isn't trusted, or doesn't return the answer of a front-end.
    """
    values = "".join(f"<param><value>{_encode(one)}</value></param>" for one in parameters)
    request = (
        f'<?xml version="1.0"?><methodCall><methodName>{method}</methodName><params>{values}</params></methodCall>'
    )
    body = post(endpoint, request.encode(), seconds)
    try:
        return _read(parse_document(body, "methodResponse", ANSWER, endpoint.url))
    except InvalidInput as error:
        raise failed(endpoint, "didn't return the answer of a front-end") from error


def _encode(value: str | int | bool) -> str:
    """Return a value in the form of XML-RPC."""
    if isinstance(value, bool):
        return f"<boolean>{value:d}</boolean>"
    return f"<i4>{value}</i4>" if isinstance(value, int) else f"<string>{escape(value)}</string>"


def _read(answer: Element) -> Answer:
    """Return the content of an answer.

    :raises InvalidInput: the answer has another form.
    """
    for member in answer.all(MEMBERS):
        if member.get("name") == "faultString":
            return Answer(member.get("value/string"), FAULT)
    values = answer.all(VALUES)
    if len(values) < 2:
        raise InvalidInput(VALUES, None, "an array of values is expected")
    if values[0].read_choice("boolean", ("error", "success")) == "success":
        return Answer(values[1].require("string"), 0)
    if len(values) < 3:
        raise InvalidInput(VALUES, None, "the code of the error is expected")
    code = values[2].read_number("i4" if values[2].all("i4") else "int")
    return Answer(values[1].get("string"), code or FAULT)


__all__ = ["FAULT", "Answer", "call"]
