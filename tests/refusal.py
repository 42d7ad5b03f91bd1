# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check that a block is refused with one error, or that a module failed with one, by its class and fields.

A test that compares words breaks with each better wording. So only one test of a message compares its whole sentence
(``says``). All other tests of the message compare the class, the fields, and the objects that the message names.
``tests/unit/test_assertions.py`` checks both.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


@contextlib.contextmanager
def refused(
    kind: type[E], *, says: str | None = None, names: Iterable[object] = (), **fields: object
) -> Iterator[pytest.ExceptionInfo[E]]:
    """Require that a block raises an error of exactly the class ``kind``, and yield the error's information.

    :arg says: the whole sentence. An asterisk is any text, for a part that differs between runs.
    :arg names: values of objects that the message must contain, such as a path or a name.
    :arg fields: attributes of the error, for example ``option`` of an ``InvalidInput``.
    """
    with pytest.raises(kind) as caught:
        yield caught
    _check(caught.value, kind, says, names, fields)
    # The error's traceback has this frame. A reference from here to the error would keep both, and open files, alive.
    del caught


def require_failure(
    result: Mapping[str, Any],
    kind: type[BaseException],
    *,
    says: str | None = None,
    names: Iterable[object] = (),
    option: str | None = None,
) -> None:
    """Require that a module failed with an error of exactly the class ``kind``.

    :arg option: the refused option, for an ``InvalidInput``.
    """
    assert (result.get("error"), result.get("option")) == (kind.__name__, option), result
    _check_message(result["msg"], says, names)


def _check(
    error: BaseException,
    kind: type[BaseException],
    says: str | None,
    names: Iterable[object],
    fields: Mapping[str, object],
) -> None:
    assert error.__class__ is kind
    assert {name: getattr(error, name) for name in fields} == fields
    _check_message(str(error), says, names)


def _check_message(message: str, says: str | None, names: Iterable[object]) -> None:
    assert [name for name in map(str, names) if name not in message] == [], message
    if says is not None and not re.fullmatch(re.escape(says).replace(r"\*", ".*"), message, re.DOTALL):
        assert message == says


__all__ = ["refused", "require_failure"]
