# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recognition of an image's format by the beginning and the end of the file.

There is a file of each format, from the program that writes this format or from its specification.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import shutil
import struct
import subprocess
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image import disk_signs, magic
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore

KIB, MIB = 1 << 10, 1 << 20
#: Content without a known format.
NOISE = random.Random(7).randbytes(300 * KIB)

PACKAGES = {
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.exfat": "exfatprogs",
    "mkfs.f2fs": "f2fs-tools",
    "mkfs.ntfs": "ntfs-3g",
    "mkfs.vfat": "dosfstools",
}
PACKAGES.update(
    {
        "lzma": "xz-utils",
        "mkfs.xfs": "xfsprogs",
        "mkfs.ext4": "e2fsprogs",
        "mkswap": "util-linux",
        "ntfsclone": "ntfs-3g",
    }
)


def tool(name: str, *arguments: object, stdin: bytes = b"", directory: Path | None = None) -> bytes:
    if shutil.which(name) is None:
        pytest.fail(f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    command = [name, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout


def begins(header: bytes) -> Callable[[Path], bytes]:
    return lambda _directory: header + NOISE


def place_at(offset: int, data: bytes) -> Callable[[Path], bytes]:
    """Return noise that contains ``data``."""
    return lambda _directory: NOISE[:offset].ljust(offset, b"\x07") + data + NOISE


# Refused formats


def member(directory: Path) -> str:
    (directory / "disk.img").write_bytes(NOISE)
    return "disk.img"


def make_tar(form: str) -> Callable[[Path], bytes]:
    return lambda directory: tool("tar", f"--format={form}", "-c", member(directory), directory=directory)


def make_cpio(form: str) -> Callable[[Path], bytes]:
    return lambda directory: tool("cpio", "-o", "-H", form, stdin=member(directory).encode(), directory=directory)


def swap_bytes(directory: Path) -> bytes:
    """Return a file of a machine with the other byte order: words of a header are swapped, bytes of names are not."""
    data = make_cpio("bin")(directory)
    words = struct.unpack_from("<13H", data)
    return struct.pack(">13H", *words) + data[26:]


def unsigned_tar(directory: Path) -> bytes:
    data = bytearray(make_tar("v7")(directory))
    data[0] = 0xE9  # a name with characters outside of ASCII
    header = struct.unpack("512b", bytes(data[:148]) + b" " * 8 + bytes(data[156:512]))
    data[148:156] = b"%06o\0 " % sum(header)
    return bytes(data)


def damaged_tar(directory: Path) -> bytes:
    data = bytearray(make_tar("ustar")(directory))
    data[0] ^= 1
    return bytes(data)


def make_zip(_directory: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("disk.img", NOISE)
    return buffer.getvalue()


def create_image(form: str, *options: str) -> Callable[[Path], bytes]:
    def image(directory: Path) -> bytes:
        tool("qemu-img", "create", "-q", "-f", form, *options, path := directory / "created", "4M")
        return path.read_bytes()

    return image


def ntfs_clone(directory: Path) -> bytes:
    make_disk("mkfs.ntfs", "-q", "-F", size=8 * MIB)(directory)
    return tool("ntfsclone", "-q", "--save-image", "-O", "-", directory / "made")


def arj(_directory: Path) -> bytes:
    header = bytes([30, 11, 1, 2, 0x10, 0, 2, 0]) + bytes(22) + b"disk.arj\0\0"
    return (
        b"\x60\xea" + struct.pack("<H", len(header)) + header + struct.pack("<I", zlib.crc32(header)) + bytes(2) + NOISE
    )


def dmg(beginning: bytes) -> Callable[[Path], bytes]:
    return lambda _directory: beginning + NOISE + b"koly" + struct.pack(">III", 4, 512, 1) + bytes(496)


LHA = b"\x21\x8a-lh5-" + struct.pack("<IIIBB", 1000, 3000, 0x5B3D2A10, 0x20, 2)
EWF_SEGMENT = b"\1\1\0\0\0"

#: Bytes after the header.
LZMA = lzma.compress(NOISE, lzma.FORMAT_ALONE)[13:]

#: Names of the formats, and functions that create a file of each format.
REFUSED: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    # archives
    "tar v7": ("a tar archive", make_tar("v7")),
    "tar ustar": ("a tar archive", make_tar("ustar")),
    "tar pax": ("a tar archive", make_tar("pax")),
    "tar gnu": ("a tar archive", make_tar("gnu")),
    "tar with a signed checksum": ("a tar archive", unsigned_tar),
    "tar with a wrong checksum": ("a tar archive", damaged_tar),
    "cpio newc": ("a cpio archive", make_cpio("newc")),
    "cpio crc": ("a cpio archive", make_cpio("crc")),
    "cpio odc": ("a cpio archive", make_cpio("odc")),
    "cpio bin": ("a cpio archive", make_cpio("bin")),
    "cpio of the other byte order": ("a cpio archive", swap_bytes),
    "zip": ("a zip archive", make_zip),
    "empty zip": ("a zip archive", lambda _directory: b"PK\5\6" + bytes(18)),
    "zip in parts": ("a zip archive", begins(b"PK\7\x08PK\3\4\x14\0")),
    "zip that was to have parts": ("a zip archive", begins(b"PK00PK\3\4\x14\0")),
    "7z": ("a 7z archive", begins(b"7z\xbc\xaf\x27\x1c\0\4")),
    "rar 5": ("a rar archive", begins(b"Rar!\x1a\7\1\0")),
    "rar 1.5": ("a rar archive", begins(b"Rar!\x1a\7\0")),
    "rar 1.4": ("a rar archive", begins(b"RE~^\7\0")),
    "ar": (
        "an ar archive",
        lambda directory: [
            tool("ar", "-q", directory / "x.a", directory / member(directory)),
            (directory / "x.a").read_bytes(),
        ][1],
    ),
    "thin ar": ("an ar archive", begins(b"!<thin>\n")),
    "RPM": ("an RPM archive", begins(b"\xed\xab\xee\xdb\3\0\0\0\0\1")),
    "cab": ("a cab archive", begins(b"MSCF\0\0\0\0\x40\1\0\0\0\0\0\0\x2c\0\0\0")),
    "xar": ("a xar archive", begins(b"xar!\0\x1c\0\1")),
    "ARJ": ("an ARJ archive", arj),
    "LHA": ("an LHA archive", begins(LHA)),
    "WIM": ("a WIM archive", begins(b"MSWIM\0\0\0\xd0\0\0\0")),
    "pipable WIM": ("a WIM archive", begins(b"WLPWM\0\0\0\xd0\0\0\0")),
    "zoo": ("a zoo archive", begins(b"ZOO 2.10 Archive.\x1a\0\0\xdc\xa7\xc4\xfd")),
    "zpaq": ("a zpaq archive", begins(b"7kSt\xa0\x31\x83\xd3\x8c\xb2\x28\xb0\xd3zPQ\2\1")),
    "ACE": ("an ACE archive", begins(b"\x12\x34\x31\0\0\0\x90**ACE**\x14\x14")),
    "StuffIt": ("a StuffIt archive", begins(b"StuffIt (c)1997-2002 Aladdin Systems, Inc.")),
    "old StuffIt": ("a StuffIt archive", begins(b"SIT!\0\1\0\0\1\0rLau")),
    "PAR2": ("a PAR2 archive", begins(b"PAR2\0PKT\x44\0\0\0")),
    "qpress": ("a qpress archive", begins(b"qpress10\0\0\1\0")),
    "dump": ("a dump archive", begins(b"\1\0\0\0" + bytes(20) + struct.pack("<I", 60012))),
    "dump of the other byte order": ("a dump archive", begins(b"\0\0\0\1" + bytes(20) + struct.pack(">I", 60012))),
    "xfsdump": ("a xfsdump archive", begins(b"xFSdump0\0\0\0\3")),
    # compressions
    "lz4": ("compressed with lz4", lambda _directory: tool("lz4", "-c", stdin=NOISE)),
    "legacy lz4": ("compressed with lz4", lambda _directory: tool("lz4", "-l", "-c", stdin=NOISE)),
    "lz4 behind a skippable frame": (
        "compressed with lz4",
        lambda _directory: b"\x5a\x2a\x4d\x18\3\0\0\0abc" + tool("lz4", "-c", stdin=NOISE),
    ),
    "lzma": ("compressed with lzma", lambda _directory: tool("lzma", "-c", stdin=NOISE)),
    "lzma with its size": (
        "compressed with lzma",
        lambda _directory: struct.pack("<BIQ", 0x5D, 3 << 20, len(NOISE)) + LZMA,
    ),
    "lzip": ("compressed with lzip", begins(b"LZIP\1\x17")),
    "lzip 0": ("compressed with lzip", begins(b"LZIP\0\x17")),
    "lzop": ("compressed with lzop", begins(b"\x89LZO\0\r\n\x1a\n\x10\x40")),
    "lrzip": ("compressed with lrzip", begins(b"LRZI\0\6")),
    "rzip": ("compressed with rzip", begins(b"RZIP\2\1")),
    "SZDD": ("compressed with Microsoft's compress", begins(b"SZDD\x88\xf0\x27\x33A")),
    "KWAJ": ("compressed with Microsoft's compress", begins(b"KWAJ\x88\xf0\x27\xd1\3\0")),
    "snappy": ("compressed with snappy", begins(b"\xff\6\0\0sNaPpY")),
    "compress": ("compressed with compress", begins(b"\x1f\x9d\x90")),
    "zlib": ("compressed with zlib", lambda _directory: zlib.compress(NOISE)),
    "zlib, small": ("compressed with zlib", lambda _directory: zlib.compress(b"hello", 9)),
    "pack": ("compressed with pack", begins(b"\x1f\x1e\0\1\0\0\x0c")),
    **{f"lzfse {kind}": ("compressed with lzfse", begins(f"bvx{kind}".encode())) for kind in "-12n"},
    **{
        f"zstd 0.{low & 15}": ("compressed with an old version of zstd", begins(bytes([low]) + b"\xb5\x2f\xfd"))
        for low in (0x1E, *range(0x22, 0x28))
    },
    # containers
    "qcow": ("a qcow image", create_image("qcow")),
    "QED": ("a QED image", create_image("qed")),
    "Parallels": ("a Parallels image", create_image("parallels")),
    "old Parallels": ("a Parallels image", begins(b"WithoutFreeSpace\2\0\0\0")),
    "Bochs": ("a Bochs image", begins(b"Bochs Virtual HD Image\0")),
    "cloop": ("a cloop image", begins(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n")),
    "DMG": ("a DMG image", dmg(b"\x78\xda")),
    "DMG with bzip2": ("a DMG image", dmg(b"BZh91AY&SY")),
    "NRG": ("an NRG image", lambda _directory: bytes(300 * KIB) + NOISE + b"NER5" + struct.pack(">Q", 300 * KIB)),
    "encrypted DMG": ("an encrypted DMG image", begins(b"encrcdsa\0\0\0\2")),
    "Apple sparse": ("an Apple sparse image", begins(b"sprs\0\0\0\3")),
    "EWF E01": ("an EWF image", begins(b"EVF\x09\r\n\xff\0" + EWF_SEGMENT)),
    "EWF Ex01": ("an EWF image", begins(b"EVF2\r\n\x81\0" + EWF_SEGMENT)),
    "EWF L01": ("an EWF image", begins(b"LVF\x09\r\n\xff\0" + EWF_SEGMENT)),
    "EWF Lx01": ("an EWF image", begins(b"LEF2\r\n\x81\0" + EWF_SEGMENT)),
    "AFF": ("an AFF image", begins(b"AFF10\r\n\0AFF\0")),
    "AD1": ("an AD1 image", begins(b"ADSEGMENTEDFILE\0\1\0")),
    "MDS": ("a Media Descriptor (mds) image", begins(b"MEDIA DESCRIPTOR\1\3")),
    "VMA": ("a VMA image", begins(b"VMA\0\0\0\0\1")),
    "Android sparse": ("an Android sparse image", begins(b"\x3a\xff\x26\xed\1\0\0\0\x1c\0\x0c\0")),
    "partclone": ("a partclone image", begins(b"partclone-image\0")),
    "ntfsclone": ("a ntfsclone image", ntfs_clone),
    "partimage": ("a partimage image", begins(b"PaRtImAgE-VoLuMe\0")),
    "fsarchiver": ("a fsarchiver image", begins(b"FsA0\1\2\3\4\xff\xff")),
    "Ceph export": ("a Ceph export image", begins(b"rbd image v2\nO")),
    "Ceph differences": ("a Ceph export image", begins(b"rbd image diffs v2\n")),
    "Ceph difference": ("a Ceph export image", begins(b"rbd diff v1\nf")),
    "btrfs": ("a btrfs send stream image", begins(b"btrfs-stream\0\1\0\0\0")),
    "ZFS": ("a ZFS send stream image", begins(bytes(8) + struct.pack("<Q", 0x2F5BACBAC))),
    "ZFS of the other byte order": ("a ZFS send stream image", begins(bytes(8) + struct.pack(">Q", 0x2F5BACBAC))),
    "SE sparse": ("an SE sparse VMDK image", begins(struct.pack("<QQ", 0xCAFEBABE, 0x200000001))),
    "UML COW": ("a UML COW image", begins(b"OOOM\0\0\0\3")),
    "CHD": ("a CHD image", begins(b"MComprHD\0\0\0\x7c\0\0\0\5")),
    "CD sectors": ("a CD in raw sectors (bin) image", begins(b"\0" + b"\xff" * 10 + b"\0\0\2\0\1")),
    # documents
    "HTML": ("an HTML page", begins(b"<!DOCTYPE html><html><body>Please log in</body></html>\n")),
    "HTML in capitals": ("an HTML page", begins(b"<HTML>\n<HEAD>")),
    "HTML with attributes": ("an HTML page", begins(b"<html\n lang='en'>")),
    "HTML behind blanks": ("an HTML page", begins(b"\xef\xbb\xbf\r\n\t <!doctype  HTML PUBLIC")),
    "HTML behind a comment": ("an HTML page", begins(b"\n<!-- proxy -->\n<!----> <html>")),
    "HTML without a document": ("an HTML page", begins(b"<script>location='/login'</script>")),
    "HTML with a short tag": (
        "an HTML page",
        begins(b"<p>This site needs a login: <a href='https://login.example/'>go there</a> first.</p>\n"),
    ),
    "HTML that is short": ("an HTML page", lambda _directory: b"<h1>Forbidden</h1>"),
    "HTML in UTF-16": ("an HTML page", begins("\ufeff<!DOCTYPE html>".encode("utf-16-le"))),
    "HTML with a form": ("an HTML page", begins(b"<form action='/login' method='post'>")),
    "HTML with a heading": ("an HTML page", lambda _directory: b"<h2>503 Service Unavailable</h2>"),
    "XML without a declaration": (
        "an XML document",
        begins(b"<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1'>"),
    ),
    "XML": (
        "an XML document",
        begins(b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code></Error>"),
    ),
    "XML behind a comment": ("an XML document", begins(b"<!-- a domain -->\n<!-- of libvirt --><domain type='kvm'>")),
    "XML that is a comment": ("an XML document", begins(b"<!-- " + b"x" * 600)),
    "XML in UTF-16": ("an XML document", begins("\ufeff<?xml version='1.0'?>".encode("utf-16-be"))),
    "XML with a mark": ("an XML document", begins(b'\xef\xbb\xbf<?xml version="1.0"?>')),
    "PDF": ("a PDF file", begins(b"%PDF-1.7\n")),
    "RTF": ("an RTF file", begins(b"{\\rtf1\\ansi")),
    "PostScript": ("a PostScript file", begins(b"%!PS-Adobe-3.0\n")),
    "PNG": ("a PNG file", begins(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")),
    "JPEG": ("a JPEG file", begins(b"\xff\xd8\xff\xe0\0\x10JFIF\0")),
    "GIF 87": ("a GIF file", begins(b"GIF87a\1\0\1\0")),
    "GIF 89": ("a GIF file", begins(b"GIF89a\1\0\1\0")),
    "TIFF": ("a TIFF file", begins(b"II*\0\x08\0\0\0")),
    "TIFF of the other byte order": ("a TIFF file", begins(b"MM\0*\0\0\0\x08")),
    "BMP": ("a BMP file", begins(b"BM\x36\0\1\0\0\0\0\0\x36\0\0\0\x28\0\0\0")),
    "WebP": ("a WebP file", begins(b"RIFF\0\0\1\0WEBPVP8 ")),
    "Office": ("a Microsoft Office file", begins(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    "signature": ("a key, certificate or signature", begins(b"-----BEGIN PGP SIGNATURE-----\n")),
    "Ogg": ("an Ogg file", begins(b"OggS\0\2")),
    "WAVE": ("a WAVE file", begins(b"RIFF\0\0\1\0WAVEfmt \x10\0")),
    "AVI": ("an AVI file", begins(b"RIFF\0\0\1\0AVI LIST")),
    "FLAC": ("a sound file (FLAC)", begins(b"fLaC\0\0\0\x22\x10\0")),
    "Matroska": ("a Matroska file", begins(b"\x1a\x45\xdf\xa3\x01\0\0\0")),
    **{
        f"MP4 {brand}": ("an MP4 file", begins(b"\0\0\0\x1cftyp" + brand.encode()))
        for brand in ("iso2", "iso4", "iso5", "iso6", "mp41", "avc1", "dash", "M4V ", "qt  ")
    },
    "MP4": ("an MP4 file", begins(b"\0\0\0\x20ftypisom")),
    "MP4 2": ("an MP4 file", begins(b"\0\0\0\x18ftypmp42")),
    "SQLite": ("an SQLite database", begins(b"SQLite format 3\0\x10\0\1\1")),
    "openssl": ("a file that openssl encrypted", begins(b"Salted__12345678")),
    "ansible-vault": ("a file that ansible-vault encrypted", begins(b"$ANSIBLE_VAULT;1.1;AES256\n6132")),
    "Git LFS": (
        "a pointer of Git LFS, without the file",
        begins(b"version https://git-lfs.github.com/spec/v1\noid sha256:"),
    ),
    "jigdo": ("a template of jigdo, without the data", begins(b"JigsawDownload template 1.2 jigit/1.22 \r\n")),
    "age": ("a file that age encrypted", begins(b"age-encryption.org/v1\n-> X25519 ")),
    "VirtualBox": ("a saved state of a virtual machine", begins(b"\x7fVirtualBox SavedState V2.0\n")),
    "migration": ("a saved state of a virtual machine", begins(b"QEVM\0\0\0\3")),
    "libvirt, partial": ("a saved state of a virtual machine", begins(b"LibvirtQemudPart\2\0\0\0")),
    "libvirt": ("a saved state of a virtual machine", begins(b"LibvirtQemudSave\2\0\0\0")),
    "torrent": ("a torrent", begins(b"d8:announce35:")),
}


@pytest.fixture
def driver(tmp_path: Path) -> FsDriver:
    (tmp_path / "store").mkdir()
    (tmp_path / "files").mkdir()
    return FsDriver(
        Datastore(1, "default", "image", "fs", "local", f"{tmp_path}/store", safe_dirs=(f"{tmp_path}/files",))
    )


@pytest.fixture
def files(driver: FsDriver, tmp_path: Path) -> Path:
    """Return the directory of the images' sources."""
    return tmp_path / "files"


def write_file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def read_stored(driver: FsDriver) -> list[bytes]:
    return [path.read_bytes() for path in Path(driver.datastore.base_path).iterdir()]


def expect_refusal(driver: FsDriver, path: str, options: CopyOptions) -> str:
    """Return the reason of a refusal, which must be the same in the preview."""
    reasons = []
    for act in (driver.cp, driver.preview):
        with pytest.raises(InvalidInput) as caught:
            act(path, options)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    assert read_stored(driver) == []
    return reasons[0]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_by_its_name(driver: FsDriver, files: Path, tmp_path: Path, kind: str) -> None:
    called, make = REFUSED[kind]
    data = make(tmp_path)
    path = write_file(files / "x", data)
    for image_type in ("os", "datablock", "cdrom"):
        expected = f"path: '{path}' is not accepted: an image is expected, and this is {called}: "
        message = expect_refusal(driver, path, CopyOptions(image_type))
        assert message.startswith(expected) and message.endswith("; format: raw stores it as it is.")
    if kind != "DMG with bzip2":  # doubly compressed
        compressed = write_file(files / "x.gz", gzip.compress(data, 1))
        assert f"and this is {called}: " in expect_refusal(driver, compressed, CopyOptions("os"))
    copied = driver.cp(path, CopyOptions("os", image_format="raw"))
    assert (copied.format, copied.warnings, read_stored(driver)) == ("raw", (), [data])


def test_each_row_of_the_table_has_a_file(tmp_path: Path) -> None:
    samples = [make(tmp_path) for _name, make in REFUSED.values()]
    for group, name, offset, number in magic._MAGICS:
        found = [
            sample
            for sample in samples
            if (sample.startswith(number, offset) if offset >= 0 else sample[offset:].startswith(number))
        ]
        assert found or not group, (name, number)
    for table in (magic._STRUCTURES, magic._WEAK):
        for _group, name, fits in table:
            assert any(map(fits, samples)), name
    signs = [make(tmp_path) for make in SIGNS.values()]
    for name, offsets, number in disk_signs._SIGNS:
        assert any(sample.startswith(number, offset) for sample in signs for offset in offsets), name
    for name, fits in disk_signs._STRUCTURES:
        assert any(map(fits, signs)), name


# Signs of a disk


def make_disk(name: str, *arguments: str, size: int = 64 * MIB) -> Callable[[Path], bytes]:
    def image(directory: Path) -> bytes:
        path = directory / "made"
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
        tool(name, *arguments, path)
        with path.open("rb") as file:
            return file.read(2 * MIB)

    return image


def iso(directory: Path) -> bytes:
    member(directory)
    tool("xorriso", "-as", "mkisofs", "-quiet", "-o", directory / "iso", directory / "disk.img")
    return (directory / "iso").read_bytes()


def sun(_directory: Path) -> bytes:
    label = bytearray(NOISE[:508]) + b"\xda\xbe\0\0"
    total = 0
    for word in struct.unpack(">256H", label):
        total ^= word
    label[510:512] = struct.pack(">H", total)
    return bytes(label) + NOISE


FLOPPY = b"\xeb\x3c\x90MSDOS3.2" + struct.pack("<HBHBHHB", 512, 2, 1, 2, 112, 720, 0xFD)
BCACHE = "c68573f6 4e1a 45ca 8265 f57f48ba6d81"
BCACHEFS = "c68573f6 66ce 90a9 d96a 60cf803df7ef"

SIGNS: dict[str, Callable[[Path], bytes]] = {
    "ISO": iso,
    "ext4": make_disk("mkfs.ext4", "-q"),
    "ext2": make_disk("mkfs.ext4", "-q", "-t", "ext2", "-b", "1024"),
    "XFS": make_disk("mkfs.xfs", "-q", size=400 * MIB),
    "btrfs": make_disk("mkfs.btrfs", "-q", size=128 * MIB),
    "F2FS": make_disk("mkfs.f2fs", "-q", size=128 * MIB),
    "FAT": make_disk("mkfs.vfat"),
    "exFAT": make_disk("mkfs.exfat"),
    "NTFS": make_disk("mkfs.ntfs", "-q", "-F"),
    "swap": make_disk("mkswap"),
    "swap of a large page": make_disk("mkswap", "-p", "65536"),
    "old swap": place_at(4086, b"SWAP-SPACE"),
    "hibernation": place_at(4086, b"S1SUSPEND\0"),
    "MBR": place_at(510, b"\x55\xaa"),
    "GPT": place_at(512, b"EFI PART\0\0\1\0"),
    "GPT of large sectors": place_at(4096, b"EFI PART\0\0\1\0"),
    "floppy": begins(FLOPPY),
    "FAT12": place_at(54, b"FAT12   "),
    "FAT32": place_at(82, b"FAT32   "),
    "High Sierra": place_at(32777, b"CDROM\1"),
    "UDF": place_at(32769, b"BEA01\1"),
    "UDF 2": place_at(32769, b"NSR02\1"),
    "LVM": place_at(512, b"LABELONE\1\0\0\0"),
    "LVM 1": begins(b"HM\1\0"),
    "LUKS": begins(b"LUKS\xba\xbe\0\2"),
    "BitLocker": begins(b"\xeb\x58\x90-FVE-FS-"),
    "md 1.1": begins(struct.pack("<II", 0xA92B4EFC, 1)),
    "md 1.2": place_at(4096, struct.pack("<II", 0xA92B4EFC, 1)),
    "squashfs": begins(b"hsqs"),
    "squashfs of the other byte order": begins(b"sqsh"),
    "EROFS": place_at(1024, struct.pack("<I", 0xE0F5E1E2)),
    "cramfs": begins(struct.pack("<I", 0x28CD3D45)),
    "cramfs of the other byte order": place_at(512, struct.pack(">I", 0x28CD3D45)),
    "romfs": begins(b"-rom1fs-"),
    "ReFS": begins(b"\0\0\0ReFS\0\0\0\0"),
    "HPFS": place_at(8192, struct.pack("<II", 0xF995E849, 0xFA53E9C5)),
    "HFS": place_at(1024, b"BD" + bytes(18) + struct.pack(">I", 4096)),
    "HFS+": place_at(1024, b"H+\0\4"),
    "HFSX": place_at(1024, b"HX\0\5"),
    "APFS": place_at(32, b"NXSB"),
    "UFS": place_at(9564, struct.pack("<I", 0x00011954)),
    "UFS of the other byte order": place_at(9564, struct.pack(">I", 0x00011954)),
    "UFS 2": place_at(66908, struct.pack("<I", 0x19540119)),
    "UFS 2 of the other byte order": place_at(66908, struct.pack(">I", 0x19540119)),
    "ZFS": place_at(132 * KIB, struct.pack("<Q", 0x00BAB10C)),
    "ZFS of the other byte order": place_at(132 * KIB, struct.pack(">Q", 0x00BAB10C)),
    "bcache": place_at(4120, bytes.fromhex(BCACHE)),
    "bcachefs": place_at(4120, bytes.fromhex(BCACHEFS)),
    "BSD": place_at(512, struct.pack("<I", 0x82564557)),
    "BSD of the other byte order": place_at(64, struct.pack(">I", 0x82564557)),
    "Apple": place_at(512, b"PM\0\0\0\0\0\3"),
    "SGI": begins(struct.pack(">I", 0x0BE5A941)),
    "Sun": sun,
    "AIX": begins(b"\xc9\xc2\xd4\xc1"),
    "Amiga": begins(b"RDSK\0\0\0\x40"),
    "OFS": begins(b"DOS\0"),
    "FFS": begins(b"DOS\1"),
    "VMFS": lambda _directory: b"\1" + bytes(MIB - 1) + struct.pack("<I", 0xC001D00D),
    "JFS": place_at(32768, b"JFS1"),
    "ReiserFS": place_at(65588, b"ReIsEr2Fs"),
    "Reiser4": place_at(65536, b"ReIsEr4"),
    "OCFS2": place_at(8192, b"OCFSV2"),
    "GFS2": place_at(65536, struct.pack(">I", 0x01161970)),
    "VxFS": place_at(1024, struct.pack("<I", 0xA501FCF5)),
    "BFS": begins(struct.pack("<I", 0x1BADFACE)),
    "MINIX": place_at(1024, struct.pack("<6HIH", 32, 100, 1, 1, 5, 0, 268966912, 0x138F)),
    "MINIX 3": place_at(1024, struct.pack("<I4x12xIH", 32, 100, 0x4D5A)),
    "NILFS2": place_at(1024, struct.pack("<IHH", 2, 0, 0x3434)),
    "VDO": begins(b"dmvdo001"),
    "dm-integrity": begins(b"integrt\0\5"),
    "dm-verity": begins(b"verity\0\0\1\0\0\0"),
    "dm-snapshot": begins(struct.pack("<4sI", b"SnAp", 1)),
    "Stratis": place_at(516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    "BlueStore": begins(b"bluestore block device\n"),
    "ASM": place_at(32, b"ORCLDISK"),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_disk_is_stored_without_a_warning(driver: FsDriver, files: Path, tmp_path: Path, sign: str) -> None:
    data = SIGNS[sign](tmp_path)
    path = write_file(files / "x", data)
    os.truncate(path, 512 * MIB)  # as long as the largest file system
    for image_type in ("os", "cdrom"):
        copied = driver.cp(path, CopyOptions(image_type))
        assert (copied.format, copied.warnings, copied.size_mb) == ("raw", (), 512)
        with open(copied.source, "rb") as file:
            assert file.read(len(data)) == data
        driver.rm(copied.source)
    assert driver.preview(path, CopyOptions("os")).warnings == ()


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if sign not in ("floppy", "Sun", "ISO")])
def test_it_is_a_disk_though_its_first_code_looks_like_something(tmp_path: Path, sign: str) -> None:
    """Magic numbers of two or three bytes can also be instructions of a boot sector."""
    data = SIGNS[sign](tmp_path)
    for code in (
        b"\x1f\x9d\x90",
        b"\x60\xea\x20\0",
        b"\xff\xd8\xff\xe0",
        b"\x1f\x1e\0\0\1\0\5",
        b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0",
    ):
        disk = code + data[len(code) :]
        if disk_signs.disk_sign(disk):  # the code may have overwritten the sign itself
            assert magic.sniff(disk) == "raw"


def test_a_hybrid_iso_is_an_iso_whatever_its_boot_code_is(tmp_path: Path) -> None:
    data = iso(tmp_path)
    for code in (b"\x45\x52\x08\0\0\0\x90\x90", b"\x1f\x9d\x90", b"\x33\xed" + bytes(508) + b"\x55\xaa"):
        assert magic.sniff(code + data[len(code) :]) == "iso"


def test_an_archive_of_a_disk_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(SIGNS["ext4"](tmp_path))
    for form in ("v7", "ustar", "pax", "gnu"):
        assert magic.sniff(tool("tar", f"--format={form}", "-c", "disk", directory=tmp_path)) == "tar"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "disk")
    assert magic.sniff((tmp_path / "x.tar").read_bytes()) == "tar"


# Unknown content


@pytest.mark.parametrize(
    "data", [b"hello\n", NOISE, b"x", b"\1" + bytes(MIB), b"{}", b"#!/bin/sh\n", b"<p", b"BZh is no bzip2", b"07070 "]
)
def test_what_nothing_recognises_is_stored_with_a_warning(driver: FsDriver, files: Path, data: bytes) -> None:
    path = write_file(files / "x", data)
    for image_type in ("os", "datablock", "cdrom"):
        copied = driver.cp(path, CopyOptions(image_type))
        assert (copied.format, read_stored(driver)) == ("raw", [data])
        (warning,) = copied.warnings
        assert warning.startswith(f"{path} is stored as a raw disk, though nothing in it is recognised (")
        assert warning.endswith("; format: raw says that it is one.")
        assert driver.preview(path, CopyOptions(image_type)).warnings == (warning,)
        driver.rm(copied.source)
    packed = write_file(files / "x.xz", lzma.compress(data))
    for act in (driver.cp, driver.preview):
        assert act(packed, CopyOptions("os")).warnings == (warning.replace(path, packed),)
    assert driver.cp(path, CopyOptions("os", driver_format="qcow2")).warnings == (warning,)
    assert driver.cp(path, CopyOptions("os", image_format="raw")).warnings == ()
    assert driver.cp(path, CopyOptions("os", no_decompress=True)).warnings == (warning,)


@pytest.mark.parametrize("data", [bytes(1), bytes(MIB), bytes(5 * MIB) + NOISE])
def test_what_begins_with_zeros_can_be_an_empty_disk(driver: FsDriver, files: Path, data: bytes) -> None:
    path = write_file(files / "x", data)
    for copied in (
        driver.cp(path, CopyOptions("os")),
        driver.cp(write_file(files / "x.gz", gzip.compress(data, 1)), CopyOptions("os")),
    ):
        assert copied.warnings == ()
        assert Path(copied.source).read_bytes() == data
    assert driver.preview(path, CopyOptions("os")).warnings == ()


def test_chance_is_no_reason_to_refuse() -> None:
    chance = random.Random(3)
    kinds = [magic.sniff(chance.randbytes(2048)) for _number in range(20000)]
    assert set(kinds) == {"raw"}


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<BIQB", 225, 1 << 23, 5, 0),  # properties out of bounds
        struct.pack("<BIQB", 0x5D, 1 << 11, 5, 0),  # a dictionary that is too small
        struct.pack("<BIQB", 0x5D, (1 << 23) + 1, 5, 0),  # or odd
        struct.pack("<BIQB", 0x5D, 1 << 23, 1 << 38, 0),  # too large
        struct.pack("<BIQB", 0x5D, 1 << 23, 0, 0),  # or nothing
        struct.pack("<BIQB", 0x5D, 1 << 23, 5, 1),  # a first byte that isn't zero
        struct.pack("<BIQB", 4 + 9 * 4, 1 << 23, 5, 0),  # lc + lp is more than 4
    ],
)
def test_what_is_almost_lzma(header: bytes) -> None:
    assert magic.sniff(header + LZMA[1:]) == "raw"
    assert magic.sniff(struct.pack("<BIQ", 0x5D, 1 << 31, len(NOISE)) + LZMA) == "lzma"


@pytest.mark.parametrize("size", [1, 4096, len(NOISE)])
def test_numbers_that_could_be_a_header_of_lzma(size: int) -> None:
    assert magic.sniff(struct.pack("<BIQB", 0, 1 << 16, size, 0) + NOISE) == "raw"


def test_what_is_almost_zlib() -> None:
    for header in (b"\x78\x9d", b"\x78\x9c", b"\x78\xbb", b"\x08\x1d"):
        assert magic.sniff(header + NOISE) == "raw"
    damaged = bytearray(zlib.compress(bytes(1000)))
    damaged[2] = 7  # a type of blocks that doesn't exist
    assert magic.sniff(bytes(damaged)) == "raw"


def test_what_is_almost_an_archive(tmp_path: Path) -> None:
    tar = bytearray(make_tar("v7")(tmp_path))
    tar[0] ^= 1
    assert magic.sniff(bytes(tar)) == "raw"
    broken = bytearray(arj(tmp_path))
    broken[20] ^= 1
    assert magic.sniff(bytes(broken)) == "raw"
    cpio = bytearray(make_cpio("bin")(tmp_path))
    cpio[20] += 1  # the length of the name
    assert magic.sniff(bytes(cpio)) == "raw"


# Compressed


def zstd(data: bytes) -> bytes:
    return tool("zstd", "-c", "-q", stdin=data)


def skippable(kind: int, length: int) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, length) + bytes(length)


@pytest.mark.parametrize(
    "before", [skippable(0, 4), skippable(15, 0), skippable(3, 1000) + skippable(4, 70000), skippable(5, MIB)]
)
def test_zstd_may_begin_with_skippable_frames(driver: FsDriver, files: Path, before: bytes) -> None:
    disk = SIGNS["MBR"](files)
    path = write_file(files / "x", before + zstd(disk))
    copied = driver.cp(path, CopyOptions("os"))
    assert (copied.warnings, read_stored(driver)) == ((), [disk])
    assert driver.preview(path, CopyOptions("os")).size_mb == 1
    driver.rm(copied.source)
    assert "and inside gzip there is zstd again" in expect_refusal(
        driver, write_file(files / "twice", gzip.compress(before + zstd(disk))), CopyOptions("os")
    )


def test_as_parallel_compressors_write_it(driver: FsDriver, files: Path) -> None:
    disk = SIGNS["MBR"](files) * 20
    path = write_file(files / "x", tool("pzstd", "-c", "-q", "-p", "2", stdin=disk))
    assert Path(path).read_bytes()[1:4] == b"\x2a\x4d\x18"
    driver.cp(path, CopyOptions("os"))
    assert read_stored(driver) == [disk]


@pytest.mark.parametrize(
    "data", [b"", gzip.compress(b"", mtime=0), lzma.compress(b""), skippable(0, 10), skippable(1, 70000)]
)
def test_what_is_empty_is_no_image(driver: FsDriver, files: Path, data: bytes) -> None:
    path = write_file(files / "x", data)
    for image_type in ("os", "datablock", "cdrom"):
        assert (
            expect_refusal(driver, path, CopyOptions(image_type))
            == f"path: '{path}' is not accepted: an image is expected, and this is empty."
        )


def test_an_empty_file_can_be_a_context_file_only(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    driver = FsDriver(Datastore(2, "files", "file", "fs", "local", f"{tmp_path}/store", safe_dirs=(str(tmp_path),)))
    path = write_file(tmp_path / "x", b"")
    for image_type in ("kernel", "ramdisk"):
        for image_format in (None, "raw"):
            assert "and this is empty" in expect_refusal(
                driver, path, CopyOptions(image_type, image_format=image_format)
            )
    assert driver.cp(path, CopyOptions("context")).size_mb == driver.preview(path, CopyOptions("context")).size_mb == 0
    for data in (b"<html>", make_zip(tmp_path), gzip.compress(NOISE), b"hello"):
        (tmp_path / "y").write_bytes(data)
        copied = driver.cp(str(tmp_path / "y"), CopyOptions("kernel"))
        assert (copied.warnings, Path(copied.source).read_bytes()) == ((), data)


def test_a_datastore_that_decompresses_nothing_stores_what_is_packed(
    driver: FsDriver, files: Path, tmp_path: Path
) -> None:
    for data in (gzip.compress(NOISE), make_tar("v7")(tmp_path), tool("lz4", "-c", stdin=NOISE)):
        copied = driver.cp(write_file(files / "x", data), CopyOptions("os", no_decompress=True))
        assert (copied.format, copied.warnings, read_stored(driver)) == ("raw", (), [data])
        driver.rm(copied.source)
    for kind in ("HTML", "QED", "EWF E01", "DMG", "PDF"):
        called, make = REFUSED[kind]
        assert f"this is {called}" in expect_refusal(
            driver, write_file(files / "x", make(tmp_path)), CopyOptions("os", no_decompress=True)
        )


# The format given by the user


def test_what_is_said_to_be_raw_is_stored_as_it_is(driver: FsDriver, files: Path, tmp_path: Path) -> None:
    raw = CopyOptions("os", image_format="raw")
    for data in (create_image("qcow2")(tmp_path), gzip.compress(NOISE), b"QFI\xfb" + NOISE, b"koly"):
        path = write_file(files / "x", data)
        copied = driver.cp(path, raw)
        assert (copied.format, copied.warnings, read_stored(driver)) == ("raw", (), [data])
        assert copied.size_mb == driver.preview(path, raw).size_mb == 1
        driver.rm(copied.source)
    assert "and this is empty" in expect_refusal(driver, write_file(files / "x", b""), raw)


def test_what_is_said_to_be_qcow2_has_to_be_that(driver: FsDriver, files: Path, tmp_path: Path) -> None:
    qcow2 = CopyOptions("os", image_format="qcow2")
    data = create_image("qcow2")(tmp_path)
    for content in (data, lzma.compress(data)):
        copied = driver.cp(path := write_file(files / "x", content), qcow2)
        assert (copied.format, copied.size_mb, driver.preview(path, qcow2).size_mb, read_stored(driver)) == (
            "qcow2",
            4,
            4,
            [data],
        )
        driver.rm(copied.source)
    for kind, content in (("raw", NOISE), ("iso", iso(tmp_path)), ("vmdk", create_image("vmdk")(tmp_path))):
        assert (
            expect_refusal(driver, path := write_file(files / "x", content), qcow2)
            == f"format: 'qcow2' is not accepted: {path} is {kind}."
        )
    assert "this is an HTML page" in expect_refusal(driver, write_file(files / "x", b"<html>"), qcow2)


@pytest.mark.parametrize("form", magic.QEMU_FORMATS)
def test_a_cdrom_is_no_image_of_qemu(driver: FsDriver, files: Path, tmp_path: Path, form: str) -> None:
    path = write_file(files / "x", data := create_image(form)(tmp_path))
    remedy = "convert it with qemu-img convert -O raw"
    assert expect_refusal(driver, path, CopyOptions("cdrom")).endswith(
        f"images of type cdrom are stored as they are, and this is a {form} image: {remedy}."
    )
    assert driver.cp(path, CopyOptions("os")).warnings == ()
    driver.cp(path, CopyOptions("cdrom", image_format="raw"))
    assert data in read_stored(driver)


# At a URL


@pytest.fixture
def url(files: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the files, and record the requests."""
    asked: list[str] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, _format: str, *arguments: object) -> None:
            asked.append(str(arguments[0]))

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(files))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_page_instead_of_an_image(driver: FsDriver, files: Path, url: tuple[str, list[str]]) -> None:
    for data in (REFUSED["HTML"][1](files), b"<html>", REFUSED["XML"][1](files)):
        write_file(files / "disk.img", data)
        address = url[0].replace("//", "//user:hunter2@")
        message = expect_refusal(driver, f"{address}/disk.img?token=hunter2", CopyOptions("os"))
        assert message.startswith(
            f"path: '{url[0]}/disk.img?...' is not accepted: an image is expected, and this is an "
        )
        assert "login or error page of the server or of a proxy" in message
        assert "hunter2" not in message


def test_the_preview_of_a_url_is_one_request(
    driver: FsDriver, files: Path, tmp_path: Path, url: tuple[str, list[str]]
) -> None:
    address, asked = url
    disk = SIGNS["MBR"](tmp_path)
    write_file(files / "disk", disk)
    write_file(files / "disk.gz", gzip.compress(disk))
    write_file(files / "noise.zst", zstd(NOISE * 40))
    write_file(files / "disk.qcow2", create_image("qcow2")(tmp_path))
    write_file(files / "tar.xz", lzma.compress(make_tar("v7")(tmp_path)))
    write_file(files / "twice", gzip.compress(lzma.compress(disk)))
    write_file(files / "empty", b"")
    previews = {
        name: driver.preview(f"{address}/{name}", CopyOptions("os"))
        for name in ("disk", "disk.gz", "noise.zst", "disk.qcow2")
    }
    assert {name: (one.size_mb, len(one.warnings)) for name, one in previews.items()} == {
        **{"disk": (1, 0), "disk.gz": (0, 0), "noise.zst": (0, 1), "disk.qcow2": (4, 0)}
    }
    assert len(asked) == 4
    assert "a tar archive" in expect_refusal(driver, f"{address}/tar.xz", CopyOptions("os"))
    assert "inside gzip there is xz again" in expect_refusal(driver, f"{address}/twice", CopyOptions("os"))
    assert "this is empty" in expect_refusal(driver, f"{address}/empty", CopyOptions("os"))
    os.truncate(files / "disk.gz", 20)  # too few bytes to recognise a format
    assert driver.preview(f"{address}/disk.gz", CopyOptions("os")).size_mb == 0
