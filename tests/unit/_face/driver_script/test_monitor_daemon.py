# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitor daemon of a front-end: its configuration, its key, and the messages that it receives by UDP.

Keys are made, and messages are decrypted, by openssl(1).
"""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    InvalidInput,
    NotFound,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import VmUsage
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.monitor_daemon import (
    Daemon,
    find_daemon,
    parse_daemon,
)
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.public_key import parse_public_key
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.template import parse_vector
from refusal import refused

#: A part of the configuration that a front-end is delivered with.
DELIVERED = """
#*******************************************************************************
# NETWORK = [ PORT = 1 ]
#*******************************************************************************
LOG = [
  SYSTEM      = "file",
  DEBUG_LEVEL = 3
]
DB = [ CONNECTIONS = 15 ]

NETWORK = [
    ADDRESS         = "::",
    MONITOR_ADDRESS = "auto",
    PORT    = 4124, # not 4125
    THREADS = 8,
    PUBKEY  = "",
    PRIKEY  = ""
]
PROBES_PERIOD = [ BEACON_HOST = 30 ]
IM_MAD = [ NAME = "kvm", ARGUMENTS = "-r 3 [ NETWORK = x" ]
"""


def test_the_configuration_that_is_delivered() -> None:
    assert parse_daemon("monitord.conf", DELIVERED) == Daemon("127.0.0.1", 4124)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("", "127.0.0.1", 4124),
        ("NETWORK=[MONITOR_ADDRESS=10.0.0.1,PORT=5000]", "10.0.0.1", 5000),
        ('network = [ monitor_address = "fd00::1" ]', "fd00::1", 4124),
        ('NETWORK = [ MONITOR_ADDRESS = AUTO, PORT = "7" ]', "127.0.0.1", 7),
        ('X = "NETWORK = [ PORT = 1 ]"\nNETWORK = [ ADDRESS = "# ,] \\" PORT = 9", PORT = 8 ]', "127.0.0.1", 8),
        ("NETWORK = 4\n", "127.0.0.1", 4124),
    ],
)
def test_other_configurations(text: str, address: str, port: int) -> None:
    assert parse_daemon("monitord.conf", text) == Daemon(address, port)


@pytest.mark.parametrize(
    "text",
    [
        "NETWORK = [",
        "NETWORK = [ PORT = 1",
        "NETWORK = [ PORT 1 ]",
        'NETWORK = [ PORT = "1 ]',
        "NETWORK = [ PORT = 1 THREADS = 2 ]",
        "NETWORK = [ PORT = [ 1 ] ]",
    ],
)
def test_a_configuration_that_cannot_be_read(text: str) -> None:
    with refused(InvalidInput, option="/etc/monitord.conf"):
        parse_vector("/etc/monitord.conf", text, "NETWORK")


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "99999999999999999999"])
def test_a_port_that_does_not_exist(port: str) -> None:
    with refused(InvalidInput, option="monitord.conf: PORT", value=port):
        parse_daemon("monitord.conf", f"NETWORK = [ PORT = {port} ]")


def test_without_a_configuration_there_is_no_daemon(tmp_path: Path) -> None:
    assert find_daemon({}) is None
    assert find_daemon({"ONE_LOCATION": str(tmp_path)}) is None


def write_configuration(location: Path, text: str) -> Path:
    path = location / "etc" / "monitord.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_configuration_below_one_location(tmp_path: Path) -> None:
    write_configuration(tmp_path, "NETWORK = [ PORT = 77 ]")
    assert find_daemon({"ONE_LOCATION": str(tmp_path)}) == Daemon("127.0.0.1", 77)


def test_a_configuration_that_another_user_could_have_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_configuration(tmp_path, "NETWORK = [ PORT = 77 ]")
    for place in (path, path.parent):
        os.chown(place, 61001, -1)
        assert find_daemon({"ONE_LOCATION": str(tmp_path)}) is None
        assert capfd.readouterr().err == f"INFO: {path} is not used, because it belongs to another user.\n"
        os.chown(place, 0, -1)
    path.unlink()
    os.mkfifo(path)
    with refused(FileAccessFailed, names=[path]):
        find_daemon({"ONE_LOCATION": str(tmp_path)})


# Keys


def openssl(*arguments: object, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=True).stdout


@pytest.fixture(scope="module", params=[1024, 2048, 2049])
def private(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "private.pem"
    openssl("genrsa", "-out", path, request.param)
    return path


def public(private: Path) -> str:
    return openssl("rsa", "-in", private, "-RSAPublicKey_out").decode()


def decrypt(private: Path, data: bytes) -> bytes:
    """Return the decrypted blocks, as the daemon does."""
    modulus = openssl("rsa", "-in", private, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
    length = (int(modulus, 16).bit_length() + 7) // 8
    assert len(data) % length == 0
    return b"".join(
        openssl("pkeyutl", "-decrypt", "-inkey", private, "-pkeyopt", "rsa_padding_mode:pkcs1", stdin=block)
        for block in (data[start : start + length] for start in range(0, len(data), length))
    )


@pytest.mark.parametrize("length", [0, 1, 116, 117, 118, 245, 246, 600])
def test_openssl_decrypts_what_is_encrypted(private: Path, length: int) -> None:
    data = os.urandom(length)
    key = parse_public_key("PUBKEY", public(private))
    assert decrypt(private, key.encrypt(data)) == data
    assert length == 0 or key.encrypt(data) != key.encrypt(data)


def test_keys_of_other_forms(tmp_path: Path) -> None:
    path = tmp_path / "private.pem"
    openssl("genrsa", "-out", path, 2048)
    text = public(path)
    lines = text.splitlines()
    others = [
        "",
        "secret",
        path.read_text(),
        openssl("rsa", "-in", path, "-pubout").decode(),
        "\n".join([*lines[:3], lines[-1]]),
        "\n".join([lines[0], "AAAA", lines[-1]]),
        "\n".join([lines[0], "====", lines[-1]]),
        "\n".join([lines[0], "MIIB", lines[-1]]),
    ]
    for other in others:
        with refused(InvalidInput, option="PUBKEY"):
            parse_public_key("PUBKEY", other)
    openssl("genrsa", "-out", path, 512)
    with refused(InvalidInput, option="PUBKEY", value="a key of 512 bits"):
        parse_public_key("PUBKEY", public(path))


def test_a_key_that_is_missing(tmp_path: Path) -> None:
    with refused(NotFound, names=[tmp_path / "key"]):
        parse_daemon("monitord.conf", f'NETWORK = [ PUBKEY = "{tmp_path}/key" ]')
    with refused(InvalidInput, value="key"):
        parse_daemon("monitord.conf", 'NETWORK = [ PUBKEY = "key" ]')


# Messages


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(30)
        yield listening


@pytest.fixture
def receive(listener: socket.socket) -> Callable[..., tuple[str, str]]:
    """Return a function that receives a message, and returns its status and its text."""

    def one(private: Path | None = None) -> tuple[str, str]:
        datagram = listener.recv(1 << 16)
        match = re.fullmatch(rb"MONITOR_VM (SUCCESS|FAILURE) -1 0 ([A-Za-z0-9+/]+=*)\n", datagram)
        assert match and len(datagram) <= 60_000
        data = zlib.decompress(base64.b64decode(match[2]))
        return match[1].decode(), (decrypt(private, data) if private else data).decode()

    return one


def decoded(text: str) -> dict[int, str]:
    """Return the decoded figures by VM."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r'VM = \[ ID = ([0-9]+), MONITOR = "([A-Za-z0-9+/]+=*)" \]', line)
        assert match
        found[int(match[1])] = base64.b64decode(match[2]).decode()
    return found


