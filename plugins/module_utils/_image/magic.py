# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one table of magic numbers: files are recognised by their first and last bytes.

A file is a disk image, a compressed disk image, or something that no guest can use as a disk, such as an archive or a
web page. Files of the last kind are refused, and the message names the kind. As a raw disk they would be garbage, which
a user notices only when a guest fails to boot.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .._core.words import MODULE, Words
from .disk_signs import disk_sign

#: Bytes of a file's beginning that are enough for :func:`sniff`.
ENOUGH = 68 << 10
#: Bytes of a file's end that are enough for :func:`sniff`.
TAIL = 512

#: Formats whose header has a size, by qemu's names, and compressions that are decoded.
QEMU_FORMATS = ("qcow2", "vmdk", "vdi", "vhdx", "vpc")
COMPRESSIONS = ("gzip", "bzip2", "xz", "zstd")

_ARCHIVE, _COMPRESSED, _DISK, _BACKUP, _DOCUMENT = "archive", "compressed", "disk", "backup", "document"

#: Group, name, offset (negative: from the end), and magic number. Each number has enough bytes to rule out chance.
_MAGICS: tuple[tuple[str, str, int, bytes], ...] = (
    # Apple's and Nero's disk images have their magic number at the end (block/dmg.c of qemu; libmirage's image-nrg).
    (_DISK, "DMG", -512, b"koly\0\0\0\4\0\0\2\0"),
    (_BACKUP, "NRG", -12, b"NER5\0\0\0\0"),
    # qemu's formats, by its manual and source (docs/interop, block/*.c), VMware's Virtual Disk Format 5.0, [MS-VHDX]
    # and Microsoft's VHD specification.
    (_DISK, "qcow", 0, b"QFI\xfb\0\0\0\1"),
    ("", "qcow2", 0, b"QFI\xfb"),
    ("", "vmdk", 0, b"KDMV"),
    ("", "vmdk", 0, b"COWD"),
    ("", "vmdk", 0, b"# Disk DescriptorFile"),
    ("", "vhdx", 0, b"vhdxfile"),
    ("", "vpc", 0, b"conectix"),
    ("", "vdi", 64, b"\x7f\x10\xda\xbe"),
    (_DISK, "QED", 0, b"QED\0"),
    (_DISK, "Parallels", 0, b"WithoutFreeSpace"),
    (_DISK, "Parallels", 0, b"WithouFreSpacExt"),
    (_DISK, "Bochs", 0, b"Bochs Virtual HD Image"),
    (_DISK, "cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    # RFC 1952, RFC 8878 and the xz file format 2.1.1.1; bzip2 is below.
    ("", "gzip", 0, b"\x1f\x8b\x08"),
    ("", "xz", 0, b"\xfd7zXZ\0"),
    ("", "zstd", 0, b"\x28\xb5\x2f\xfd"),
    # Each format's own document: LZ4 frame format, zstd/lib/legacy, lzip's manual, lzop and lrzip's sources,
    # libmspack's notes on SZDD and KWAJ, Snappy's framing format, LZFSE's source.
    (_COMPRESSED, "lz4", 0, b"\x04\x22\x4d\x18"),
    (_COMPRESSED, "lz4", 0, b"\x02\x21\x4c\x18"),
    *(
        (_COMPRESSED, "an old version of zstd", 0, bytes([version]) + b"\xb5\x2f\xfd")
        for version in (0x1E, *range(0x22, 0x28))
    ),
    (_COMPRESSED, "lzip", 0, b"LZIP\0"),
    (_COMPRESSED, "lzip", 0, b"LZIP\1"),
    (_COMPRESSED, "lzop", 0, b"\x89LZO\0\r\n\x1a\n"),
    (_COMPRESSED, "lrzip", 0, b"LRZI\0"),
    (_COMPRESSED, "rzip", 0, b"RZIP\2"),
    (_COMPRESSED, "Microsoft's compress", 0, b"SZDD\x88\xf0\x27\x33"),
    (_COMPRESSED, "Microsoft's compress", 0, b"KWAJ\x88\xf0\x27\xd1"),
    (_COMPRESSED, "snappy", 0, b"\xff\x06\0\0sNaPpY"),
    *((_COMPRESSED, "lzfse", 0, magic) for magic in (b"bvx-", b"bvx1", b"bvx2", b"bvxn")),
    # APPNOTE 4.3 (also an empty one, and one in parts), 7zFormat.txt, RAR technote, cpio(5) and POSIX pax (also "odc"),
    # ar(5), RPM file format, [MS-CAB], xar's wiki, Microsoft's WIM white paper, libzpaq, "The structure of zoo
    # archives", technotes of ACE and StuffIt, xfsdump's source, Parity Volume Set Specification 2.0, qpress' source.
    (_ARCHIVE, "zip", 0, b"PK\x03\x04"),
    (_ARCHIVE, "zip", 0, b"PK\x05\x06"),
    (_ARCHIVE, "zip", 0, b"PK\x07\x08PK"),
    (_ARCHIVE, "zip", 0, b"PK00PK\x03\x04"),
    (_ARCHIVE, "7z", 0, b"7z\xbc\xaf\x27\x1c"),
    (_ARCHIVE, "rar", 0, b"Rar!\x1a\x07"),
    (_ARCHIVE, "rar", 0, b"RE~^"),
    (_ARCHIVE, "cpio", 0, b"070701"),
    (_ARCHIVE, "cpio", 0, b"070702"),
    (_ARCHIVE, "cpio", 0, b"070707"),
    (_ARCHIVE, "ar", 0, b"!<arch>\n"),
    (_ARCHIVE, "ar", 0, b"!<thin>\n"),
    (_ARCHIVE, "RPM", 0, b"\xed\xab\xee\xdb"),
    (_ARCHIVE, "cab", 0, b"MSCF\0\0\0\0"),
    (_ARCHIVE, "xar", 0, b"xar!\0"),
    (_ARCHIVE, "WIM", 0, b"MSWIM\0\0\0"),
    (_ARCHIVE, "WIM", 0, b"WLPWM\0\0\0"),
    (_ARCHIVE, "zoo", 20, b"\xdc\xa7\xc4\xfd"),
    (_ARCHIVE, "xfsdump", 0, b"xFSdump0"),
    (_ARCHIVE, "zpaq", 0, b"7kSt\xa0\x31\x83\xd3"),
    (_ARCHIVE, "ACE", 7, b"**ACE**"),
    (_ARCHIVE, "StuffIt", 0, b"StuffIt (c)1997-"),
    (_ARCHIVE, "StuffIt", 10, b"rLau"),
    (_ARCHIVE, "PAR2", 0, b"PAR2\0PKT"),
    (_ARCHIVE, "qpress", 0, b"qpress10"),
    # Containers that qemu-img doesn't read: libewf's EWF documents, afflib, pyad1, libmirage's image-mds, Proxmox's
    # vma_spec.txt, sparse_format.h of Android, sources of partclone, ntfsclone, partimage and fsarchiver, Ceph's
    # rbd-export.rst and rbd-diff.rst, btrfs(5) send stream, dmu_replay_record of ZFS, VMware's SE sparse, COW of User
    # Mode Linux, MAME's chd.h, raw sectors of a CD (ECMA-130, clause 14), Apple's sparse and encrypted images.
    (_BACKUP, "EWF", 0, b"EVF\x09\r\n\xff\0"),
    (_BACKUP, "EWF", 0, b"EVF2\r\n\x81\0"),
    (_BACKUP, "EWF", 0, b"LVF\x09\r\n\xff\0"),
    (_BACKUP, "EWF", 0, b"LEF2\r\n\x81\0"),
    (_BACKUP, "AFF", 0, b"AFF10\r\n\0"),
    (_BACKUP, "AD1", 0, b"ADSEGMENTEDFILE\0"),
    (_BACKUP, "Media Descriptor (mds)", 0, b"MEDIA DESCRIPTOR\1"),
    (_BACKUP, "VMA", 0, b"VMA\0\0\0\0\1"),
    (_BACKUP, "Android sparse", 0, b"\x3a\xff\x26\xed\1\0"),
    (_BACKUP, "partclone", 0, b"partclone-image"),
    (_BACKUP, "ntfsclone", 0, b"\0ntfsclone-image"),
    (_BACKUP, "partimage", 0, b"PaRtImAgE-VoLuMe"),
    (_BACKUP, "fsarchiver", 0, b"FsA0"),
    (_BACKUP, "Ceph export", 0, b"rbd image "),
    (_BACKUP, "Ceph export", 0, b"rbd diff v"),
    (_BACKUP, "btrfs send stream", 0, b"btrfs-stream\0"),
    (_BACKUP, "ZFS send stream", 8, b"\xac\xcb\xba\xf5\2\0\0\0"),
    (_BACKUP, "ZFS send stream", 8, b"\0\0\0\2\xf5\xba\xcb\xac"),
    (_BACKUP, "SE sparse VMDK", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    (_BACKUP, "UML COW", 0, b"OOOM\0\0\0"),
    (_BACKUP, "CHD", 0, b"MComprHD"),
    (_BACKUP, "CD in raw sectors (bin)", 0, b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0"),
    (_BACKUP, "Apple sparse", 0, b"sprs\0\0\0\3"),
    (_BACKUP, "encrypted DMG", 0, b"encrcdsa"),
    # ISO 32000, RTF 1.9.1, the PostScript language reference, RFC 2083, GIF89a, TIFF 6.0, RIFF, [MS-CFB], RFC 7468, RFC
    # 3533, SQLite's fileformat2, RFC 9639, RFC 8794, ISO/IEC 14496-12, Ansible's guide to Vault, VirtualBox' SSM.cpp,
    # openssl-enc, Git LFS' specification, BEP 3, jigdo-file, age's specification, savevm.c of QEMU, qemu_saveimage.h of
    # libvirt.
    (_DOCUMENT, "PDF file", 0, b"%PDF-"),
    (_DOCUMENT, "RTF file", 0, b"{\\rtf"),
    (_DOCUMENT, "PostScript file", 0, b"%!PS"),
    (_DOCUMENT, "PNG file", 0, b"\x89PNG\r\n\x1a\n"),
    (_DOCUMENT, "GIF file", 0, b"GIF87a"),
    (_DOCUMENT, "GIF file", 0, b"GIF89a"),
    (_DOCUMENT, "TIFF file", 0, b"II*\0\x08\0\0\0"),
    (_DOCUMENT, "TIFF file", 0, b"MM\0*\0\0\0\x08"),
    (_DOCUMENT, "WebP file", 8, b"WEBPVP8"),
    (_DOCUMENT, "Microsoft Office file", 0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    (_DOCUMENT, "key, certificate or signature", 0, b"-----BEGIN "),
    (_DOCUMENT, "Ogg file", 0, b"OggS\0"),
    (_DOCUMENT, "WAVE file", 8, b"WAVEfmt "),
    (_DOCUMENT, "AVI file", 8, b"AVI LIST"),
    (_DOCUMENT, "sound file (FLAC)", 0, b"fLaC\0\0\0\x22"),
    (_DOCUMENT, "Matroska file", 0, b"\x1a\x45\xdf\xa3"),
    *(
        (_DOCUMENT, "MP4 file", 4, b"ftyp" + brand)
        for brand in (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"dash", b"M4V ", b"qt  ")
    ),
    (_DOCUMENT, "SQLite database", 0, b"SQLite format 3\0"),
    (_DOCUMENT, "file that openssl encrypted", 0, b"Salted__"),
    (_DOCUMENT, "file that ansible-vault encrypted", 0, b"$ANSIBLE_VAULT;"),
    (_DOCUMENT, "pointer of Git LFS, without the file", 0, b"version https://git-lfs.github.com/spec/"),
    (_DOCUMENT, "torrent", 0, b"d8:announce"),
    (_DOCUMENT, "template of jigdo, without the data", 0, b"JigsawDownload template"),
    (_DOCUMENT, "file that age encrypted", 0, b"age-encryption.org/v"),
    (_DOCUMENT, "saved state of a virtual machine", 0, b"\x7fVirtualBox SavedState V"),
    (_DOCUMENT, "saved state of a virtual machine", 0, b"QEVM\0\0\0\3"),
    (_DOCUMENT, "saved state of a virtual machine", 0, b"LibvirtQemud"),
)

_BLANKS = b"\t\n\f\r "
#: Beginnings of HTML (WHATWG MIME Sniffing, 7.1), and of pages of proxies. The shortest tags can occur by chance, so
#: text must follow them.
_HTML = (
    rb"(?i)<(!doctype\s+html[\s>]|(html|head|body|script|iframe|title|style|table|meta|font|div|center|form|frameset|noscript|link)[\s>]|"
    rb"(a|b|br|h[1-6]|p|pre|ul)[\s>]([\t\n\f\r\x1b -\xff]{61}|[\t\n\f\r\x1b -\xff]*\Z))"
)


def _markup(head: bytes) -> str | None:
    """Return the name of HTML or XML, also in UTF-16. A byte order mark, blanks and comments may come first."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head[2:ENOUGH].replace(b"\0", b"")
    text = head[3 if head.startswith(b"\xef\xbb\xbf") else 0 : ENOUGH].lstrip(_BLANKS)
    has_comment = text.startswith(b"<!--")
    while text.startswith(b"<!--"):
        text = text.partition(b"-->")[2].lstrip(_BLANKS)
    if not text.startswith(b"<"):
        return "XML document" if has_comment else None
    import re  # few images begin like that

    if re.match(_HTML, text):
        return "HTML page"
    return "XML document" if has_comment or re.match(rb"<\?xml\s|<[A-Za-z_][\w.:-]*\s+xmlns[:=]", text) else None


def _is_bzip2(head: bytes) -> bool:
    """Return whether ``head`` is bzip2, by the magic number of the first block or of the end (bzip2's compress.c)."""
    return head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")


def _is_tar(head: bytes) -> bool:
    """Return whether ``head`` is a tar header, by its checksum (POSIX pax, ustar interchange format). The oldest tar
    has no magic number, and some old versions add signed bytes.
    """
    field = head[148:156].rstrip(b"\0 ")
    digits = field.lstrip(b" 0") or b"0"
    if not field or digits.translate(None, b"01234567") or len(head) < 512 or head[0] == 0:
        return False
    block = head[:148] + b" " * 8 + head[156:512]
    return int(digits, 8) in (sum(block), sum(struct.unpack("512b", block)))


def _is_old_cpio(head: bytes) -> bool:
    """Return whether ``head`` is a header of the first cpio, in either byte order (cpio(5), "Old Binary Format"): a
    type, the length of a name, and the zero byte at the end of the name.
    """
    for order in "<>":
        if len(head) >= 28:
            magic, _dev, _inode, mode, _uid, _gid, links, _rdev, _mtime, _mtime, length = struct.unpack_from(
                f"{order}11H", head
            )
            name = head[26 : 26 + length]
            if (
                magic == 0o70707
                and mode >> 12 in (1, 2, 4, 6, 8, 10, 12)
                and links
                and length > 1
                and name.find(b"\0") == length - 1
            ):
                return True
    return False


def _is_arj(head: bytes) -> bool:
    """Return whether ``head`` is ARJ's main header, by its CRC (technote.txt of ARJ)."""
    if not head.startswith(b"\x60\xea") or len(head) < 8:
        return False
    size = struct.unpack_from("<H", head, 2)[0]
    if not 30 <= size <= 2600 or len(head) < size + 8:
        return False
    import zlib

    return head[4 + size : 8 + size] == struct.pack("<I", zlib.crc32(head[4 : 4 + size]))


#: Structures with a short magic number or none, recognised by their fields.
_STRUCTURES: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    (_ARCHIVE, "tar", _is_tar),
    (_ARCHIVE, "cpio", _is_old_cpio),
    (_ARCHIVE, "ARJ", _is_arj),
    ("", "bzip2", _is_bzip2),
    (_DOCUMENT, "HTML page", lambda head: _markup(head) == "HTML page"),
    (_DOCUMENT, "XML document", lambda head: _markup(head) == "XML document"),
)


def _is_lzma(head: bytes) -> bool:
    """Return whether ``head`` is a header of the .lzma format (LZMA SDK, lzma-specification) by the strict rules of
    xz(1), and valid data follows.

    The header has no magic number: five bits of properties within bounds, a dictionary of 2^n or 2^n + 2^(n-1) bytes, a
    size of up to 256 GiB or none, and a first byte that is always zero.
    """
    if len(head) < 18:
        return False
    properties, dictionary, size, first = struct.unpack_from("<BIQB", head)
    rest, literal = divmod(properties, 9)
    powers = {1 << bits for bits in range(12, 32)} | {3 << bits for bits in range(11, 31)} | {0xFFFFFFFF}
    is_header = (
        properties < 225
        and literal + rest % 5 <= 4
        and dictionary in powers
        and first == 0
        and (0 < size < 1 << 38 or size == (1 << 64) - 1)
    )
    return is_header and _is_lzma_data(head)


def _is_lzma_data(head: bytes) -> bool:
    """Return whether the beginning can be decompressed. Only so much is read that a small dictionary is enough,
    regardless of the size in the header.
    """
    import lzma

    decoder = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    try:
        decoder.decompress(head[:1] + struct.pack("<I", 1 << 17) + head[5:ENOUGH], ENOUGH)
    except lzma.LZMAError:
        return False
    return not decoder.unused_data.strip(b"\0")


def _is_zlib(head: bytes) -> bool:
    """Return whether ``head`` is a stream of zlib (RFC 1950). The header has only two bytes, so the rest is
    decompressed.
    """
    if len(head) < 6 or head[0] != 0x78 or (head[0] << 8 | head[1]) % 31:
        return False
    import zlib

    try:
        zlib.decompressobj().decompress(head[:ENOUGH], ENOUGH)
    except zlib.error:
        return False
    return True


#: Methods of LHA, and sizes of the second header of BMP.
_LHA = frozenset(
    b"-" + method + b"-"
    for method in b"lh0 lh1 lh2 lh3 lh4 lh5 lh6 lh7 lh8 lh9 lhd lhs lhx lz4 lz5 lzs pm0 pm1 pm2".split()
)
_BMP = frozenset(bytes([size]) for size in (12, 40, 52, 56, 64, 108, 124))

#: Kinds recognised by only a few bytes. The code of a boot sector can have the same bytes, so any sign of a disk has
#: priority.
_WEAK: tuple[tuple[str, str, Callable[[bytes], object]], ...] = (
    (_ARCHIVE, "tar", lambda head: head.startswith(b"ustar", 257)),  # with a wrong checksum
    # protocols/dumprestore.h: a magic number of 32 bits in either byte order.
    (_ARCHIVE, "dump", lambda head: head[24:28] in (b"\x6c\xea\0\0", b"\0\0\xea\x6c")),
    # header.doc of LHA: method, and the level of the header; compress(1): bits of a code; pack(1): length, and levels
    # of the tree; JPEG, BMP.
    (_ARCHIVE, "LHA", lambda head: head[2:7] in _LHA and len(head) > 20 and head[20] <= 3),
    (
        _COMPRESSED,
        "compress",
        lambda head: head.startswith(b"\x1f\x9d") and len(head) > 2 and 9 <= head[2] & 0x7F <= 16,
    ),
    (_COMPRESSED, "pack", lambda head: head.startswith(b"\x1f\x1e") and len(head) > 6 and 1 <= head[6] <= 24),
    (_COMPRESSED, "lzma", _is_lzma),
    (_COMPRESSED, "zlib", _is_zlib),
    (
        _DOCUMENT,
        "JPEG file",
        lambda head: head.startswith(b"\xff\xd8\xff") and len(head) > 3 and 0xC0 <= head[3] <= 0xFE,
    ),
    (
        _DOCUMENT,
        "BMP file",
        lambda head: (
            head.startswith(b"BM") and head[6:10] == bytes(4) and head[14:15] in _BMP and head[15:18] == bytes(3)
        ),
    ),
)

#: The group of each name.
_GROUPS = {row[1]: row[0] for table in (_MAGICS, _STRUCTURES, _WEAK) for row in table}

#: The description of each group in a refusal, and the remedy.
_REFUSALS = {
    _ARCHIVE: ("this is {name} archive", "unpack it and give the path of the image"),
    _COMPRESSED: ("this is compressed with {name}", "decompress it first"),
    _DISK: ("this is {name} image", "convert it with qemu-img convert"),
    _BACKUP: ("this is {name} image", "restore it to a raw disk with the program that it belongs to"),
    _DOCUMENT: ("this is {name}", "give the path of the image itself"),
}


def sniff(head: bytes, tail: bytes = b"") -> str:
    """Return the kind of the data that begins with ``head``: a format of qemu, ``iso``, a compression, the name of a
    refused kind, or else ``raw``.

    Long magic numbers have priority, then any sign of a disk, and last the short ones. A fixed VHD has its magic number
    only at its end, and is ``raw`` here and in qemu.

    :arg head: :data:`ENOUGH` bytes, or all bytes of a shorter file.
    :arg tail: the last :data:`TAIL` bytes, if known.
    """
    if _is_skippable_frame(head):
        return _behind_skippable_frames(head)
    for _group, name, offset, magic in _MAGICS:
        if head.startswith(magic, offset) if offset >= 0 else tail[offset:].startswith(magic):
            return name
    for _group, name, matches in _STRUCTURES:
        if matches(head):
            return name
    sign = disk_sign(head)
    if sign:
        return "iso" if sign == "ISO 9660" else "raw"
    return next((name for _group, name, matches in _WEAK if matches(head)), "raw")


def _is_skippable_frame(data: bytes) -> bool:
    return data[1:4] == b"\x2a\x4d\x18" and data[0] >> 4 == 5


def _behind_skippable_frames(head: bytes) -> str:
    """Return ``zstd`` or ``lz4``, by the first frame behind skippable frames (RFC 8878, 3.1.2), which both formats
    share.

    If that frame is too far away, return ``zstd`` and let zstd(1) decide.
    """
    head, position = head[:ENOUGH], 0
    while _is_skippable_frame(frame := head[position : position + 8]) and len(frame) == 8:
        position += 8 + struct.unpack_from("<I", head, position + 4)[0]
    return "lz4" if head.startswith(b"\x04\x22\x4d\x18", position) else "zstd"


def is_packed(kind: str) -> bool:
    """Return whether a kind of :func:`sniff` is a compressed file or an archive.

    A datastore that doesn't decompress stores these files unchanged.
    """
    return kind in COMPRESSIONS or _GROUPS.get(kind) in (_ARCHIVE, _COMPRESSED)


def refusal(kind: str, *, is_remote: bool = False, words: Words = MODULE) -> str | None:
    """Return the reason why a kind of :func:`sniff` is no image, and the remedy, as the rest of a sentence. Return
    ``None`` for an accepted kind.

    :arg is_remote: whether the file comes from a server.
    :arg words: names of the user's options for errors.
    """
    group = _GROUPS.get(kind)
    if not group:
        return None
    what, remedy = _REFUSALS[group]
    named = kind if group == _COMPRESSED else f"{_article(kind)} {kind}"
    if is_remote and kind in ("HTML page", "XML document"):
        remedy = "it is probably the login or error page of the server or of a proxy"
    return f"an image is expected, and {what.format(name=named)}: {remedy}; {words.raw} stores it as it is"


def _article(name: str) -> str:
    import re

    return "an" if re.match("[AEIOaeio]|[FHLMNRSX][A-Z]", name) else "a"


__all__ = ["COMPRESSIONS", "ENOUGH", "QEMU_FORMATS", "TAIL", "is_packed", "refusal", "sniff"]
