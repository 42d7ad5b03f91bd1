# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts from a front-end: real servers of XML-RPC, and hostile servers."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    FrontEndFailed,
    InvalidInput,
    NotFound,
    TimedOut,
)
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.datastore_document import (
    parse_datastore,
)
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.elements import LONGEST
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.front_end import FrontEnd
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.vm_document import parse_vm
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import Host
from refusal import refused

DOCUMENTS = Path(__file__).parent / "front_end_documents"
VM, DATASTORE = ((DOCUMENTS / name).read_text() for name in ("vm-migrated.xml", "datastore-system.xml"))
#: A password with characters that XML and URLs reserve.
SECRET = "p:&<>\"' %40]]>ä"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    session = tmp_path / ".one" / "one_auth"
    session.parent.mkdir()
    session.write_text(f"oneadmin:{SECRET}\n")
    return {"HOME": str(tmp_path)}


@pytest.fixture
def front_end(server: Any, environment: dict[str, str]) -> FrontEnd:
    return FrontEnd({**environment, "ONE_XMLRPC": server.url})


Hostile = Callable[[Callable[[socket.socket], object]], str]


@pytest.fixture
def hostile(served: Callable[[socketserver.BaseServer], contextlib.AbstractContextManager[None]]) -> Iterator[Hostile]:
    """Return a function that starts a server, which reads a request and lets a function write the response. The
    function returns the server's URL.
    """
    with contextlib.ExitStack() as stack:

        def start(respond: Callable[[socket.socket], object]) -> str:
            class Responder(socketserver.BaseRequestHandler):
                def handle(self) -> None:
                    self.request.recv(1 << 16)
                    with contextlib.suppress(OSError):
                        respond(self.request)

            server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Responder)
            server.daemon_threads = True
            stack.enter_context(served(server))
            return f"http://127.0.0.1:{server.server_address[1]}/RPC2"

        yield start


