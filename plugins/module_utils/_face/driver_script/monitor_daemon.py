# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The monitor daemon of a front-end, which receives the storage of VM disks by UDP (spec: storage-driver, "monitor").

A message is one datagram: its type, ``SUCCESS`` or ``FAILURE``, the id -1, the time 0, and the payload. The payload is
a text that is encrypted if the front-end has a key, then compressed, and then encoded in base64.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import socket
import zlib

from ..._core import records
from ..._core.digits import is_decimal
from ..._core.directory import opened_file_at, opened_parent
from ..._core.errors import InvalidInput, NotFound, TransferFailed, os_errors
from ..._core.paths import absolute
from ..._core.records import TYPE_CHECKING, dataclass
from ..._image.vm_usage import vm_line
from .output import log
from .public_key import PublicKey, parse_public_key
from .template import parse_vector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..._driver.datastore.base import VmUsage

#: The configuration of the daemon. The first file that exists counts.
FILES = ("/var/tmp/one_db/etc/monitord.conf", "/etc/one/monitord.conf")

#: Upper bound of a file with the configuration or with a key, in bytes.
LONGEST_FILE = 1 << 20

#: Upper bound of a text in one message in bytes. Even a text that can't be compressed fits into a datagram.
LONGEST_TEXT = 32 << 10

#: Upper bound of a datagram in bytes. UDP has a maximum of 65,507.
LONGEST_DATAGRAM = 60_000

DEFAULT_PORT = "4124"

#: Address of the daemon for the value ``auto``.
LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Daemon:
    """A monitor daemon.

    :arg key: the key that messages are encrypted with, if the daemon has one.
    """

    address: str
    port: int
    key: PublicKey | None = None

    def send_usage(self, usage: Sequence[VmUsage]) -> None:
        """Send the storage of VMs, in as many messages as necessary.

        :raises TransferFailed: a message can't be sent.
        """
        for group in _groups(usage):
            datagram = self._datagram("SUCCESS", _text(group))
            if len(datagram) > LONGEST_DATAGRAM:  # one VM with thousands of snapshots
                log(f"The snapshots of the VM {group[0].vm} are not reported: {len(group[0].snapshots)} are too many.")
                datagram = self._datagram("SUCCESS", _text([records.replace(one, snapshots=()) for one in group]))
            self._send(datagram)

    def send_failure(self, message: str) -> None:
        """Send the reason for which the storage isn't known.

        :raises TransferFailed: the message can't be sent.
        """
        self._send(self._datagram("FAILURE", message))

    def _datagram(self, status: str, text: str) -> bytes:
        data = text.encode()
        if self.key is not None:
            data = self.key.encrypt(data)
        payload = binascii.b2a_base64(zlib.compress(data), newline=False)
        return b"MONITOR_VM %b -1 0 %b\n" % (status.encode(), payload)

    def _send(self, datagram: bytes) -> None:
        place = f"{self.address} port {self.port}"
        try:
            family, kind, _protocol, _name, target = socket.getaddrinfo(
                self.address, self.port, type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind) as sender:
                sender.sendto(datagram, target)
        except (OSError, UnicodeError) as error:
            raise TransferFailed(f"The monitor daemon at {place} can't be reached: {error}.") from error


def _groups(usage: Sequence[VmUsage]) -> Iterator[list[VmUsage]]:
    """Yield the VMs of one message after the other. A VM with a longer text has a message of its own."""
    group: list[VmUsage] = []
    length = 0
    for one in usage:
        longer = len(_text([one]))
        if group and length + longer > LONGEST_TEXT:
            yield group
            group, length = [], 0
        group.append(one)
        length += longer
    if group:
        yield group


def _text(group: Sequence[VmUsage]) -> str:
    return "".join(vm_line(one.vm, one.disks, one.snapshots) for one in group)


def find_daemon(environment: Mapping[str, str]) -> Daemon | None:
    """Return the daemon of the configuration; ``None`` without a configuration.

    :raises InvalidInput: the configuration, or the key in it, can't be used.
    :raises VmstoreError: a file can't be read.
    """
    location = environment.get("ONE_LOCATION")
    for path in (*FILES, *([os.path.join(location, "etc/monitord.conf")] if location else [])):
        text = _read_trusted(path)
        if text is not None:
            return parse_daemon(path, text)
    return None


def parse_daemon(path: str, text: str) -> Daemon:
    """Return the daemon of a configuration.

    :arg path: the file with the text, for messages.
    :raises VmstoreError: see :func:`find_daemon`.
    """
    network = parse_vector(path, text, "NETWORK")
    address, port = network.get("MONITOR_ADDRESS", ""), network.get("PORT", "") or DEFAULT_PORT
    if not is_decimal(port, 5) or not 0 < int(port) < 1 << 16:
        raise InvalidInput(f"{path}: PORT", port, "a number from 1 to 65535 is expected")
    key = None
    if network.get("PUBKEY"):
        pem = _read_trusted(network["PUBKEY"])
        if pem is None:
            raise NotFound(f"{path}: there is no file {network['PUBKEY']!r} with the key (PUBKEY).")
        key = parse_public_key(f"{path}: PUBKEY", pem)
    return Daemon(LOCAL if address.lower() in ("", "auto") else address, int(port), key)


def _read_trusted(path: str) -> str | None:
    """Return the text of a file; ``None`` if the file is missing, or if another user could have put the file there. Any
    user can create ``/var/tmp/one_db``.

    :raises VmstoreError: the file can't be read, or isn't absolute.
    """
    absolute("monitord.conf", path)
    with (
        os_errors(f"read {path}"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        opened_parent(path, option="monitord.conf") as (directory, name),
    ):
        with opened_file_at(directory, name) as file:
            if {os.fstat(directory).st_uid, os.fstat(file).st_uid} <= {0, os.geteuid()}:
                with open(file, "rb", closefd=False) as opened:
                    return opened.read(LONGEST_FILE).decode(errors="replace")
        log(f"{path} is not used, because it belongs to another user.")
    return None


__all__ = ["Daemon", "find_daemon", "parse_daemon"]
