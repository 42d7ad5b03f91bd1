# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""RSA public keys in PEM (PKCS #1, RFC 8017), and encryption with them. Python's standard library has neither."""

from __future__ import annotations

import binascii
import os
import re

from ..._core.errors import InvalidInput
from ..._core.records import dataclass

PEM = re.compile(r"-----BEGIN RSA PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END RSA PUBLIC KEY-----")

#: Types of values in the key (ASN.1, DER).
SEQUENCE, INTEGER = 0x30, 0x02

#: Bounds of the length of a modulus in bits. Longer ones would take too long.
SHORTEST, LONGEST = 1024, 16384

#: Bytes of a block that are no data (RFC 8017, 7.2.1).
OVERHEAD = 11


@dataclass(frozen=True)
class PublicKey:
    modulus: int
    exponent: int

    def encrypt(self, data: bytes) -> bytes:
        """Return the data encrypted by RSAES-PKCS1-v1_5, in blocks of the length of the modulus."""
        length = (self.modulus.bit_length() + 7) // 8
        size = length - OVERHEAD
        return b"".join(self._encrypt_block(data[start : start + size], length) for start in range(0, len(data), size))

    def _encrypt_block(self, data: bytes, length: int) -> bytes:
        padding = b""
        while len(padding) < length - 3 - len(data):
            padding += os.urandom(length).replace(b"\0", b"")
        block = b"\0\2" + padding[: length - 3 - len(data)] + b"\0" + data
        return pow(int.from_bytes(block, "big"), self.exponent, self.modulus).to_bytes(length, "big")


def parse_public_key(option: str, text: str) -> PublicKey:
    """Return the key in a text.

    :arg option: the name of the key, for messages.
    :raises InvalidInput: the text has no such key.
    """
    match = PEM.search(text)
    try:
        if match is None:
            raise ValueError("no BEGIN RSA PUBLIC KEY")
        sequence, rest = _read_value(SEQUENCE, binascii.a2b_base64(match[1]))
        modulus, rest = _read_value(INTEGER, sequence)
        exponent, rest = _read_value(INTEGER, rest)
    except (ValueError, IndexError) as error:
        raise InvalidInput(option, text[:16], f"a PEM file with an RSA PUBLIC KEY is expected ({error})") from error
    key = PublicKey(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))
    if not SHORTEST <= key.modulus.bit_length() <= LONGEST or not 1 < key.exponent < key.modulus:
        bits = f"a key of {key.modulus.bit_length()} bits"
        raise InvalidInput(option, bits, f"a key of {SHORTEST} to {LONGEST} bits is expected")
    return key


def _read_value(kind: int, data: bytes) -> tuple[bytes, bytes]:
    """Return the first value of DER, and the bytes behind the value.

    :raises ValueError, IndexError: the value is of another type, or is cut off.
    """
    if data[0] != kind:
        raise ValueError(f"a value has the type {data[0]:#x}")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("a value is cut off")
    return data[start : start + length], data[start + length :]


__all__ = ["PublicKey", "parse_public_key"]
