# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images from a site's own servers.

A file beside the image has its checksum, the site's CA signed the certificate, and a header has a token.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    InvalidInput,
    TransferFailed,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._image import checksum_list
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from refusal import refused, require_failure

TOKEN = "Bearer s3cr3t-t0ken"


class Site(ThreadingHTTPServer):
    """A server of ``files`` by path: bytes, or a URL to redirect to.

    ``asked`` are the paths of the requests, each with its headers.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | str] = {}
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.token: str | None = None
        self.coding = ""
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def paths(self) -> list[str]:
        """Return the requested paths since the last call."""
        asked, self.asked = [path for path, _headers in self.asked], []
        return asked

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that doesn't trust the certificate."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        content = self.server.files.get(self.path)
        if self.server.token not in (None, self.headers.get("Authorization")):
            self.send_error(401)
        elif content is None:
            self.send_error(404)
        elif isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            if self.server.coding:
                self.send_header("Content-Encoding", self.server.coding)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        """Keep the server's log out of pytest's output."""


def disk(number: int) -> bytes:
    """Return a raw disk with a boot sector."""
    return b"\xeb\x63\x90".ljust(510, bytes([number])) + b"\x55\xaa" + bytes((1 << 20) - 512)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def publish(site: Site, **disks: bytes) -> None:
    """Put images on a server, and SHA256SUMS beside them."""
    site.files.update({f"/{name}.img": content for name, content in disks.items()})
    site.files["/SHA256SUMS"] = "".join(f"{sha256(content)}  {name}.img\n" for name, content in disks.items()).encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the certificate of a CA, and a server's certificate signed by the CA."""
    place = tmp_path_factory.mktemp("ca")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split()
    for name in ("ca", "other"):
        openssl(*f"req -x509 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem".split(), *new)
    openssl("req", "-subj", "/CN=images", "-keyout", "key", "-out", "request", *new)
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(*"x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert".split())
    return place


Serve = Callable[..., Site]


@pytest.fixture
def serve(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    sites: list[Site] = []

    def start(*, tls: bool = False) -> Site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if context:
            context.load_cert_chain(authority / "cert", authority / "key")
        sites.append(Site(context))
        return sites[-1]

    yield start
    for site in sites:
        site.close()


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    (tmp_path / "datastores").mkdir()
    open_catalog(str(tmp_path / "catalog.sqlite"), create=True, datastore_location=str(tmp_path / "datastores")).close()
    return str(tmp_path / "catalog.sqlite")


Run = Callable[..., Plan]


@pytest.fixture
def run(catalog: str) -> Run:
    defaults = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}

    def run_service(check: bool = False, **given: Any) -> Plan:
        common = {"datastore": "default", "type": "os"}
        given = (
            {"images": [{**defaults, **common, **one} for one in given["images"]]}
            if "images" in given
            else {"name": "x", **common, **given}
        )
        service = ImageService({**defaults, "catalog": catalog, **given})
        return service.plan() if check else service.converge()

    return run_service


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def data(plan: Plan) -> bytes:
    return Path(plan.result["image"]["path"]).read_bytes()


def list_stored(catalog: str) -> list[str]:
    return (
        os.listdir(Path(catalog).with_name("datastores") / "1")
        if (Path(catalog).with_name("datastores") / "1").exists()
        else []
    )


# Checksums from a file


def test_check_run_run_again_and_check_again(run: Run, serve: Serve) -> None:
    site = serve()
    publish(site, a=disk(1), b=disk(2))
    wish = {"url": f"{site.url}/a.img", "checksum": f"SHA256:{site.url}/SHA256SUMS"}
    planned = run(check=True, **wish)
    assert (names(planned), planned.result["image"]["origin_checksum"]) == (
        ["create image"],
        f"sha256:{sha256(disk(1))}",
    )
    assert site.paths() == ["/SHA256SUMS", "/a.img"]
    done = run(**wish)
    assert done.as_result() == planned.as_result()
    assert (data(done), done.result["image"]["checksum"]) == (disk(1), f"sha256:{sha256(disk(1))}")
    assert site.paths() == ["/SHA256SUMS", "/a.img"]
    for check in (False, True):
        assert names(run(check=check, **wish)) == []
        assert site.paths() == ["/SHA256SUMS"]
    assert names(run(url=wish["url"], checksum=f"sha256:{sha256(disk(1))}")) == []
    assert site.paths() == []


