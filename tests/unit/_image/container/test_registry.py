# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registries that require authorization, redirect, break or send something else."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image import download
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.authorization import (
    Authorization,
    Credentials,
    parse_challenges,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.manifest import Blob
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.registry import Registry
from container_images import OCI, digest_of
from refusal import refused

USER = Credentials("me", "s3cret-passw0rd")
LAYER = bytes(range(256)) * 1024
LAYER_BLOB = Blob(digest_of(LAYER), len(LAYER), "")

#: A response: a status, headers, and a content. A content that is shorter than its Content-Length breaks off.
Response = tuple[int, Mapping[str, str], bytes]


class Site(ThreadingHTTPServer):
    """A server whose responses are those of a function, by path and headers of the request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[Site, str, Mapping[str, str]], Response]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.name = f"127.0.0.1:{self.server_port}"
        #: Method, path and Authorization of each request.
        self.asked: list[tuple[str, str, str | None]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def registry(self, credentials: Credentials | None = None, version: str = "v1") -> Registry:
        return Registry(parse_reference(f"{self.name}/lib/x:{version}"), credentials=credentials)


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        status, headers, content = self.server.answer(self.server, self.path, self.headers)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_args: object) -> None:
        """Keep the server's log out of pytest's output."""


Serve = Callable[..., Site]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSES", (0, 0))
    sites: list[Site] = []

    def start(answer: Callable[..., Response]) -> Site:
        sites.append(Site(answer))
        return sites[-1]

    yield start
    for site in sites:
        site.shutdown()
        site.server_close()


def manifest(**changes: object) -> bytes:
    layer = {"mediaType": f"{OCI}.layer.v1.tar", "digest": LAYER_BLOB.digest, "size": LAYER_BLOB.size}
    document = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "layers": [layer], **changes}
    return json.dumps(document).encode()


MANIFEST = manifest()


def plain(_site: Site, path: str, _headers: Mapping[str, str]) -> Response:
    """Respond as a registry with one image, which requires no authorization."""
    if path.endswith(LAYER_BLOB.digest):
        return 200, {"ETag": '"x"'}, LAYER
    if path in ("/v2/lib/x/manifests/v1", f"/v2/lib/x/manifests/{digest_of(MANIFEST)}"):
        return 200, {"Docker-Content-Digest": digest_of(MANIFEST)}, MANIFEST
    return 404, {}, b""


def challenging(challenge: str, authorized: str) -> Callable[[Site, str, Mapping[str, str]], Response]:
    """Respond as a registry with a challenge. Its token server is the path /token."""

    def answer(site: Site, path: str, headers: Mapping[str, str]) -> Response:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": "t0ken", "expires_in": 300}).encode()
        if headers.get("Authorization") == authorized:
            return plain(site, path, headers)
        return 401, {"WWW-Authenticate": challenge.format(site.name)}, b""

    return answer


BEARER = 'Basic realm="x", Bearer realm="http://{0}/token?a=b",service="my, \\"registry\\"",scope="repository:x:pull"'


def read(registry: Registry) -> bytes:
    """Read a whole image, and return its layer."""
    found = registry.read_manifest(registry.read_digest(), "amd64")
    return b"".join(chunk for layer in found.layers for chunk in registry.read_blob(layer))


def test_without_authorization(serve: Serve) -> None:
    site = serve(plain)
    registry = site.registry(USER)
    assert registry.read_digest() == digest_of(MANIFEST)
    assert site.asked == [("HEAD", "/v2/lib/x/manifests/v1", None)]
    assert read(registry) == LAYER
    assert {authorization for _method, _path, authorization in site.asked} == {None}
    assert site.registry(version=f"v1@{digest_of(MANIFEST)}").read_digest() == digest_of(MANIFEST)


def test_the_digest_of_a_registry_without_its_header(serve: Serve) -> None:
    """Some registries don't know the method HEAD."""
    for status in (200, 405):
        answers = iter([(status, {}, b""), (200, {}, MANIFEST)])
        site = serve(lambda *_request, answers=answers: next(answers))
        assert site.registry().read_digest() == digest_of(MANIFEST)
        assert [method for method, _path, _authorization in site.asked] == ["HEAD", "GET"]


def test_a_password(serve: Serve) -> None:
    site = serve(challenging('Basic realm="x"', USER.as_header()))
    assert read(site.registry(USER)) == LAYER
    assert [one[2] for one in site.asked] == [None, *[USER.as_header()] * 3]
    for user, says in [
        (None, "it requires a pull secret"),
        (Credentials("me", "wrong"), "the user or the password is wrong"),
    ]:
        with refused(
            TransferFailed,
            says=f"Could not read {site.name}/lib/x:v1: the registry returned 401, and {says}, or the user may "
            "not read the image.",
        ):
            site.registry(user).read_digest()


@pytest.mark.parametrize("user", [None, USER])
def test_a_token(serve: Serve, user: Credentials | None) -> None:
    site = serve(challenging(BEARER, "Bearer t0ken"))
    assert read(site.registry(user)) == LAYER
    (token,) = [one for one in site.asked if one[1].startswith("/token")]
    assert token[2] == (user and user.as_header())
    assert parse_qs(urlsplit(token[1]).query) == {
        "a": ["b"],
        "service": ['my, "registry"'],
        "scope": ["repository:lib/x:pull"],
        **({"account": ["me"]} if user else {}),
    }
    assert [one[2] for one in site.asked if "blobs" in one[1]] == ["Bearer t0ken"]


def test_a_token_is_renewed_during_a_download(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the end of the token's lifetime, and the download is resumed with another token."""
    tokens = iter(("first", "second"))
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    half = len(LAYER) // 2

    def answer(site: Site, path: str, headers: Mapping[str, str]) -> Response:
        if path.startswith("/token"):
            return 200, {}, json.dumps({"access_token": next(tokens), "expires_in": 100}).encode()
        given = headers.get("Authorization")
        if given is None:
            return 401, {"WWW-Authenticate": f'Bearer realm="http://{site.name}/token"'}, b""
        if "blobs" not in path:
            return plain(site, path, headers)
        found = headers.get("Range")
        if found is None and given == "Bearer first":
            now[0] += 95
            return 200, {"ETag": '"x"', "Content-Length": str(len(LAYER))}, LAYER[:half]
        if found == f"bytes={half}-" and given == "Bearer second":
            place = f"bytes {half}-{len(LAYER) - 1}/{len(LAYER)}"
            return 206, {"ETag": '"x"', "Content-Range": place}, LAYER[half:]
        return 401, {}, b""

    site = serve(answer)
    assert read(site.registry()) == LAYER


def test_a_redirect_takes_no_secret_along(serve: Serve) -> None:
    """Registries redirect to the storage of a cloud. Its URLs are signed."""
    storage = serve(lambda *_request: (200, {}, LAYER))
    inner = challenging(BEARER, "Bearer t0ken")

    def answer(site: Site, path: str, headers: Mapping[str, str]) -> Response:
        if "blobs" in path and headers.get("Authorization") == "Bearer t0ken":
            return 307, {"Location": f"http://{storage.name}/data?signature=x"}, b""
        return inner(site, path, headers)

    assert read(serve(answer).registry(USER)) == LAYER
    assert storage.asked == [("GET", "/data?signature=x", None)]


def test_a_token_server_without_https_gets_no_password() -> None:
    authorization = Authorization("https://r.example", "lib/x", USER, None)
    for realm in ("http://t.example/token", "", "ftp://t.example", "https://a:b@t.example/", "/token", "https://[/"):
        with refused(TransferFailed, names=["https://r.example"]):
            authorization.answer(f'Bearer realm="{realm}"')
    with refused(
        TransferFailed,
        says="Could not read https://r.example: a token server with https is expected, unless the registry itself has "
        "http, and the registry names another one.",
    ):
        authorization.answer("Bearer")
    assert dict(authorization) == {}


@pytest.mark.parametrize(
    "answer",
    [
        (401, {}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b"{}"),
        (200, {}, b'{"token": "two\\nlines"}'),
        (200, {}, b'{"token": 1}'),
        (200, {}, json.dumps({"token": "x" * 70_000}).encode()),
        (200, {}, b'{"token": "x", "expires_in": ' + b"9" * 5000 + b"}"),
        (200, {}, b"[" * 100_000),
        (200, {}, b" " * 300_000),
        (200, {"Content-Length": "100"}, b"{}"),
        (302, {"Location": "file:///etc/passwd"}, b""),
        (500, {}, b""),
    ],
)
def test_token_servers_that_return_no_token(serve: Serve, answer: Response) -> None:
    def respond(site: Site, path: str, headers: Mapping[str, str]) -> Response:
        return answer if path.startswith("/token") else challenging(BEARER, "never")(site, path, headers)

    site = serve(respond)
    with refused(TransferFailed, names=[f"http://{site.name}/token"]) as caught:
        site.registry(USER).read_digest()
    assert USER.password not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[" * 100_000,
        b"{}",
        b'{"schemaVersion": 1, "fsLayers": []}',
        manifest(layers=[]),
        manifest(layers=[{}]),
        manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": "md5:" + "0" * 32, "size": 1}]),
        manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": "../x", "size": 1}]),
        manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": LAYER_BLOB.digest, "size": -1}]),
        manifest(layers=[{"mediaType": "application/octet-stream", "digest": LAYER_BLOB.digest, "size": 1}]),
        manifest(layers=[{"mediaType": f"{OCI}.layer.v1.tar", "digest": LAYER_BLOB.digest, "size": 1}] * 129),
        manifest(layers=7),
        manifest(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"),
        manifest(mediaType=f"{OCI}.index.v1+json"),
        MANIFEST + b" " * (5 << 20),
    ],
    ids=range(15),
)
def test_documents_that_are_no_manifest(serve: Serve, content: bytes) -> None:
    site = serve(lambda *_request: (200, {"Docker-Content-Digest": digest_of(content)}, content))
    with refused(TransferFailed, names=[site.name]):
        read(site.registry())


def test_the_type_of_a_document_is_in_a_header_too(serve: Serve) -> None:
    content = json.dumps({"layers": json.loads(MANIFEST)["layers"]}).encode()
    kind = "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"

    def answer(site: Site, path: str, headers: Mapping[str, str]) -> Response:
        return plain(site, path, headers) if "blobs" in path else (200, {"Content-Type": kind}, content)

    assert read(serve(answer).registry()) == LAYER


def test_another_manifest_than_the_digest_names(serve: Serve) -> None:
    site = serve(lambda *_request: (200, {"Docker-Content-Digest": LAYER_BLOB.digest}, MANIFEST))
    with refused(
        TransferFailed,
        says=f"Could not read {site.name}/lib/x:v1: {LAYER_BLOB.digest} is expected, and the sha256 of the received "
        f"bytes is {digest_of(MANIFEST).removeprefix('sha256:')}.",
    ):
        read(site.registry())


def test_images_for_several_platforms(serve: Serve) -> None:
    def index(*listed: tuple[dict[str, Any] | None, bytes]) -> bytes:
        manifests = [
            {
                "mediaType": json.loads(content)["mediaType"],
                "digest": digest_of(content),
                "size": len(content),
                **({"platform": platform} if platform else {}),
            }
            for platform, content in listed
        ]
        return json.dumps({"mediaType": f"{OCI}.index.v1+json", "manifests": manifests}).encode()

    other = manifest(annotations={"of": "arm64"})
    proof = manifest(annotations={"of": "unknown"})
    inner = index(({"os": "linux", "architecture": "s390x"}, MANIFEST))
    top = index(
        ({"os": "windows", "architecture": "arm64"}, MANIFEST),
        ({"os": "linux", "architecture": "arm64"}, other),
        ({"os": "unknown", "architecture": "unknown"}, proof),
        ({"os": "linux", "architecture": "s390x"}, inner),
    )
    single = index((None, MANIFEST))
    documents = {digest_of(one): one for one in (other, MANIFEST, inner, top, single)}

    def answer(_site: Site, path: str, _headers: Mapping[str, str]) -> Response:
        content = documents.get(path.rpartition("/")[2], b"")
        return (200, {}, content) if content else (404, {}, b"")

    registry = serve(answer).registry()
    for digest, architecture in [(digest_of(top), "arm64"), (digest_of(top), "s390x"), (digest_of(single), "any")]:
        assert registry.read_manifest(digest, architecture).digests == (LAYER_BLOB.digest,)
    with refused(InvalidInput, option="architecture", value="amd64", names=["arm64, s390x"]):
        registry.read_manifest(digest_of(top), "amd64")


def test_indexes_inside_indexes_have_a_limit(serve: Serve) -> None:
    levels: dict[str, bytes] = {}
    content = MANIFEST
    for _level in range(6):
        levels[digest_of(content)] = content
        kind = json.loads(content)["mediaType"]
        one = {"mediaType": kind, "digest": digest_of(content), "size": len(content)}
        content = json.dumps({"mediaType": f"{OCI}.index.v1+json", "manifests": [one]}).encode()
    levels[digest_of(content)] = content

    def answer(_site: Site, path: str, _headers: Mapping[str, str]) -> Response:
        return 200, {}, levels[path.rpartition("/")[2]]

    with refused(TransferFailed):
        serve(answer).registry().read_manifest(digest_of(content), "amd64")


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (LAYER[:-1] + b"x", {}),
        (LAYER[:-1], {}),
        (LAYER + b"x", {}),
        (LAYER[:1000], {"Content-Length": str(len(LAYER))}),
    ],
)
def test_blobs_with_other_bytes(serve: Serve, content: bytes, headers: Mapping[str, str]) -> None:
    site = serve(lambda *_request: (200, headers, content))
    with refused(TransferFailed):
        b"".join(site.registry().read_blob(LAYER_BLOB))


