# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules container_disk_cache and container_disk_cache_info, with Debian's registry on this machine."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import ansible_process
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    NotFound,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.authorization import (
    Credentials,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.cache import (
    ContainerDiskCache,
    DiskRequest,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import (
    CachedDisk,
    DiskStore,
)
from container_images import Layout, RegistryServer, free_port, make_tar, qcow2_disk, raw_disk, running_registry
from refusal import refused, require_failure

ANSIBLE = Path(sys.executable).with_name("ansible")
USER, PASSWORD = "hypervisor", "s3cret-passw0rd"
#: The line of htpasswd(1) for the user, with bcrypt.
HTPASSWD = f"{USER}:$2b$04$iCOnuV8CM9H7wH.RikWSQuox.Mrpc834Gw1hJPbw4cs7EcTN6bijG\n"


def run(module: str = "container_disk_cache", *, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run a module, and return its result with all of Ansible's output."""
    command = [
        *(ANSIBLE, "localhost", "-i", "localhost,", "-c", "local", "-m", f"granary.vmstore.{module}"),
        *("-a", json.dumps(options), "--diff", "-vvv", *(["--check"] if check else [])),
    ]
    environment = {
        **os.environ,
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_NOCOLOR": "1",
    }
    done = ansible_process.run(command, environment=environment)
    result = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("=> {") + 3 :])[0]
    return {**result, "output": done.stdout + done.stderr}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("container")


@pytest.fixture(scope="module")
def disk(place: Path) -> bytes:
    return qcow2_disk(place, content=b"".join(os.urandom(4096) + bytes(4096) for _block in range(1024)))


@pytest.fixture(scope="module")
def layout(place: Path, disk: bytes) -> Layout:
    layout = Layout(place / "oci")
    layout.add("v1", make_tar(("disk/fedora.qcow2", disk)))
    layout.add("path", make_tar(("etc/x", b"")), make_tar(("images/a.img", raw_disk(1)), ("images/b.img", raw_disk(2))))
    layout.index(
        "two",
        {
            name: layout.manifest([make_tar(("disk/a.img", raw_disk(ord(name[1]))))], name)
            for name in ("amd64", "arm64")
        },
    )
    return layout


@pytest.fixture(scope="module")
def registry(place: Path, layout: Layout) -> Iterator[RegistryServer]:
    with running_registry(place / "registry") as server:
        server.push(layout, "v1", "disks/fedora:v1")
        server.push(layout, "v1", "disks/docker:v1", "--format", "v2s2")
        server.push(layout, "path", "disks/path:v1")
        server.push(layout, "two", "disks/two:v1")
        yield server


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture(scope="module")
def certificates(place: Path) -> Path:
    """Return a directory with a CA, and a certificate of the CA for 127.0.0.1."""
    (directory := place / "certificates").mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            *f"req -x509 -days 2 -subj /CN={name} -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem".split()
        )
    openssl(*"req -subj /CN=registry -newkey rsa:2048 -nodes -keyout key -out request".split())
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(*"x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert".split())
    return directory


def content(result: dict[str, Any]) -> bytes:
    return Path(result["container_disk"]["file"]).read_bytes()


def test_check_run_run_and_check(registry: RegistryServer, layout: Layout, disk: bytes, directory: str) -> None:
    options = {"image": f"{registry.name}/disks/fedora:v1", "image_pull_policy": "Always", "directory": directory}
    foretold = run(check=True, **options)
    assert not os.path.exists(directory)
    assert len(registry.requests("/fedora/")) == 1 and not registry.requests("/blobs/")
    done, again, still = run(**options), run(**options), run(check=True, **options)
    assert [one["changed"] for one in (foretold, done, again, still)] == [True, True, False, False]
    assert len(registry.requests("/blobs/")) == 1
    assert foretold["actions"] == done["actions"] and foretold["diff"] == done["diff"]
    assert done["container_disk"] == again["container_disk"] == still["container_disk"]
    found = done["container_disk"]
    assert (found["format"], found["virtual_size"], found["path"]) == ("qcow2", 8 << 20, "/disk/fedora.qcow2")
    assert found["checksum"] == f"sha256:{hashlib.sha256(disk).hexdigest()}"
    assert content(done) == disk
    subprocess.run(["qemu-img", "check", "-q", found["file"]], check=True)
    told = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{options['image']}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert told == found["digest"]
    (listed,) = run("container_disk_cache_info", directory=directory)["container_disks"]
    assert {**found, **listed} == {**listed, "image": options["image"]}
    assert [run(state="absent", **options)["changed"] for _run in range(2)] == [True, False]
    assert os.listdir(f"{directory}/disks") == []