def test_many_images_fetch_one_file_once(run: Run, serve: Serve) -> None:
    site = serve()
    publish(site, a=disk(1), b=disk(2))
    images = [
        {"name": name, "url": f"{site.url}/{name}.img", "checksum": f"sha256:{site.url}/SHA256SUMS"} for name in "ab"
    ]
    assert names(run(images=images)) == ["create image"] * 2
    assert site.paths() == ["/SHA256SUMS", "/a.img", "/b.img"]
    assert names(run(images=images)) == []
    assert site.paths() == ["/SHA256SUMS"]


def test_a_file_of_this_host_is_compared_too(run: Run, serve: Serve, tmp_path: Path) -> None:
    site = serve()
    publish(site, a=disk(1))
    (tmp_path / "a.img").write_bytes(disk(1))
    wish = {"path": str(tmp_path / "a.img"), "checksum": f"sha256:{site.url}/SHA256SUMS"}
    assert data(run(**wish)) == disk(1)
    assert names(run(**wish)) == []
    (tmp_path / "a.img").write_bytes(disk(2))
    with refused(
        InvalidInput,
        says=f"sha256: '{sha256(disk(1))}' is not accepted: the sha256 of what is at {tmp_path}/a.img "
        f"is {sha256(disk(2))}.",
    ):
        run(**{**wish, "name": "y"})


def test_what_the_file_says_is_compared_with_what_came(run: Run, serve: Serve, catalog: str) -> None:
    site = serve()
    publish(site, a=disk(1))
    site.files["/a.img"] = disk(2)
    with refused(InvalidInput, option="sha256", value=sha256(disk(1)), names=[f"{site.url}/a.img", sha256(disk(2))]):
        run(url=f"{site.url}/a.img", checksum=f"sha256:{site.url}/SHA256SUMS")
    assert list_stored(catalog) == []


@pytest.mark.parametrize("check", [True, False])
def test_an_image_that_is_published_anew_is_refused_until_force_replaces_it(
    run: Run, serve: Serve, check: bool
) -> None:
    site = serve()
    publish(site, latest=disk(1))
    wish = {"url": f"{site.url}/latest.img", "checksum": f"sha256:{site.url}/SHA256SUMS"}
    path = run(**wish).result["image"]["path"]
    publish(site, latest=disk(2))
    with refused(
        Conflict,
        says=f"checksum: the image 'x' was made with 'sha256:{sha256(disk(1))}'; leave checksum out to keep its data, "
        f"or give force: true to lose all that it holds and get new data with 'sha256:{sha256(disk(2))}' of "
        f"{site.url}/SHA256SUMS.",
    ):
        run(check=check, **wish)
    assert Path(path).read_bytes() == disk(1)
    if not check:
        replaced = run(force=True, **wish)
        assert (names(replaced), data(replaced)) == (["replace data of image"], disk(2))
        assert names(run(force=True, **wish)) == []


def test_the_same_checksum_elsewhere_is_the_same_data(run: Run, serve: Serve) -> None:
    site, mirror = serve(), serve()
    for one in (site, mirror):
        publish(one, a=disk(1))
    path = run(url=f"{site.url}/a.img", checksum=f"sha256:{site.url}/SHA256SUMS").result["image"]["path"]
    moved = run(url=f"{mirror.url}/a.img", checksum=f"sha256:{mirror.url}/SHA256SUMS")
    assert (names(moved), moved.result["image"]["path"], moved.result["image"]["origin"]) == (
        ["update image"],
        path,
        f"{mirror.url}/a.img",
    )
    assert mirror.paths() == ["/SHA256SUMS"]


@pytest.mark.parametrize("state", ["down", "gone", "rotated"])
@pytest.mark.parametrize("force", [False, True])
def test_an_image_that_is_there_needs_no_mirror(run: Run, serve: Serve, catalog: str, state: str, force: bool) -> None:
    site = serve()
    publish(site, a=disk(1))
    wish = {"url": f"{site.url}/a.img", "checksum": f"sha256:{site.url}/SHA256SUMS"}
    path = Path(run(**wish).result["image"]["path"])
    if state == "down":
        site.close()
    elif state == "gone":
        site.files.clear()
    else:
        publish(site, b=disk(2))
    for check in (True, False):
        plan = run(check=check, force=force, **wish)
        assert (names(plan), path.read_bytes()) == ([], disk(1))
        assert len(plan.warnings) == 1
        assert plan.warnings[0].startswith("The image 'x' stays as it is, and wasn't compared with its checksum: ")
        assert f"{site.url}/SHA256SUMS" in plan.warnings[0]
    # An image that must be created, or has another origin, needs the list.
    error: type[VmstoreError] = InvalidInput if state == "rotated" else TransferFailed
    with refused(error, names=[f"{site.url}/SHA256SUMS"]):
        run(check=True, name="x", url=f"{site.url}/other/a.img", checksum=wish["checksum"])
    path.unlink()
    with refused(error, names=[f"{site.url}/SHA256SUMS"]):
        run(force=True, **wish)


