# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import io
import subprocess
import sys

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import COPY_ATTRIBUTES
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.datastore_document import element_of
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.document import (
    Document,
    read_document,
)
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.elements import LONGEST
from refusal import refused

ROOT = "DS_DRIVER_ACTION_DATA"


def document(inner: str, before: str = "") -> Document:
    return Document(f"{before}<{ROOT}>{inner}</{ROOT}>".encode())


def test_the_texts_of_elements() -> None:
    found = document(
        "<IMAGE><PATH><![CDATA[/a &b]]></PATH><SIZE> "
        "64\n</SIZE></IMAGE><DATASTORE><TEMPLATE><DRIVER>raw</DRIVER></TEMPLATE></DATASTORE>"
    )
    assert found.require("IMAGE/PATH") == "/a &b"
    assert found.read_number("IMAGE/SIZE") == 64
    assert found.require("DATASTORE/TEMPLATE/DRIVER") == "raw"
    assert found.get("IMAGE/SOURCE") == ""


def test_a_path_keeps_its_blanks() -> None:
    assert document("<IMAGE><PATH> /a/b \n</PATH></IMAGE>").require("IMAGE/PATH") == " /a/b \n"


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<IMAGE/>",
        "<IMAGE><PATH/></IMAGE>",
        "<PATH>/a</PATH>",
        "<IMAGE><TEMPLATE><PATH>/a</PATH></TEMPLATE></IMAGE>",
    ],
)
def test_a_missing_element_is_named(inner: str) -> None:
    with refused(InvalidInput, says="IMAGE/PATH: '' is not accepted: the document must have this element."):
        document(inner).require("IMAGE/PATH")


@pytest.mark.parametrize(
    "inner",
    ["<IMAGE><PATH>/a</PATH><PATH>/b</PATH></IMAGE>", "<IMAGE><PATH>/a</PATH></IMAGE><IMAGE><PATH>/b</PATH></IMAGE>"],
)
def test_an_element_that_is_there_twice_is_not_chosen_from(inner: str) -> None:
    with refused(InvalidInput, says="IMAGE/PATH: '/b' is not accepted: the document must have this element only once."):
        document(inner).require("IMAGE/PATH")


def test_elements_inside_a_text_are_refused() -> None:
    with refused(InvalidInput, says="IMAGE/PATH: '<b>' is not accepted: text is expected."):
        document("<IMAGE><PATH>/a<b>c</b></PATH></IMAGE>")


@pytest.mark.parametrize("text", ["-1", "1.5", "0x10", "1e3", "one", "٣", "9" * 19])
def test_numbers_are_whole(text: str) -> None:
    with refused(InvalidInput, option="IMAGE/SIZE", value=text):
        document(f"<IMAGE><SIZE>{text}</SIZE></IMAGE>").read_number("IMAGE/SIZE")


def test_numbers_that_stand_for_something_are_in_range() -> None:
    assert document("<IMAGE><TYPE>1</TYPE></IMAGE>").read_choice("IMAGE/TYPE", ("a", "b")) == "b"
    with refused(InvalidInput, says="IMAGE/TYPE: '2' is not accepted: a number from 0 to 1 is expected."):
        document("<IMAGE><TYPE>2</TYPE></IMAGE>").read_choice("IMAGE/TYPE", ("a", "b"))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
        "<!DOCTYPE x>",
    ],
)
def test_there_are_no_document_types_and_so_no_entities(doctype: str) -> None:
    with refused(
        InvalidInput,
        says="standard input: '<!DOCTYPE x' is not accepted: a document without a document type is expected.",
    ):
        document("<IMAGE><PATH>&e;</PATH></IMAGE>", doctype)


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"<",
        b"text",
        f"<{ROOT}>".encode(),
        f"<{ROOT}>&e;</{ROOT}>".encode(),
        f"<{ROOT}/><{ROOT}/>".encode(),
        b"\0\0",
        b"\xff\xfe<",
    ]
    + [
        f'<?xml version="1.0" encoding="{name}"?><{ROOT}/>'.encode() for name in ("nonsense", "utf-7", "idna", "base64")
    ],
)
def test_what_is_not_xml(xml: bytes) -> None:
    with refused(InvalidInput, says="standard input: * is not accepted: base64 of an XML document is expected (*)."):
        Document(xml)


def test_what_is_not_the_document_of_an_action() -> None:
    with refused(
        InvalidInput,
        says=f"standard input: '<OTHER>' is not accepted: a document with the root element {ROOT} is expected.",
    ):
        Document(b"<OTHER/>")


def test_base64_may_have_lines() -> None:
    xml = f"<{ROOT}><IMAGE><PATH>{'/a' * 100}</PATH></IMAGE></{ROOT}>".encode()
    for encoded in (base64.b64encode(xml), base64.encodebytes(xml), base64.encodebytes(xml).replace(b"\n", b"\r\n")):
        assert read_document(io.BytesIO(encoded)).require("IMAGE/PATH") == "/a" * 100


@pytest.mark.parametrize(
    "encoded", [b"", b"\n", b"<x/>", b"QQ", b"QQ=", b"QQ==QQ==", b"Q!Q=", b"====", b"\xff\xff\xff\xff", b"QQ-_"]
)
def test_anything_but_base64_is_refused(encoded: bytes) -> None:
    with refused(InvalidInput, says="standard input: * is not accepted: base64 of an XML document is expected."):
        read_document(io.BytesIO(encoded))


def test_a_message_repeats_little_of_the_document() -> None:
    with pytest.raises(InvalidInput) as caught:
        Document(b"<x><PASSWORD>a secret, which is not for the log</PASSWORD>")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [LONGEST + 1, 100 << 20])
def test_a_document_that_is_too_long_is_not_parsed(size: int) -> None:
    encoded = base64.b64encode(b"<" * size)
    with refused(
        InvalidInput,
        says="standard input: 'PDw8PDw8PDw8PDw8' is not accepted: a document of at most 64 MiB is expected.",
    ):
        read_document(io.BytesIO(encoded))


HOSTILE = """
import io, base64, resource, sys
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.document import Document
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
begin, end = "<DS_DRIVER_ACTION_DATA>", "</DS_DRIVER_ACTION_DATA>"
inner = {
    "deep": lambda: "<a>" * 1_000_000 + "</a>" * 1_000_000,
    "distinct": lambda: "".join(f"<e{number}/>" for number in range(500_000)),
    "repeated": lambda: "<IMAGE><PATH>/a</PATH></IMAGE>" * 200_000,
    "wide": lambda: "<IMAGE><PATH>" + "a" * 20_000_000 + "</PATH></IMAGE>",
}[sys.argv[1]]()
try:
    print(len(Document(f"{begin}{inner}{end}".encode()).require("IMAGE/PATH")))
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("shape", "answer"),
    [("deep", "InvalidInput"), ("distinct", "InvalidInput"), ("repeated", "InvalidInput"), ("wide", "20000000")],
)
def test_a_hostile_document_takes_memory_in_proportion(shape: str, answer: str) -> None:
    limit = 300 << 20  # most of it is several copies of the text itself
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, shape, str(limit)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (answer, 0), done.stderr


@pytest.mark.parametrize("name", COPY_ATTRIBUTES)
def test_every_attribute_that_says_how_images_are_made_is_kept(name: str) -> None:
    element = name.upper()
    assert (
        document(f"<DATASTORE><TEMPLATE><{element}>x</{element}></TEMPLATE></DATASTORE>").get(element_of(name)) == "x"
    )