def obtain(directory: str, image: str, policy: str | None = None, **how: Any) -> tuple[CachedDisk, bytes]:
    """Return a disk and its content, without Ansible."""
    store = DiskStore(directory)
    disk = ContainerDiskCache(store).obtain(DiskRequest(parse_reference(image), policy, **how))
    return disk, Path(store.file(disk.checksum)).read_bytes()


def test_images_of_each_kind(
    registry: RegistryServer, layout: Layout, disk: bytes, place: Path, directory: str
) -> None:
    docker, path = (f"{registry.name}/disks/{name}:v1" for name in ("docker", "path"))
    assert obtain(directory, docker)[1] == disk
    assert obtain(directory, path, path="/images/b.img")[1] == raw_disk(2)
    with refused(InvalidInput, option="image", names=["/disk"]):
        obtain(directory, path)
    for architecture in ("amd64", "arm64"):
        found, data = obtain(directory, f"{registry.name}/disks/two:v1", architecture=architecture)
        assert (found.architecture, data) == (architecture, raw_disk(ord(architecture[1])))
    for transport in ("oci-archive", "docker-archive"):
        file = f"{transport}:{place}/{transport}.tar:fedora:v1"
        subprocess.run(["skopeo", "copy", "-q", f"oci:{layout.path}:v1", file], check=True)
        assert obtain(directory, file)[1] == disk
        assert obtain(directory, file.removesuffix(":fedora:v1"))[1] == disk
        with refused(InvalidInput, option="image", names=["fedora:v1"]):
            obtain(directory, file.replace("v1", "v2"))
    assert len(DiskStore(directory).list_disks()) == 4
    with refused(TransferFailed, names=["none", 404]):
        obtain(directory, f"{registry.name}/disks/none:v1")
    with refused(NotFound, names=[directory]):
        obtain(directory, f"{registry.name}/disks/fedora:v2", "Never")


def test_a_password_over_https(place: Path, layout: Layout, disk: bytes, certificates: Path, directory: str) -> None:
    (place / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "disks", "path": str(place / "htpasswd")}}
    tls = (certificates / "cert", certificates / "key")
    with running_registry(place / "https", tls=tls, auth=auth) as server:
        server.push(layout, "v1", "fedora:v1", f"--dest-creds={USER}:{PASSWORD}")
        options = {"image": f"{server.name}/fedora:v1", "ca_path": f"{certificates}/ca.pem", "directory": directory}
        require_failure(run(check=True, **options), TransferFailed, names=[401])
        wrong = run(**options, pull_secret={"username": USER, "password": "wr0ng-passw0rd"})
        require_failure(wrong, TransferFailed, names=[401])
        assert "wr0ng-passw0rd" not in wrong["output"]
        done = run(**options, pull_secret={"username": USER, "password": PASSWORD})
        assert content(done) == disk
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        config = {"auths": {server.name: {"auth": token}}}
        again = run(**options, image_pull_policy="Always", pull_secret={"dockerconfigjson": config})
        assert not again["changed"]
        for output in (done["output"], again["output"]):
            assert PASSWORD not in output and token not in output
        files = [file for file in Path(directory).rglob("*") if file.is_file()]
        assert len(files) > 2 and not any(PASSWORD.encode() in file.read_bytes() for file in files)
        other = {"ca_path": f"{certificates}/other.pem", "image_pull_policy": "Always"}
        require_failure(run(**{**options, **other}), TransferFailed, names=[server.name])


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenServer(ThreadingHTTPServer):
    """A token server whose tokens the registry trusts, because they are signed by its CA (RFC 7519)."""

    daemon_threads = True

    def __init__(self, certificates: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), TokenHandler)
        self.certificates = certificates
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def token(self, query: dict[str, list[str]]) -> str:
        certificate = (self.certificates / "cert").read_text().split("-----")[2].replace("\n", "")
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            **{"iss": "tokens", "sub": USER, "aud": query["service"][0], "jti": "1", "access": access},
            **{"exp": now + 300, "nbf": now - 10, "iat": now},
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.certificates / "key"],
            input=signed.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{signed}.{encode(signature)}"


