# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of downward metrics, written from the format of vhostmd(8) alone. It also runs in guests, as a program of
its own, which prints JSON: ``disk FILE`` waits for metrics, ``newer FILE TIME`` for metrics of a later time, and
``port REQUEST...`` prints the replies.
"""

from __future__ import annotations

import glob
import json
import os
import struct
import sys
from xml.etree import ElementTree

#: The first bytes of the disk: a signature, and three big-endian numbers.
HEADER = 16


def parse_disk(data: bytes) -> bytes | None:
    """Return the document of a whole disk; ``None`` while the disk is busy or inconsistent."""
    signature = data[:4]
    busy, total, length = struct.unpack(">iii", data[4:HEADER])
    if signature != b"mvbd" or length < 0:
        raise ValueError(f"no disk of metrics: {data[:HEADER]!r}")
    body = data[HEADER : HEADER + length]
    calculated = 0
    for byte in body:
        calculated = (calculated + byte + 2**31) % 2**32 - 2**31
    return body if busy == 0 and calculated == total else None


def read_disk(path: str) -> bytes | None:
    """Return the document of a disk that is written meanwhile; ``None`` for a torn read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.startswith("/dev/"):
            # Drop what the guest has cached of the device (BLKFLSBUF).
            import fcntl

            fcntl.ioctl(descriptor, 0x1261)
        size = os.lseek(descriptor, 0, os.SEEK_END)
        first = os.pread(descriptor, HEADER, 0)
        data = os.pread(descriptor, size, 0)
        return parse_disk(data) if first == data[:HEADER] else None
    finally:
        os.close(descriptor)


def metrics_of(document: bytes) -> list[tuple[str, str, str, str, str]]:
    """Return context, name, type, unit and value of each metric."""
    root = ElementTree.fromstring(document)
    assert root.tag == "metrics"
    return [
        (one.get("context"), one.findtext("name"), one.get("type"), one.get("unit", ""), one.findtext("value"))
        for one in root.findall("metric")
    ]


def ask_port(request: bytes) -> bytes:
    """Return the reply to a request on the port of this guest."""
    names = [
        name for name in glob.glob("/sys/class/virtio-ports/*/name") if "org.github.vhostmd.1" in open(name).read()
    ]
    port = os.open("/dev/" + os.path.basename(os.path.dirname(names[0])), os.O_RDWR)
    try:
        os.write(port, request)
        reply = b""
        while not reply.endswith(b"\n\n"):
            reply += os.read(port, 4096)
        return reply
    finally:
        os.close(port)


def main(kind: str, *words: str) -> None:
    if kind == "port":
        replies = [ask_port(word.encode().decode("unicode_escape").encode()) for word in words]
        print(json.dumps([reply.decode() for reply in replies]))
        return
    found: list[tuple[str, str, str, str, str]] = []
    while not found or (kind == "newer" and int(found[-1][-1]) <= int(words[1])):
        document = read_disk(words[0])
        found = metrics_of(document) if document else []
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