def sends(data: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: connection.sendall(data)


def answer(inner: str, head: str = "HTTP/1.1 200 OK\r\n\r\n") -> bytes:
    return f"{head}<?xml version='1.0'?>{inner}".encode()


def array(*values: str) -> str:
    """Return the answer with an array of values in the form of XML-RPC."""
    inner = "".join(f"<value>{value}</value>" for value in values)
    return (
        f"<methodResponse><params><param><value><array><data>{inner}</data></array></value></param></params>"
        "</methodResponse>"
    )


# Facts


def test_a_vm(front_end: FrontEnd, server: Any) -> None:
    assert front_end.vm(10) == parse_vm(VM.encode(), "x")
    assert server.calls == [("one.vm.info", (f"oneadmin:{SECRET}", 10, True))]


def test_a_datastore(front_end: FrontEnd, server: Any) -> None:
    assert front_end.datastore(104) == parse_datastore(DATASTORE.encode(), "x")
    assert server.calls == [("one.datastore.info", (f"oneadmin:{SECRET}", 104, False))]


def test_hosts_by_their_names(front_end: FrontEnd, server: Any) -> None:
    assert (front_end.host("h1"), front_end.host("h3")) == (Host("h1"), Host("h3", "10.0.0.3"))
    with refused(NotFound, says="The front-end has no host 'h2'."):
        front_end.host("h2")
    assert server.calls == [("one.hostpool.info", (f"oneadmin:{SECRET}",))]


def test_an_action_without_questions_makes_no_call() -> None:
    FrontEnd({"ONE_XMLRPC": "not a URL", "ONE_AUTH": "/missing"})


def test_each_document_is_read_once(front_end: FrontEnd, server: Any) -> None:
    for _time in range(2):
        front_end.vm(10)
        front_end.datastore(104)
        front_end.vm(11)
    assert [name for name, _parameters in server.calls] == ["one.vm.info", "one.datastore.info", "one.vm.info"]


def test_texts_survive_both_layers_of_xml(front_end: FrontEnd, server: Any) -> None:
    source = "/a'b\" $(c) ä €\U0001f600 &amp;lt;&lt;]]&gt;"
    server.results["one.vm.info"] = [
        True,
        VM.replace("<![CDATA[/var/lib/one//datastores/103/6dc37e0c", f"{source}<![CDATA["),
        0,
    ]
    assert front_end.vm(10).disk(0).source == "/a'b\" $(c) ä €\U0001f600 &lt;<]]>a938f2b27d1fc65a74f8c3ae"


# Errors of the front-end


def test_an_unknown_vm(front_end: FrontEnd, server: Any) -> None:
    server.results["one.vm.info"] = [False, "[one.vm.info] Error getting virtual machine [7].", 0x400, 7]
    with refused(
        NotFound,
        says=f"The front-end at {server.url} refused one.vm.info 7 ([one.vm.info] Error getting virtual machine [7]).",
    ):
        front_end.vm(7)


def test_a_wrong_password(front_end: FrontEnd, server: Any, environment: dict[str, str]) -> None:
    server.results["one.vm.info"] = [False, "[one.vm.info] User couldn't be authenticated, aborting call.", 0x100]
    path = f"{environment['HOME']}/.one/one_auth"
    with refused(
        FrontEndFailed,
        says=f"The front-end at {server.url} refused one.vm.info 7 ([one.vm.info] User couldn't be authenticated, "
        f"aborting call): check the user and the password in {path}.",
    ):
        front_end.vm(7)


@pytest.mark.parametrize("code", [0, 0x200, 0x800, 0x1000, 0x2000, 0x8000])
def test_other_errors_of_a_front_end(front_end: FrontEnd, server: Any, code: int) -> None:
    server.results["one.vm.info"] = [False, "Not authorized", code]
    with refused(FrontEndFailed, names=[server.url, "one.vm.info 7", "Not authorized"]):
        front_end.vm(7)


def test_a_fault(front_end: FrontEnd, server: Any) -> None:
    del server.results["one.vm.info"]
    with refused(FrontEndFailed, names=[server.url, "one.vm.info"]):
        front_end.vm(7)


def test_a_message_is_one_printable_line_without_the_password(front_end: FrontEnd, server: Any) -> None:
    server.results["one.vm.info"] = [False, f"bad\n \x85 {SECRET} \x9b31m\u202e" + "x" * 10_000, 0x2000]
    with refused(FrontEndFailed, names=["bad", "..."]) as caught:
        front_end.vm(7)
    message = str(caught.value)
    assert SECRET not in message
    assert message.isprintable()
    assert len(message) < 500


def test_an_error_isnt_kept(front_end: FrontEnd, server: Any) -> None:
    server.results["one.vm.info"] = [False, "Locked", 0x8000]
    with refused(FrontEndFailed):
        front_end.vm(10)
    server.results["one.vm.info"] = [True, VM, 0]
    assert front_end.vm(10).id == 10


@pytest.mark.parametrize(
    ("document", "option", "value"),
    [
        (VM.replace("<SIZE><![CDATA[96]]></SIZE>", ""), "VM/TEMPLATE/DISK[DISK_ID=0]/SIZE", ""),
        ("text", "the result of one.vm.info 10 at *", "text"),
        ("<VM>", "the result of one.vm.info 10 at *", "<VM>"),
        (DATASTORE[DATASTORE.index("<DATA") :], "the result of one.vm.info 10 at *", "<DATASTORE>"),
        (f'<!DOCTYPE VM [<!ENTITY e "{"x" * 1000}">]>{VM}', "the result of one.vm.info 10 at *", "<!DOCTYPE VM"),
    ],
)
def test_a_document_that_cant_be_used(front_end: FrontEnd, server: Any, document: str, option: str, value: str) -> None:
    server.results["one.vm.info"] = [True, document, 0]
    with refused(InvalidInput, option=option.replace("*", server.url), value=value):
        front_end.vm(10)


# Servers that are no front-end


def test_a_front_end_that_is_not_running(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://localhost:{free.getsockname()[1]}/RPC2"
    with refused(
        FrontEndFailed,
        says=f"The front-end at {url} can't be reached (Connection refused): check that it runs, and that ONE_XMLRPC "
        "is its URL.",
    ):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)


def test_a_name_without_an_address(environment: dict[str, str]) -> None:
    with refused(FrontEndFailed, names=["http://front-end.invalid/RPC2"]):
        FrontEnd({**environment, "ONE_XMLRPC": "http://front-end.invalid/RPC2"}).vm(10)


def endless(data: bytes, pause: float = 0.0) -> Callable[[socket.socket], object]:
    def respond(connection: socket.socket) -> None:
        while True:
            connection.sendall(data)
            time.sleep(pause)

    return respond


@pytest.mark.parametrize(
    "respond",
    [lambda connection: connection.recv(1), endless(b"x", 0.02)],
    ids=["silent", "trickling"],
)
def test_the_whole_call_has_a_deadline(
    environment: dict[str, str], hostile: Hostile, respond: Callable[[socket.socket], object]
) -> None:
    url = hostile(respond)
    begin = time.monotonic()
    with refused(TimedOut, says=f"The front-end at {url} did not respond within 0.3 seconds."):
        FrontEnd({**environment, "ONE_XMLRPC": url}, timeout=0.3).vm(10)
    assert time.monotonic() - begin < 2


OVERSIZED = f"HTTP/1.1 200 OK\r\nContent-Length: {100 << 20}\r\n\r\n<".encode()
ENDLESS = "HTTP/1.1 200 OK\r\n\r\n"

UNUSABLE: dict[str, tuple[Callable[[socket.socket], object], str]] = {
    "nothing": (sends(b""), "didn't return a response of HTTP"),
    "ssh": (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "didn't return a response of HTTP"),
    "another protocol": (sends(b"220 mail\r\n\r\n"), "didn't return a response of HTTP"),
    "endless headers": (endless(b"a: b\r\n" * 1000), "didn't return a response of HTTP"),
    "status 404": (sends(b"HTTP/1.1 404 Not\x1b Found\r\n\r\n"), "returned the status 404 Not? Found"),
    "status 500": (sends(b"HTTP/1.1 500\r\n\r\n"), "returned the status 500"),
    "announced": (sends(OVERSIZED), "returned more than 64 MiB"),
    "truncated": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<x>"), "returned 3 of 9 bytes"),
    "chunked": (
        sends(answer(array(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")),
        "returned a body of unknown length",
    ),
    "length": (
        sends(answer(array(), "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")),
        "returned a body of unknown length",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_response_that_cant_be_used(environment: dict[str, str], hostile: Hostile, name: str) -> None:
    respond, reason = UNUSABLE[name]
    url = hostile(respond)
    with refused(FrontEndFailed, names=[url, f" {reason}: check that"]):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)


TRUE, FALSE, TEXT, NUMBER = (
    "<boolean>1</boolean>",
    "<boolean>0</boolean>",
    "<string>&lt;VM/></string>",
    "<i4>1024</i4>",
)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html><body>It works!</body></html>",
        "<methodResponse/>",
        array(),
        array(TRUE),
        array(TRUE, NUMBER),
        array(TRUE, "<string/>"),
        array(TEXT, TEXT, NUMBER),
        array("<boolean>2</boolean>", TEXT, NUMBER),
        array("<boolean>true</boolean>", TEXT, NUMBER),
        array(TRUE + FALSE, TEXT, NUMBER),
        array(FALSE, TEXT),
        array(FALSE, TEXT, TEXT),
        array(TRUE, "<string>a<b/></string>", NUMBER),
        array(TRUE, TEXT, NUMBER)[:-5],
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>' + array(TRUE, "<string>&b;</string>", NUMBER),
    ],
)
def test_an_answer_of_something_else(environment: dict[str, str], hostile: Hostile, body: str) -> None:
    url = hostile(sends(answer(body)))
    with refused(FrontEndFailed, names=[url, "didn't return the answer of a front-end"]):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)


def test_a_redirect_isnt_followed(environment: dict[str, str], hostile: Hostile, server: Any) -> None:
    """The other server would get the password."""
    url = hostile(sends(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {server.url}\r\n\r\n".encode()))
    with refused(FrontEndFailed, names=[url, "307"]):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)
    assert server.calls == []


def test_a_connection_that_stays_open_ends_after_the_length(environment: dict[str, str], hostile: Hostile) -> None:
    body = array(TRUE, f"<string>{escape(VM)}</string>", "<int>0</int>")
    length = len(answer(body, ""))

    def respond(connection: socket.socket) -> None:
        connection.sendall(answer(body, f"HTTP/1.0 200 OK\r\ncontent-length:  {length} \r\n\r\n") + b"more")
        connection.recv(1)

    assert FrontEnd({**environment, "ONE_XMLRPC": hostile(respond)}, timeout=5).vm(10).id == 10


def test_a_response_without_a_length_ends_with_the_connection(environment: dict[str, str], hostile: Hostile) -> None:
    url = hostile(sends(answer(array(TRUE, f"<string>{escape(VM)}</string>", "<int>0</int>"))))
    assert FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10).id == 10


LIMITED = """
import resource, sys
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.front_end import FrontEnd
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
try:
    FrontEnd({"ONE_XMLRPC": sys.argv[1], "HOME": sys.argv[2]}).vm(10)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("head", "piece", "words"),
    [
        ("", b"<" * (1 << 20), f"FrontEndFailed * returned more than {LONGEST >> 20} MiB"),
        (array(TRUE, "<string>")[:-60], b"&lt;a>" * (1 << 16), "FrontEndFailed * returned more than"),
    ],
    ids=["garbage", "result"],
)
def test_an_endless_answer_takes_bounded_memory(
    environment: dict[str, str], hostile: Hostile, head: str, piece: bytes, words: str
) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(answer(head))
        while True:
            connection.sendall(piece)

    command = [sys.executable, "-c", LIMITED, hostile(respond), environment["HOME"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [part for part in words.split("*") if part.strip() not in done.stdout] == [], done


def test_the_environments_proxies_are_not_used(
    server: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert FrontEnd({**os.environ, **environment, "ONE_XMLRPC": server.url}).vm(10).id == 10


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of localhost; ``key`` is beside it."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test".split(),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", directory / "key", "-out", directory / "cert"),
        ],
        check=True,
        capture_output=True,
    )
    return directory / "cert"


@pytest.fixture
def secure(server: Any, certificate: Path) -> int:
    """Let the server speak TLS, and return its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key"))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server.server_address[1]


def test_an_unknown_certificate_is_refused(environment: dict[str, str], secure: int, server: Any) -> None:
    url = f"https://localhost:{secure}/RPC2"
    with refused(FrontEndFailed, names=[url, "self-signed certificate"]):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)
    assert server.calls == []


def test_a_trusted_certificate_is_that_of_the_host(
    environment: dict[str, str], secure: int, server: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert FrontEnd({**environment, "ONE_XMLRPC": f"https://localhost:{secure}/RPC2"}).vm(10).id == 10
    url = f"https://127.0.0.1:{secure}/RPC2"
    with refused(FrontEndFailed, names=[url, "IP address mismatch"]):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)
    assert len(server.calls) == 1


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "localhost:2633",
        "ftp://localhost/RPC2",
        "http://",
        "http:///RPC2",
        "http://:2633/RPC2",
        "http://localhost:/RPC2",
        "http://localhost:0/RPC2",
        "http://localhost:65536/RPC2",
        "http://localhost:x/RPC2",
        "http://::1/RPC2",
        "http://[::1/RPC2",
        "http://[h1]:80/RPC2",
        "http://localhost/RPC2?x",
        "http://localhost/RPC 2",
        "http://localhost/RPC2\r\nHost: x",
        "http://höst/RPC2",
        f"http://{'a' * 300}.b/RPC2\0",
    ],
)
def test_what_is_no_endpoint(environment: dict[str, str], url: str) -> None:
    with refused(
        InvalidInput, option="ONE_XMLRPC", value=url, accepted="a URL such as 'http://localhost:2633/RPC2' is expected"
    ):
        FrontEnd({**environment, "ONE_XMLRPC": url}).vm(10)