def test_messages(listener: socket.socket, receive: Callable[..., tuple[str, str]]) -> None:
    daemon = Daemon("127.0.0.1", listener.getsockname()[1])
    daemon.send_usage([VmUsage(7, ((0, 8), (1, 9)), ((3, 0, 2),)), VmUsage(8, ((0, 1),), ())])
    status, text = receive()
    assert status == "SUCCESS"
    assert decoded(text) == {
        7: "DISK_SIZE = [ ID=0, SIZE=8 ]\nDISK_SIZE = [ ID=1, SIZE=9 ]\nSNAPSHOT_SIZE = [ ID=3, DISK_ID=0, SIZE=2 ]\n",
        8: "DISK_SIZE = [ ID=0, SIZE=1 ]\n",
    }
    daemon.send_failure("The datastore is away.")
    assert receive() == ("FAILURE", "The datastore is away.")


def test_encrypted_messages(
    listener: socket.socket, receive: Callable[..., tuple[str, str]], tmp_path: Path, private: Path
) -> None:
    (tmp_path / "key").write_text(public(private))
    port = listener.getsockname()[1]
    daemon = parse_daemon("monitord.conf", f'NETWORK = [ PORT = {port}, PUBKEY = "{tmp_path}/key" ]')
    daemon.send_usage([VmUsage(7, ((0, 8),), tuple((number, 0, 1) for number in range(20)))])
    status, text = receive(private)
    assert (status, len(decoded(text)[7].splitlines())) == ("SUCCESS", 21)


@pytest.mark.parametrize("bits", [0, 1024])
def test_many_vms_take_several_messages(
    listener: socket.socket, receive: Callable[..., tuple[str, str]], tmp_path: Path, bits: int
) -> None:
    key = None
    if bits:
        openssl("genrsa", "-out", tmp_path / "private.pem", bits)
        key = parse_public_key("PUBKEY", public(tmp_path / "private.pem"))
    usage = [
        VmUsage(vm, tuple((disk, vm) for disk in range(8)), tuple((one, 0, vm) for one in range(20)))
        for vm in range(300)
    ]
    Daemon("127.0.0.1", listener.getsockname()[1], key).send_usage(usage)
    if bits:
        assert len(listener.recv(1 << 16)) <= 60_000
        return
    found: dict[int, str] = {}
    messages = 0
    while len(found) < 300:
        found.update(decoded(receive()[1]))
        messages += 1
    assert messages > 1
    assert {len(text.splitlines()) for text in found.values()} == {28}


def test_a_vm_with_too_many_snapshots_is_reported_without_them(
    listener: socket.socket, receive: Callable[..., tuple[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    many = tuple((number, 0, number * 7919 % 100_003) for number in range(10_000))
    Daemon("127.0.0.1", listener.getsockname()[1]).send_usage([VmUsage(7, ((0, 8),), many), VmUsage(8, ((0, 1),), ())])
    assert decoded(receive()[1]) == {7: "DISK_SIZE = [ ID=0, SIZE=8 ]\n"}
    assert decoded(receive()[1]) == {8: "DISK_SIZE = [ ID=0, SIZE=1 ]\n"}
    assert capfd.readouterr().err == "INFO: The snapshots of the VM 7 are not reported: 10000 are too many.\n"


def test_a_daemon_that_cannot_be_reached() -> None:
    with refused(TransferFailed, names=["no such host", "port 4124"]):
        Daemon("no such host", 4124).send_failure("")
