# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""References to container images: their parts, their defaults, and names that are refused."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import (
    LocalImage,
    RegistryImage,
    parse_reference,
)
from refusal import refused

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "name", "host"),
    [
        ("fedora", "docker.io/library/fedora:latest", "registry-1.docker.io"),
        ("vmidisks/fedora25:v1", "docker.io/vmidisks/fedora25:v1", "registry-1.docker.io"),
        ("docker.io/fedora", "docker.io/library/fedora:latest", "registry-1.docker.io"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "registry-1.docker.io"),
        ("docker://quay.io/containerdisks/fedora:40", "quay.io/containerdisks/fedora:40", "quay.io"),
        ("localhost/a", "localhost/a:latest", "localhost"),
        ("localhost:5000/a/b-c__d.e", "localhost:5000/a/b-c__d.e:latest", "localhost:5000"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000"),
        ("r.example/a@" + SHA256, "r.example/a@" + SHA256, "r.example"),
        ("r.example:80/a:t@" + SHA512, "r.example:80/a@" + SHA512, "r.example:80"),
        ("Host/a", "Host/a:latest", "Host"),
    ],
)
def test_names_of_a_registry(text: str, name: str, host: str) -> None:
    found = parse_reference(text)
    assert isinstance(found, RegistryImage)
    assert (found.name, found.host) == (name, host)
    assert parse_reference(found.name).name == name
    assert found.is_moving == name.endswith(":latest")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("oci:/srv/disks:v1", LocalImage("oci", "/srv/disks", "v1")),
        ("oci:/srv//disks/", LocalImage("oci", "/srv/disks")),
        ("oci-archive:/a.tar", LocalImage("oci-archive", "/a.tar")),
        ("docker-archive:/a.tar:localhost:5000/a:b", LocalImage("docker-archive", "/a.tar", "localhost:5000/a:b")),
    ],
)
def test_files_of_this_host(text: str, found: LocalImage) -> None:
    assert parse_reference(text) == found
    assert parse_reference(found.name) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "a/", "a//b", "../a", "a/../b", "r.example/../a", "Fedora", "r.example/Fedora", "a b", "a\n", "a:"),
        *("a:b:c", "a:-b", "a:" + "b" * 129, "a@", "a@sha256:00", "a@md5:" + "0" * 32, "a@" + SHA256.upper(), "-a/b"),
        *("r.example:0/a", "r.example:65536/a", "r.example:x/a", "user@r.example/a", "r.example/a?b", "r.example/a%2e"),
        *("http://r.example/a", "docker://", "oci:relative", "oci:/a/../b", "oci-archive:", "oci:/a:b c"),
        *("r.example/" + "a" * 256, "r..example/a", "[::1/a", "a/.b", "a/b-", "é"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with refused(InvalidInput, option="image"):
        parse_reference(text)


def test_an_error_shows_no_password() -> None:
    with refused(
        InvalidInput,
        says="image: '...' is not accepted: [registry[:port]/]name[:tag][@digest] is expected, such as "
        "quay.io/containerdisks/fedora:latest, with a name in lower case; or one of oci:, oci-archive: and "
        "docker-archive: before an absolute path.",
    ):
        parse_reference("user:s3cret@r.example/a")


@pytest.mark.parametrize(
    ("registry", "is_here"),
    [
        *(("localhost:5000", True), ("127.0.0.1", True), ("127.1.2.3:80", True), ("[::1]:5000", True)),
        *(("127.0.0.1.example", False), ("localhost.example:5000", False), ("[::2]", False), ("10.0.0.1", False)),
    ],
)
def test_only_a_loopback_address_is_on_this_host(registry: str, is_here: bool) -> None:
    found = parse_reference(f"{registry}/a")
    assert isinstance(found, RegistryImage) and found.is_on_this_host == is_here