def test_an_image_is_removed_without_a_mirror(run: Run, serve: Serve) -> None:
    site = serve()
    publish(site, a=disk(1))
    wish = {"url": f"{site.url}/a.img", "checksum": f"sha256:{site.url}/SHA256SUMS"}
    run(**wish)
    site.paths()
    assert names(run(state="absent", **wish)) == ["remove image"]
    assert site.paths() == []


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_is_missing_is_an_error_before_anything_is_fetched(
    run: Run, serve: Serve, catalog: str, check: bool
) -> None:
    site = serve()
    site.files["/a.img"] = disk(1)
    with refused(TransferFailed, says=f"Could not read {site.url}/SHA256SUMS?...: the server returned 404 Not Found."):
        run(check=check, url=f"{site.url}/a.img", checksum=f"sha256:{site.url}/SHA256SUMS?token=pa55#pa55")
    assert "/a.img" not in site.paths()
    assert list_stored(catalog) == []


def test_the_name_is_that_before_redirects(run: Run, serve: Serve) -> None:
    site, store = serve(), serve()
    store.files.update({"/blob/7": disk(1), "/blob/8": f"{sha256(disk(1))}  a.img\n".encode()})
    site.files.update({"/a.img": f"{store.url}/blob/7", "/SHA256SUMS": f"{store.url}/blob/8"})
    assert data(run(url=f"{site.url}/a.img", checksum=f"sha256:{site.url}/SHA256SUMS")) == disk(1)


