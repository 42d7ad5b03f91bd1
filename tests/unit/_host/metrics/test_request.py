# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of requests on the port."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.request import LONGEST, RequestBuffer

VALID = b"GET /metrics/XML\n\n"


def take_all(*parts: bytes) -> list[bool]:
    """Return the validity of each request in data that arrives in these parts."""
    buffer, found = RequestBuffer(), []
    for part in parts:
        assert len(part) <= buffer.room
        buffer.add(part)
        while (is_valid := buffer.take()) is not None:
            found.append(is_valid)
    return found


@pytest.mark.parametrize("request_text", [VALID, b"GET /metrics/XML\r\n\r\n", b"GET /metrics/XML\n\r\n"])
def test_valid_requests(request_text: bytes) -> None:
    assert take_all(request_text) == [True]
    assert take_all(request_text * 3) == [True] * 3
    assert take_all(*(bytes([byte]) for byte in request_text)) == [True]
    assert take_all(request_text[:-1]) == []


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"GET /foo", b"GET  /metrics/XML", b"GET /metrics/XML ", b" GET /metrics/XML", b"get /metrics/XML"),
        *(b"POST /metrics/XML", b"GET /metrics/xml", b"GET /metrics/XML/", b"GET /metrics/XML HTTP/1.1", b"GET"),
        *(b"GET /metrics/XML?a=b", b"GET /metrics/../metrics/XML", b"GET\t/metrics/XML", b"\0", b"\xff\xfe"),
    ],
)
def test_invalid_requests(line: bytes) -> None:
    assert take_all(line + b"\n\n") == [False]
    # The next request counts.
    assert take_all(line + b"\n\n" + VALID) == [False, True]


def test_a_request_without_an_empty_line_drops_all_data() -> None:
    assert take_all(b"GET /metrics/XML\nHost: a\n\n" + VALID) == [False]
    assert take_all(b"GET /metrics/XML\nHost: a\n\n", VALID) == [False, True]


def test_an_endless_line_is_invalid_and_takes_no_more_memory() -> None:
    assert take_all(b"x" * (LONGEST - 1)) == []
    assert take_all(*[b"x" * LONGEST] * 3, VALID) == [False, False, False, True]
    assert take_all(b"GET /metrics/XML\n" + b"x" * (LONGEST - 17), VALID) == [False, True]