@pytest.mark.parametrize(("status", "count"), [(404, 1), (403, 1), (429, 1), (500, 1)])
def test_errors_of_the_registry(serve: Serve, status: int, count: int) -> None:
    site = serve(lambda *_request: (status, {}, b""))
    with refused(TransferFailed, names=[site.name, str(status)]):
        site.registry().read_digest()
    assert len(site.asked) == count


@pytest.mark.parametrize(
    ("image", "how", "url"),
    [
        ("r.example/a", {}, "https://r.example/v2/a/manifests/latest"),
        ("r.example/a", {"insecure": True}, "http://r.example/v2/a/manifests/latest"),
        ("a", {}, "https://registry-1.docker.io/v2/library/a/manifests/latest"),
        ("[::1]:5000/a/b:c", {}, "http://[::1]:5000/v2/a/b/manifests/c"),
        ("localhost/a", {"ca": ""}, "https://localhost/v2/a/manifests/latest"),
    ],
)
def test_http_is_only_for_loopback_addresses_and_on_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, image: str, how: dict[str, Any], url: str
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with refused(TransferFailed, names=[f" {url}:"]):
        Registry(parse_reference(image), **how).read_digest()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ("Basic", {"basic": {}}),
        ('BASIC Realm="a"', {"basic": {"realm": "a"}}),
        ("Bearer realm=a,service=b", {"bearer": {"realm": "a", "service": "b"}}),
        ('Bearer realm="a",  , scope="x y" Basic', {"bearer": {"realm": "a", "scope": "x y"}, "basic": {}}),
        ('Bearer realm="' + "a" * 10_000 + '"', {"bearer": {"realm": '"' + "a" * 8176}}),
    ],
)
def test_challenges(header: str, found: Mapping[str, Mapping[str, str]]) -> None:
    assert parse_challenges(header) == found or len(header) > 8192


def test_credentials_as_a_header() -> None:
    value = re.fullmatch("Basic (.*)", Credentials("ü", "a:b").as_header())
    assert value and b64decode(value[1]).decode() == "ü:a:b"
    assert "a:b" not in repr(Credentials("ü", "a:b"))