def test_the_limits_of_a_stranger(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site = serve()
    publish(site, a=disk(1))
    wish = {"url": f"{site.url}/a.img", "checksum": f"sha256:{site.url}/SHA256SUMS"}
    good = site.files["/SHA256SUMS"]
    site.files["/SHA256SUMS"] = good.ljust((1 << 20) + 1, b"\n")
    with refused(TransferFailed, names=[f"{site.url}/SHA256SUMS", (1 << 20) + 1, 1 << 20]):
        run(**wish)
    site.coding = "gzip"
    site.files["/SHA256SUMS"] = gzip.compress(good.ljust((1 << 20) + 1, b"\n"))
    with refused(
        InvalidInput,
        option="path",
        value=f"{site.url}/SHA256SUMS",
        names=[1 << 20],
    ):
        run(**wish)
    site.files.update({"/SHA256SUMS": gzip.compress(good), "/a.img": gzip.compress(disk(1))})
    with refused(
        InvalidInput, option="sha256", names=[f"{site.url}/a.img"]
    ):  # the sum of the compressed bytes on the server
        run(**wish)
    monkeypatch.setattr(checksum_list, "LONGEST_TIME", -1.0)
    with refused(
        TransferFailed,
        says=f"Could not read {site.url}/SHA256SUMS: a file with checksums is expected within -1 seconds.",
    ):
        run(**wish)


# The certificates of a CA


def test_a_ca_vouches_for_the_image_and_for_its_checksum(run: Run, serve: Serve, authority: Path) -> None:
    site = serve(tls=True)
    publish(site, a=disk(1))
    wish = {
        "url": f"{site.url}/a.img",
        "checksum": f"sha256:{site.url}/SHA256SUMS",
        "ca_path": str(authority / "ca.pem"),
    }
    planned, done = run(check=True, **wish), run(**wish)
    assert (names(planned), data(done)) == (["create image"], disk(1))
    assert names(run(**wish)) == names(run(check=True, **wish)) == []
    assert names(run(url=wish["url"])) == []


@pytest.mark.parametrize("ca", [None, "other.pem"])
@pytest.mark.parametrize("check", [True, False])
def test_without_it_the_server_is_not_trusted(
    run: Run, serve: Serve, authority: Path, ca: str | None, check: bool
) -> None:
    site = serve(tls=True)
    publish(site, a=disk(1))
    with refused(TransferFailed, names=[f"{site.url}/a.img", "certificate"]):
        run(check=check, url=f"{site.url}/a.img", ca_path=ca and str(authority / ca))
    assert site.paths() == []


def test_only_the_ca_is_trusted(run: Run, serve: Serve, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    site = serve(tls=True)
    publish(site, a=disk(1))
    with refused(
        TransferFailed,
        says="Could not read https://127.0.0.1:*/a.img: the server's certificate is not trusted "
        "(unable to get local issuer certificate).",
    ):
        run(url=f"{site.url}/a.img", ca_path=str(authority / "other.pem"))
    assert data(run(url=f"{site.url}/a.img")) == disk(1)


def test_a_file_with_several_cas_and_comments(run: Run, serve: Serve, authority: Path, tmp_path: Path) -> None:
    site = serve(tls=True)
    publish(site, a=disk(1))
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(
        "\n".join(("# Ärger", (authority / "other.pem").read_text(), "# unsere", (authority / "ca.pem").read_text())),
        "latin-1",
    )
    (tmp_path / "link.pem").symlink_to(bundle)
    assert data(run(url=f"{site.url}/a.img", ca_path=str(tmp_path / "link.pem"))) == disk(1)


@pytest.mark.parametrize("kind", ["text", "key", "broken", "empty"])
def test_a_file_that_is_no_ca(run: Run, serve: Serve, authority: Path, tmp_path: Path, kind: str) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    texts = {"text": "secret", "key": (authority / "ca.key").read_text(), "broken": broken, "empty": ""}
    (tmp_path / "ca.pem").write_text(texts[kind])
    with refused(
        InvalidInput,
        says=f"ca_path: '{tmp_path}/ca.pem' is not accepted: a file with the certificates of CAs in PEM is expected.",
    ):
        run(check=True, url=f"{serve(tls=True).url}/a.img", ca_path=str(tmp_path / "ca.pem"))


def test_a_file_that_can_not_be_read(run: Run, serve: Serve, tmp_path: Path) -> None:
    url = f"{serve(tls=True).url}/a.img"
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("none", "No such file or directory"), ("pipe", "it is not a regular file")):
        with refused(FileAccessFailed, says=f"Could not read {tmp_path}/{name}, the file of ca_path: {why}."):
            run(url=url, ca_path=str(tmp_path / name))


# Headers


def test_headers_are_sent_to_the_server(run: Run, serve: Serve) -> None:
    site = serve()
    site.token = TOKEN
    publish(site, a=disk(1))
    wish = {"url": f"{site.url}/a.img", "checksum": f"sha256:{site.url}/SHA256SUMS"}
    with refused(
        TransferFailed, says="Could not read http://127.0.0.1:*/SHA256SUMS: the server returned 401 Unauthorized."
    ):
        run(**wish)
    site.paths()
    wish["headers"] = {"authorization": TOKEN, "X-Trace": 7, "User-Agent": "curl"}
    assert names(run(check=True, **wish)) == ["create image"]
    assert data(run(**wish)) == disk(1)
    assert [(one["Authorization"], one["X-Trace"], one["User-Agent"]) for _path, one in site.asked] == [
        (TOKEN, "7", "curl")
    ] * 4
    site.paths()
    assert names(run(**wish)) == names(run(**{**wish, "headers": None, "checksum": None})) == []


def test_they_go_along_to_the_same_server_only(run: Run, serve: Serve) -> None:
    site, other = serve(), serve()
    site.files.update({"/a.img": "/moved", "/moved": f"{other.url}/a.img"})
    other.files["/a.img"] = f"{other.url}/b.img"
    other.files["/b.img"] = disk(1)
    assert data(run(url=f"{site.url}/a.img", headers={"Authorization": TOKEN, "X-Token": TOKEN})) == disk(1)
    assert [(path, one.get("Authorization"), one.get("X-Token")) for path, one in site.asked] == [
        ("/a.img", TOKEN, TOKEN),
        ("/moved", TOKEN, TOKEN),
    ]
    assert [(path, TOKEN in one.values()) for path, one in other.asked] == [("/a.img", False), ("/b.img", False)]


def test_a_checksum_of_another_server_is_fetched_without_them(run: Run, serve: Serve, tmp_path: Path) -> None:
    site, other = serve(), serve()
    publish(site, a=disk(1))
    publish(other, a=disk(1))
    headers = {"X-Token": TOKEN}
    run(url=f"{site.url}/a.img", checksum=f"sha256:{other.url}/SHA256SUMS", headers=headers)
    assert [TOKEN in one.values() for _path, one in (*site.asked, *other.asked)] == [True, False]
    (tmp_path / "a.img").write_bytes(disk(1))
    run(name="y", path=str(tmp_path / "a.img"), checksum=f"sha256:{other.url}/SHA256SUMS", headers=headers)
    assert TOKEN in other.asked[-1][1].values()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"headers": {"X y": TOKEN}},
            "headers: '...' is not accepted: names of HTTP headers are expected, such as Authorization, "
            "each with its value.",
        ),
        (
            {"headers": {7: TOKEN}},
            "headers: '...' is not accepted: names of HTTP headers are expected, such as Authorization, "
            "each with its value.",
        ),
        (
            {"headers": {"X": f"{TOKEN}\r\nY: z"}},
            "headers: 'X' is not accepted: a value is expected that is text in ASCII, on one line and "
            "without a blank at an end.",
        ),
        (
            {"headers": {"X": ""}},
            "headers: 'X' is not accepted: a value is expected that is text in ASCII, on one line and "
            "without a blank at an end.",
        ),
        (
            {"headers": {"X": True}},
            "headers: 'X' is not accepted: a value is expected that is text in ASCII, on one line and "
            "without a blank at an end.",
        ),
        (
            {"headers": {"X": {"y": TOKEN}}},
            "headers: 'X' is not accepted: a value is expected that is text in ASCII, on one line and "
            "without a blank at an end.",
        ),
        (
            {"headers": {"Host": TOKEN}},
            "headers: 'Host' is not accepted: each header once, and none of connection, content-length, "
            "expect, host, if-range, keep-alive, proxy-authorization, proxy-connection, range, te, trailer, "
            "transfer-encoding, upgrade is expected.",
        ),
        (
            {"headers": {"X": "1", "x": TOKEN}},
            "headers: 'x' is not accepted: each header once, and none of connection, content-length, "
            "expect, host, if-range, keep-alive, proxy-authorization, proxy-connection, range, te, trailer, "
            "transfer-encoding, upgrade is expected.",
        ),
        (
            {"headers": {"X": TOKEN}, "path": "/srv/a.img"},
            "headers: 'X' is not accepted: it goes with a url, or a checksum from a URL, with http or https.",
        ),
        (
            {"headers": {"X": TOKEN}, "url": "ssh://h/a.img"},
            "headers: 'X' is not accepted: it goes with a url, or a checksum from a URL, with http or https.",
        ),
        (
            {"headers": {"X": TOKEN}, "size": "1"},
            "headers: 'X' is not accepted: it goes with path or url, not with size.",
        ),
        (
            {"headers": {"Authorization": TOKEN}, "url": "http://me:pw@h/a"},
            "headers: 'Authorization' is not accepted: it doesn't go together with a user in a URL, which "
            "is sent as that header.",
        ),
        (
            {"ca_path": "/ca.pem", "url": "ssh://h/a.img"},
            "ca_path: '/ca.pem' is not accepted: it goes with a url, or a checksum from a URL, with http or https.",
        ),
        (
            {"checksum": "sha256:ftp://h/SUMS", "url": "http://h/a"},
            "checksum: 'sha256:ftp://h/SUMS' is not accepted: <algorithm>:<hexadecimal digits> is expected, "
            "with one of md5, sha1, sha256, sha384, sha512 and all its digits, or <algorithm>: and the http "
            "or https URL of a file that has them.",
        ),
        (
            {"checksum": "sha256:https://h/S"},
            "checksum: 'sha256:https://h/S' is not accepted: a file with checksums goes with a path or a "
            "url, whose name is looked up there.",
        ),
        (
            {"checksum": "sha3:https://h/SUMS", "url": "http://h/a"},
            "checksum: 'sha3:https://h/SUMS' is not accepted: <algorithm>:<hexadecimal digits> is expected, "
            "with one of md5, sha1, sha256, sha384, sha512 and all its digits, or <algorithm>: and the http "
            "or https URL of a file that has them.",
        ),
        (
            {"checksum": "sha256:https://me:pw@h:x/S", "url": "http://h/a"},
            "checksum: '...' is not accepted: a URL with a valid host and port is expected.",
        ),
        (
            {"checksum": "sha256:https://h/S", "clone_from": "y"},
            "checksum: 'sha256:https://h/S' is not accepted: it goes with path or url, not with clone_from.",
        ),
    ],
)
def test_what_is_refused_at_once(run: Run, given: dict[str, Any], message: str) -> None:
    with refused(InvalidInput, says=message) as caught:
        run(**given)
    assert "s3cr3t" not in str(caught.value) and "pw" not in str(caught.value)