def test_a_password_in_the_url_isnt_shown(environment: dict[str, str]) -> None:
    with refused(InvalidInput, option="ONE_XMLRPC") as caught:
        FrontEnd({**environment, "ONE_XMLRPC": "http://user:hunter2@localhost/RPC2"}).vm(10)
    assert "hunter2" not in str(caught.value)


def test_an_address_of_ipv6(environment: dict[str, str], ipv6_server: Any) -> None:
    assert FrontEnd({**environment, "ONE_XMLRPC": ipv6_server.url}).vm(10).id == 10


def test_one_auth_names_another_file(server: Any, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("user:token\r\n")
    FrontEnd({**environment, "ONE_XMLRPC": server.url, "ONE_AUTH": str(tmp_path / "auth")}).vm(10)
    assert server.calls[0][1][0] == "user:token"


SESSIONS: Mapping[str, bytes] = {
    "empty": b"",
    "no colon": b"oneadmin\n",
    "no user": b":hunter2\n",
    "no password": b"oneadmin:\n",
    "two lines": b"oneadmin:hunter2\nhunter2\n",
    "a control character": b"oneadmin:hunter2\x1b\n",
    "not UTF-8": b"oneadmin:hunter2\xff\n",
    "not XML": "oneadmin:hunter2\uffff\n".encode(),
    "too long": b"oneadmin:hunter2" + b"x" * 4096,
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_file_without_user_and_password(environment: dict[str, str], server: Any, name: str) -> None:
    path = Path(environment["HOME"], ".one", "one_auth")
    path.write_bytes(SESSIONS[name])
    with refused(
        InvalidInput,
        option="ONE_AUTH",
        value=str(path),
        accepted="a file with one line '<user>:<password>' in UTF-8 is expected",
    ) as caught:
        FrontEnd({**environment, "ONE_XMLRPC": server.url}).vm(10)
    assert "hunter2" not in repr(caught.value.__cause__) + str(caught.value)
    assert server.calls == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _path: None, "No such file or directory"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
    ],
    ids=["missing", "directory", "fifo"],
)
def test_a_session_is_read_from_a_regular_file(
    environment: dict[str, str], server: Any, make: Callable[[Path], object], words: str
) -> None:
    path = Path(environment["HOME"], ".one", "one_auth")
    path.unlink()
    make(path)
    with refused(FileAccessFailed, names=[path, words]):
        FrontEnd({**environment, "ONE_XMLRPC": server.url}).vm(10)
