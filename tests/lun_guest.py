# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of a guest that sends SCSI commands to its disks.

It prints a line of JSON for each disk. It imports few modules, so that the guest's initramfs is small.
"""

import array
import fcntl
import posix
import struct

#: The request of ioctl(2) that sends a SCSI command, and the form of its header (sg_io_hdr in <scsi/sg.h>).
SG_IO = 0x2285
HEADER = "@iiBBHIPPPIIiPBBBBHHiII"
#: The place of the status in the header.
STATUS = 13
FROM_DISK, TO_DISK = -3, -2
KEY = (0x1234).to_bytes(8, "big")


def send(file: int, command: list[int], data: bytes, direction: int) -> tuple[int, bytes]:
    """Return the status of a SCSI command, and the data that the command has read."""
    buffers = [array.array("B", content) for content in (data, bytes(command), bytes(64))]
    addresses = [one.buffer_info()[0] for one in buffers]
    sizes = (len(command), 64, 0, len(data))
    header = bytearray(struct.pack(HEADER, ord("S"), direction, *sizes, *addresses, 20000, *[0] * 12))
    fcntl.ioctl(file, SG_IO, header)
    return struct.unpack(HEADER, header)[STATUS], bytes(buffers[0])


def reserve(file: int, action: int, key: bytes, new_key: bytes) -> int:
    """Return the status of PERSISTENT RESERVE OUT for an exclusive access."""
    return send(file, [0x5F, action, 3, 0, 0, 0, 0, 0, 24, 0], key + new_key + bytes(8), TO_DISK)[0]


def report(path: str) -> str:
    file = posix.open(path, posix.O_RDWR)
    vendor = send(file, [0x12, 0, 0, 0, 96, 0], bytes(96), FROM_DISK)[1][8:16]
    page = send(file, [0x12, 1, 0x80, 0, 96, 0], bytes(96), FROM_DISK)[1]
    serial = page[4 : 4 + page[3]]
    registered = reserve(file, 0, bytes(8), KEY)
    reserved = reserve(file, 1, KEY, bytes(8))
    status, keys = send(file, [0x5E, 0, 0, 0, 0, 0, 0, 0, 32, 0], bytes(32), FROM_DISK)
    posix.pwrite(file, b"the guest was here".ljust(512), 0)
    posix.fsync(file)
    texts = f'"vendor": "{vendor.decode()}", "key": "{keys[8:16].hex()}"'
    return f'{{"serial": "{serial.strip(bytes(1)).decode()}", {texts}, "statuses": {[registered, reserved, status]}}}'


for name in sorted(posix.listdir("/sys/block")):
    if name.startswith("sd"):
        print(report(f"/dev/{name}"))
