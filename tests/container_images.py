# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Container images for tests: layers with any content, images in OCI's layout, and a registry on this host.

Layers are written by Python's tarfile, and images are pushed by skopeo(1). The engine uses neither.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def raw_disk(number: int = 1, size: int = 1 << 20) -> bytes:
    """Return a raw disk with a boot sector."""
    return b"\xeb\x63\x90".ljust(510, bytes([number])) + b"\x55\xaa" + bytes(size - 512)


def qcow2_disk(directory: Path, *options: str, content: bytes | None = None) -> bytes:
    """Return a qcow2 image that qemu-img(1) creates with these options."""
    path = directory / "disk.qcow2"
    if content is None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "8M"], check=True)
    else:
        (raw := directory / "disk.raw").write_bytes(content)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, raw, path], check=True)
    return path.read_bytes()


def make_tar(*entries: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """Return a tar archive. The owner of its files is the user 107, as in KubeVirt's guide."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size, info.uid, info.gid = len(entry[1]), 107, 107
            archive.addfile(info, io.BytesIO(entry[1]))
    return file.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return an entry that isn't a regular file, such as ``tarfile.SYMTYPE``."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o755
    return info


def compress_gzip(data: bytes) -> bytes:
    """Return the same bytes for the same data."""
    return gzip.compress(data, 1, mtime=0)


class Layout:
    """A directory in OCI's image layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._write_index([])

    def add(
        self,
        tag: str,
        *layers: bytes,
        architecture: str = "amd64",
        compress: Callable[[bytes], bytes] | None = compress_gzip,
        kind: str = "",
    ) -> str:
        """Add an image, and return the digest of its manifest.

        :arg layers: tar archives, the lowest first.
        :arg compress: compresses the layers.
        :arg kind: the end of the layers' type. The default is that of gzip.
        """
        return str(self.index(tag, {architecture: self.manifest(layers, architecture, compress, kind)}, single=True))

    def manifest(
        self,
        layers: Sequence[bytes],
        architecture: str = "amd64",
        compress: Callable[[bytes], bytes] | None = None,
        kind: str = "",
    ) -> dict[str, Any]:
        """Store the layers and a manifest, and return the descriptor of the manifest."""
        stored = [(compress or (lambda data: data))(layer) for layer in layers]
        kind = kind or ("+gzip" if compress else "")
        config = json.dumps(
            {
                "os": "linux",
                "architecture": architecture,
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            }
        ).encode()
        return self.blob(
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": f"{OCI}.manifest.v1+json",
                    "config": self.blob(config, f"{OCI}.config.v1+json"),
                    "layers": [self.blob(layer, f"{OCI}.layer.v1.tar{kind}") for layer in stored],
                }
            ).encode(),
            f"{OCI}.manifest.v1+json",
        )

    def index(self, tag: str, manifests: Mapping[str, dict[str, Any]], *, single: bool = False) -> str:
        """Add an image for several architectures, and return its digest. With ``single``, add its only manifest."""
        listed = [
            {**one, "platform": {"os": "linux", "architecture": architecture}}
            for architecture, one in manifests.items()
        ]
        content = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}).encode()
        (first,) = manifests.values() if single else (self.blob(content, f"{OCI}.index.v1+json"),)
        others = json.loads((self.path / "index.json").read_text())["manifests"]
        named = {**first, "annotations": {"org.opencontainers.image.ref.name": tag}}
        self._write_index([*(one for one in others if one["annotations"] != named["annotations"]), named])
        return str(first["digest"])

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        """Store a blob, and return its descriptor."""
        digest = digest_of(content)
        (self.path / "blobs" / digest.replace(":", "/")).write_bytes(content)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _write_index(self, listed: Iterable[object]) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(listed)}))


def image_archive(directory: Path, *entries: tuple[str, bytes]) -> bytes:
    """Return an archive of a container image in OCI's layout."""
    layout = Layout(directory / "layout")
    layout.add("latest", make_tar(*entries))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(layout.path, ".")
    return data.getvalue()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RegistryServer:
    """Debian's docker-registry on a loopback address.

    :ivar name: host and port, as in names of images.
    :ivar log: the lines of the log, which has each request.
    """

    def __init__(self, directory: Path, port: int, scheme: str = "http") -> None:
        self.directory = directory
        self.name = f"127.0.0.1:{port}"
        self.url = f"{scheme}://{self.name}"
        self.log: list[str] = []

    def push(self, layout: Layout, tag: str, name: str, *options: str) -> None:
        """Push an image of a layout under a name with its tag.

        :arg options: further options of skopeo(1), such as a user.
        """
        command = ["skopeo", "copy", "--quiet", "--all", "--dest-tls-verify=false", *options]
        subprocess.run(
            [*command, f"oci:{layout.path}:{tag}", f"docker://{self.name}/{name}"], check=True, capture_output=True
        )

    def requests(self, word: str) -> list[str]:
        """Return the lines about the collection's requests with a word in their path."""
        pattern = rf'"(GET|HEAD) [^"]*{re.escape(word)}.*"granary.vmstore"'
        return [line for line in self.log if re.search(pattern, line)]

    def blob_file(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob."""
        digits = digest.partition(":")[2]
        return self.directory / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"


@contextmanager
def running_registry(
    directory: Path, *, tls: tuple[Path, Path] | None = None, data: Path | None = None, **settings: Any
) -> Iterator[RegistryServer]:
    """Run a registry that keeps its images in a directory.

    :arg tls: the certificate and the key for https.
    :arg data: the directory of the images, if several registries share it.
    :arg settings: further parts of its configuration, such as ``auth``.
    """
    server = RegistryServer(data or directory / "data", free_port(), "https" if tls else "http")
    files = {"certificate": str(tls[0]), "key": str(tls[1])} if tls else {}
    configuration = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(server.directory)}},
        "http": {"addr": server.name, **({"tls": files} if files else {})},
        **settings,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (file := directory / "registry.yml").write_text(json.dumps(configuration))
    command = ["docker-registry", "serve", file]
    listening = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def read_log() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                server.log.append(line)
                if "listening on" in line:
                    listening.set()
            listening.set()

        reader = threading.Thread(target=read_log)
        reader.start()
        try:
            listening.wait(60)
            if process.poll() is not None:
                raise RuntimeError("".join(server.log))
            yield server
        finally:
            process.terminate()
            reader.join()