def test_the_path_of_the_certificates_is_absolute(run: Run) -> None:
    with refused(InvalidInput, option="ca_path", value="ca.pem"):
        run(url="https://h/a.img", ca_path="ca.pem")


@pytest.mark.parametrize(
    "option", [{"headers": {"X": TOKEN}}, {"checksum": "sha256:https://h/SUMS"}, {"ca_path": "/ca.pem"}]
)
def test_a_directory_has_none_of_it(run: Run, catalog: str, tmp_path: Path, option: dict[str, Any]) -> None:
    subprocess.run(
        ["sqlite3", catalog, "UPDATE datastore SET ds_driver = 'virtiofs', tm_driver = 'virtiofs' WHERE id = 1"],
        check=True,
    )
    given = {"checksum": "sha256:https://h/SUMS", **option} if "checksum" not in option else option
    with refused(
        InvalidInput,
        says="checksum: '...' is not accepted: an image of type filesystem is a directory, which stays as it is.",
    ) as caught:
        run(type="filesystem", path=str(tmp_path), **given)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("outcome", ["made", "refused", "unsupported"])
@pytest.mark.parametrize("as_text", [False, True])
def test_values_of_headers_are_told_nobody(
    serve: Serve,
    catalog: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    many: bool,
    outcome: str,
    as_text: bool,
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.log", lambda _module, text, **more: logged.append(f"{text}{more}")
    )
    site = serve()
    publish(site, a=disk(1))
    site.token = TOKEN if outcome == "made" else "another one"
    headers: Any = {"Authorization": TOKEN, "X-Pin": "7531"}
    image = {
        "name": "x",
        "type": "os",
        "datastore": "default",
        "url": f"{site.url}/a.img",
        "headers": json.dumps(headers) if as_text else headers,
    }
    image.update({"nonsense": 1} if outcome == "unsupported" else {})
    with (
        patch_module_args({"catalog": catalog, "_ansible_diff": True, **({"images": [image]} if many else image)}),
        pytest.raises(SystemExit),
    ):
        run_module(IMAGE_SPEC, ImageService)
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert answer.get("failed", False) == (outcome != "made"), out
    for secret in ("s3cr3t", "7531"):
        assert secret not in out and not any(secret in text for text in logged)
        found = subprocess.run(
            ["grep", "--recursive", "--text", "--files-with-matches", secret, str(tmp_path)],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert found.stdout == ""


def test_a_server_that_repeats_a_header_tells_it_nobody(
    serve: Serve, authority: Path, catalog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site = serve(tls=True)
    site.files["/a.img"] = "http://127.0.0.1:1/s3cr3t-t0ken"
    image = {
        "name": "x",
        "type": "os",
        "datastore": "default",
        "url": f"{site.url}/a.img",
        "headers": {"Authorization": TOKEN},
    }
    with (
        patch_module_args({"catalog": catalog, "ca_path": str(authority / "ca.pem"), **image}),
        pytest.raises(SystemExit),
    ):
        run_module(IMAGE_SPEC, ImageService)
    out = capsys.readouterr().out
    require_failure(json.loads(out), TransferFailed, names=["https", "http://127.0.0.1:1/*"])
    assert "s3cr3t" not in out


def test_a_short_value_hides_nothing_else(serve: Serve, catalog: str, capsys: pytest.CaptureFixture[str]) -> None:
    site = serve()
    publish(site, a=disk(1))
    image = {
        "name": "x",
        "type": "os",
        "datastore": "default",
        "url": f"{site.url}/a.img",
        "headers": {"Accept": "*/*", "X-Version": "1", "X-Format": "raw"},
    }
    with patch_module_args({"catalog": catalog, **image}), pytest.raises(SystemExit):
        run_module(IMAGE_SPEC, ImageService)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["image"]["origin"], answer["image"]["format"], answer["image"]["datastore_id"]) == (
        f"{site.url}/a.img",
        "raw",
        1,
    )


def test_a_server_that_does_not_answer_keeps_nobody_for_long(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum_list, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/SHA256SUMS"
        with refused(TransferFailed, names=[url, 0.2]):
            run(url="http://127.0.0.1:1/a.img", checksum=f"sha256:{url}")