class TokenHandler(SimpleHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_error(401)
            return
        content = json.dumps({"token": self.server.token(parse_qs(urlsplit(self.path).query))}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Keep the server's log out of pytest's output."""


def test_a_token(place: Path, layout: Layout, disk: bytes, certificates: Path, directory: str) -> None:
    tokens = TokenServer(certificates, free_port())
    auth = {
        "token": {
            "realm": f"http://127.0.0.1:{tokens.server_port}/token",
            "service": "disks of us",
            "issuer": "tokens",
            "rootcertbundle": str(certificates / "ca.pem"),
        }
    }
    try:
        with running_registry(place / "token", auth=auth) as server:
            server.push(layout, "v1", "team/fedora:v1", f"--dest-creds={USER}:{PASSWORD}")
            tokens.asked.clear()
            image = f"{server.name}/team/fedora:v1"
            with refused(TransferFailed, names=[401, f"127.0.0.1:{tokens.server_port}"]):
                obtain(directory, image)
            assert obtain(directory, image, credentials=Credentials(USER, PASSWORD))[1] == disk
            assert [parse_qs(urlsplit(path).query)["scope"] for path, _header in tokens.asked] == [
                ["repository:team/fedora:pull"]
            ] * 2
    finally:
        tokens.shutdown()
        tokens.server_close()


class StorageHandler(SimpleHTTPRequestHandler):
    """The storage to which a registry redirects. It has the requests with their headers."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(str(self.headers))
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        """Keep the server's log out of pytest's output."""


def test_a_redirect_to_the_storage(place: Path, layout: Layout, disk: bytes, directory: str) -> None:
    """The registry has a password, and its layers are on another server."""
    (place / "htpasswd").write_text(HTPASSWD)
    data = place / "redirect" / "data"
    auth = {"htpasswd": {"realm": "disks", "path": str(place / "htpasswd")}}
    with running_registry(place / "redirect", auth=auth) as server:
        server.push(layout, "v1", "fedora:v1", f"--dest-creds={USER}:{PASSWORD}")
    handler = functools.partial(StorageHandler, directory=data)
    storage = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    base = {"baseurl": f"http://127.0.0.1:{storage.server_port}/"}
    middleware = {"storage": [{"name": "redirect", "options": base}]}
    try:
        with running_registry(place / "redirect", auth=auth, middleware=middleware) as server:
            secret = {"username": USER, "password": PASSWORD}
            assert obtain(directory, f"{server.name}/fedora:v1", credentials=Credentials(**secret))[1] == disk
            assert len(StorageHandler.asked) == 1 and "Authorization" not in StorageHandler.asked[0]
    finally:
        storage.shutdown()
        storage.server_close()


def layer_file(registry: RegistryServer, layout: Layout, tag: str) -> Path:
    """Return the file of an image's last layer in the registry."""
    listed = json.loads((layout.path / "index.json").read_text())["manifests"]
    (digest,) = [one["digest"] for one in listed if one["annotations"]["org.opencontainers.image.ref.name"] == tag]
    manifest = json.loads((layout.path / "blobs" / digest.replace(":", "/")).read_text())
    return registry.blob_file(manifest["layers"][-1]["digest"])


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:-1] + b"x", lambda data: data + b"x"])
def test_a_damaged_layer(
    registry: RegistryServer, layout: Layout, disk: bytes, directory: str, damage: Callable[[bytes], bytes]
) -> None:
    image = f"{registry.name}/disks/fedora:v1"
    file = layer_file(registry, layout, "v1")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    try:
        with pytest.raises((InvalidInput, TransferFailed)):
            obtain(directory, image)
    finally:
        file.write_bytes(whole)
    assert os.listdir(f"{directory}/disks") == os.listdir(f"{directory}/records") == []
    assert obtain(directory, image)[1] == disk


PULL = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.container import cache
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import DiskStore
sys.stdin.read()
store, image = DiskStore(sys.argv[1]), parse_reference(sys.argv[2])
print(cache.ContainerDiskCache(store).obtain(cache.DiskRequest(image)).checksum)
"""


def test_runs_at_once_download_once(registry: RegistryServer, layout: Layout, directory: str) -> None:
    """The images have different names and manifests, and the same layers."""
    disk = qcow2_disk(layout.path, content=os.urandom(16 << 20))
    names = []
    for number in range(2):
        layer = make_tar(("disk/a.qcow2", disk))
        layout.index("big", {"amd64": layout.manifest([layer], f"arch{number}")}, single=True)
        names.append(f"{registry.name}/big{number}:v1")
        registry.push(layout, "big", f"big{number}:v1")
    command = [sys.executable, "-c", PULL, directory]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for name in names * 2
        ]
        for process in processes:  # all begin at once
            process.stdin.close()
        found = {process.stdout.read().strip() for process in processes}
        assert [process.wait(60) for process in processes] == [0] * 4
    assert found == {hashlib.sha256(disk).hexdigest()}
    assert len([line for line in registry.requests("/big") if "/blobs/" in line]) == 1
    assert os.listdir(f"{directory}/disks") == [*found]
    assert len(os.listdir(f"{directory}/records")) == 2
