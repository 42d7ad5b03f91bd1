# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Actions of the ``fs`` driver on a host of the datastore's BRIDGE_LIST, which holds the data where the front-end
doesn't.

Each action is one ssh connection to one host. It needs python3 there and nothing else of ours: the engine goes along,
from memory to memory. After the engine comes the request, a line of JSON, and after that, where an image is made of a
file of the front-end, that file. Lines of JSON come back: log lines and an answer. The front-end confirms the answer
that an image was made, as one it didn't learn of is removed; and it closes its side only when it is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ..._core import errors, records
from ..._core.block_device import length_of
from ..._core.command import Conversation, reason
from ..._core.digits import is_hexadecimal
from ..._core.errors import (
    CommandFailed,
    InvalidInput,
    NotFound,
    StaleState,
    TransferFailed,
    UnsupportedAction,
    VmstoreError,
    printable,
)
from ..._image import inventory
from ..._image.image_file import HEAD_SIZE
from ..._image.magic import COMPRESSIONS, sniff
from ..._model.names import check_host
from ..._remote.engine import ENGINE, pack_engine
from ..._remote.ssh import CONNECT_TIMEOUT, ssh_command
from . import base
from .base import CopiedImage, CopyOptions, DatastoreDriver, ImageUse
from .fs import LOCKED, Digests, FsDriver, in_mebibytes, is_url, shown, with_warnings
from .source_file import CHUNK, opened

if TYPE_CHECKING:
    from ..._model.datastore import Datastore

#: Seconds for a host to start python3, and for an answer to a question that has a deadline of its own to arrive.
GRACE = CONNECT_TIMEOUT + 5

#: Bytes of an answer; an image of a datastore takes some hundred.
LONGEST_ANSWER = 64 << 20

#: Bytes that a login shell may write before python3 does.
LONGEST_GREETING = 64 << 10

#: Seconds in which a bridge must take a byte of what it is sent. Its disk may be slow.
STALL = 3600.0

#: Upper bound of the time of an action that has no deadline of its own, in seconds, once everything was sent: a week,
#: because a URL may be slow.
LONGEST_ACTION = 7 * 86400.0

#: Upper bound of the log lines of an action: so many, and some for each second; and of the bytes of one.
LOG_LINES = 1000
LOG_RATE = 10
LONGEST_LOG_LINE = 64 << 10

#: Seconds until a signal is sent again.
SIGNAL_INTERVAL = 0.5

READY = "granary.vmstore is here"


#: The login shell may be any, so this is one line without an exclamation mark. zipimport wants a path, and a file in
#: memory has one. Where standard error is closed, that file would get its number, and with it the messages.
BOOTSTRAP = ";".join(
    (
        "import os,sys",
        'os.path.exists("/proc/self/fd/2")or os.open(os.devnull,os.O_WRONLY)',
        'sys.version_info<(3,9)and sys.exit("Python 3.9 or newer is expected, and python3 is '
        '%d.%d"%sys.version_info[:2])',
        f'print("{READY}",flush=True)',
        "i=sys.stdin.buffer",
        f'm=os.memfd_create("{ENGINE}")',
        "os.write(m,i.read(int(i.readline())))",
        'sys.path.insert(0,"/proc/self/fd/%d"%m)',
        f"from {ENGINE}._driver.datastore.bridge import serve",
        "serve(i)",
    )
)
COMMAND = f"exec python3 -ISXutf8 -c {shlex.quote(BOOTSTRAP)}"

#: Exit codes of a shell: the command can't be run, or isn't there.
NO_COMMAND = (126, 127)

#: They read no data, and so are answered within the driver's deadline.
QUICK = ("monitor", "prepare", "snap_size", "snapshots", "stored", "uses")

#: Their answer is confirmed.
MAKING = ("clone", "cp", "mkfs")
CONFIRMED = b"\n"

#: What actions answer, as an annotation says it; the others answer nothing.
ANSWERS = {
    **{
        "clone": "CopiedImage",
        "cp": "CopiedImage",
        "export": "ExportedImage",
        "inventory": "Inventory",
        "mkfs": "str",
        "monitor": "Capacity",
    },
    **{
        "snap_same": "bool",
        "snap_size": "int",
        "snapshots": "tuple[int, ...]",
        "preview": "CopiedImage",
        "stat": "int",
        "stored": "tuple[str, ...]",
    },
    **{"damage": "str | None", "preview_clone": "CopiedImage", "uses": "tuple[ImageUse, ...]"},
}

#: A file is sent in frames: what it is and how many bytes, then the bytes, unless it is a hole. The last is the digest
#: of all before it.
FRAME = struct.Struct(">cQ")
DATA, HOLE, END = b"D", b"H", b"E"
DIGEST = "sha256"

#: In the place of the size of a file: nobody knows it before all of it was read.
UNKNOWN = -1


def _bridged(action: str) -> Callable[..., Any]:
    def ask(self: BridgedFsDriver, *arguments: object, **named: object) -> Any:
        return self.ask(action, arguments, named)

    return ask


class BridgedFsDriver(DatastoreDriver):
    """What :class:`FsDriver` is for a datastore with a BRIDGE_LIST.

    A local path is one of the front-end, and so is checked and opened there. A URL is fetched by the bridge, but for
    one that needs the front-end's downloader.

    :raises CommandFailed: none of the hosts answers; the message has each with its reason.
    :raises TransferFailed: the connection broke. The bridge removes what isn't finished, and no other host is asked.
    :raises VmstoreError: what the driver raised on the bridge.
    """

    info = FsDriver.info

    def __init__(self, datastore: Datastore, **options: Any) -> None:
        super().__init__(datastore, **options)
        self._users: dict[bool, Mapping[str, Sequence[str]]] = {}

    prepare = _bridged("prepare")
    mkfs = _bridged("mkfs")
    resize = _bridged("resize")
    rm = _bridged("rm")
    clone = _bridged("clone")
    monitor = _bridged("monitor")
    snap_delete = _bridged("snap_delete")
    snap_flatten = _bridged("snap_flatten")
    snap_revert = _bridged("snap_revert")
    snapshots = _bridged("snapshots")
    snap_size = _bridged("snap_size")
    snap_same = _bridged("snap_same")
    export = _bridged("export")
    inventory = _bridged("inventory")
    sweep = _bridged("sweep")
    damage = _bridged("damage")
    preview_clone = _bridged("preview_clone")
    preview_mkfs = _bridged("preview_mkfs")
    preview_resize = _bridged("preview_resize")
    preview_snapshot = _bridged("preview_snapshot")

    def stored(self) -> frozenset[str]:
        return frozenset(self.ask("stored", (), {}))

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """Return the users on all hosts, because each host has programs and domains of its own. A host that can't be
        asked is only logged.

        :raises VmstoreError: no host can be asked.
        """
        if running not in self._users:
            self._users[running] = self._all_users(running)
        return self._users[running].get(source, ())

    def _all_users(self, running: bool) -> Mapping[str, Sequence[str]]:
        """Return the users of all images by source. Every host is asked once, however many images there are."""
        named: dict[str, list[str]] = {}
        locked: dict[str, list[str]] = {}
        failed: list[VmstoreError] = []
        for host in self.datastore.bridge_list:
            try:
                uses = self.ask("uses", (running,), {}, hosts=[check_host("bridge_list", host)])
            except VmstoreError as error:
                failed.append(error)
                self.log(f"who uses images on the bridge {host} is not known: {error}")
                continue
            for use in uses:
                if use.user == LOCKED:
                    locked[use.source] = [LOCKED]
                else:
                    named.setdefault(use.source, []).append(f"{printable(use.user)} on the host {host!r}")
        if len(failed) == len(self.datastore.bridge_list):
            raise failed[0]
        return {**locked, **named}  # other hosts see no more than the locks of a program

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        if self._needs_downloader(path):
            with self._downloaded(path, options.bandwidth) as sent:
                return self.ask("cp", (path, options), {}, sent=sent, size=UNKNOWN)
        if is_url(path):
            return self._shown(self.ask("cp", (path, options), {}))
        from ..._image.still import StillFiles

        with opened(path, self.check) as descriptor:
            still = StillFiles({descriptor: path}, verify=options.verify, words=self.words)
            copied = self.ask(
                "cp",
                (path, options),
                {},
                descriptor,
                frames(descriptor, bandwidth=options.bandwidth, check=still.check),
            )
            return with_warnings(self._shown(copied), still.warnings)

    def content(self, source: str, image_format: str, snapshot: int | None = None) -> NoReturn:
        raise UnsupportedAction(
            f"The data of {source} can't be read here: it is on the hosts of the datastore's BRIDGE_LIST."
        )

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        named = {"no_decompress": no_decompress, "any_content": any_content}
        if self._needs_downloader(path):
            from ..._image.downloader import read_to_end

            with self._downloaded(path) as sent:
                size = self.ask("stat", (path,), named, sent=sent, size=UNKNOWN)
                read_to_end(sent, size << 20)
                return size
        if is_url(path):
            return self.ask("stat", (path,), named)
        if os.path.isdir(path):
            from ..._host.directory import Measuring, look

            return look(path, check=self.check, measuring=Measuring(self.timeout, self.log)).size_mb or 0
        with opened(path, self.check) as descriptor:
            return self.ask("stat", (path,), named, descriptor, frames(descriptor))

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        if is_url(path):
            return self._shown(self.ask("preview", (path, options), {}))
        from ..._image.still import StillFiles

        with opened(path, self.check) as descriptor:
            still = StillFiles({descriptor: path}, verify=options.verify, words=self.words)
            found = self.ask("preview", (path, options), {}, descriptor, frames(descriptor))
            return with_warnings(self._shown(found), still.warnings)

    def _needs_downloader(self, path: str) -> bool:
        if not is_url(path):
            return False
        from ..._image.source import Source

        return Source(path, self.settings.downloader).is_for_downloader

    @contextlib.contextmanager
    def _downloaded(self, path: str, bandwidth: int | None = None) -> Iterator[Iterator[bytes]]:
        """Yield what the front-end's downloader reads, in frames."""
        from ..._image.source import open_source

        with open_source(path, bandwidth=bandwidth, downloader=self.settings.downloader, log=self.log) as chunks:
            yield sealed(FRAME.pack(DATA, len(chunk)) + chunk for chunk in chunks)

    def ask(
        self,
        action: str,
        arguments: tuple[object, ...],
        named: Mapping[str, object],
        file: int | None = None,
        sent: Iterable[bytes] = (),
        size: int | None = None,
        hosts: Sequence[str] | None = None,
    ) -> Any:
        """What a bridge's driver answers to ``action``.

        :arg file: a descriptor of what is sent along, and ``sent`` its :func:`frames`.
        :arg size: bytes of what is sent along without a descriptor.
        :arg hosts: the bridges that may answer; without them, any.
        """
        size = size if file is None else length_of(file)
        refusals = []
        for host in self._hosts() if hosts is None else hosts:
            with Conversation(ssh_command(host, COMMAND)) as ssh:
                refusal = greeted(ssh)
                if refusal is None:
                    return self._answered(host, action, ssh, self._sent(action, arguments, named, size, sent))
            refusals.append(f"{host}: {refusal}")
            self.log(f"the bridge {refusals[-1]}")
        raise CommandFailed(
            f"{action} needs a host of the datastore's BRIDGE_LIST, and none can be used: {'; '.join(refusals)}."
        )

    @staticmethod
    def _shown(copied: CopiedImage) -> CopiedImage:
        """The same image with warnings that can be printed, because another host wrote them."""
        return records.replace(copied, warnings=tuple(map(printable, copied.warnings)))

    def _hosts(self) -> list[str]:
        """All, beginning with any, so that each gets its share."""
        hosts = [check_host("bridge_list", host) for host in self.datastore.bridge_list]
        first = int.from_bytes(os.urandom(4), "big") % len(hosts)
        return hosts[first:] + hosts[:first]

    def _sent(
        self,
        action: str,
        arguments: tuple[object, ...],
        named: Mapping[str, object],
        size: int | None,
        sent: Iterable[bytes],
    ) -> Iterator[bytes]:
        code = pack_engine(__name__)
        yield b"%d\n%b" % (len(code), code)
        request = {
            "action": action,
            "arguments": arguments,
            "named": named,
            "datastore": records.replace(self.datastore, bridge_list=()),
            "settings": records.replace(self.settings, downloader=None),
            "timeout": self.timeout,
            "words": self.words,
            "size": size,
        }
        yield encode(request)
        yield from sent

    def _answered(self, host: str, action: str, ssh: Conversation, parts: Iterator[bytes]) -> Any:
        answer: dict[str, Any] = {}
        timeout = self.timeout + GRACE if action in QUICK else LONGEST_ACTION
        began, logged = time.monotonic(), 0
        for line in lines(host, action, ssh, parts, timeout):
            answer = read_answer(host, action, line)
            if "log" not in answer:
                break
            logged += 1
            if logged > LOG_LINES + LOG_RATE * (time.monotonic() - began):
                raise _unexpected(
                    host, action, f"{logged} log lines, and at most {LOG_LINES} and {LOG_RATE} a second are accepted"
                )
            if len(line) > LONGEST_LOG_LINE:
                raise _unexpected(host, action, f"a log line of more than {LONGEST_LOG_LINE} bytes")
            self.log(printable(str(answer["log"])))
        if "error" in answer:
            raise answer["error"]
        self._check_image(host, action, answer["result"])
        if action in MAKING:
            ssh.write(CONFIRMED)
            ended = ssh.finish(GRACE)
            if ended.returncode != 0:
                raise TransferFailed(
                    f"The connection to the bridge {host} broke at the end of {action}; what it made may be left "
                    f"there: {reason(ended)}."
                )
        return answer["result"]

    def _check_image(self, host: str, action: str, found: Any) -> None:
        """The catalog and the front-end believe where an image is: it isn't for a bridge to say that it is another
        file.

        :raises CommandFailed: it says so.
        """
        if action not in (*MAKING, "export"):
            return
        fields = {"source": found} if isinstance(found, str) else {**vars(found)}
        source = fields.pop("source")
        fields.pop("warnings", None)  # sentences; the rest are words
        checksum = fields.pop("checksum", None)
        own = re.fullmatch(f"{re.escape(self.datastore.base_path)}/[0-9a-f]{{32}}", source)
        words = all(re.fullmatch("[a-z0-9]+", str(word)) for word in fields.values())
        if not (own and words and (checksum is None or re.fullmatch("[a-z0-9]+:[0-9a-f]+", checksum))):
            raise _unexpected(host, action, "no image of the datastore")


def greeted(ssh: Conversation) -> str | None:
    """Wait until python3 runs on the other side; if it can't, the answer is why."""
    end = time.monotonic() + GRACE
    said = b""
    while f"{READY}\n".encode() not in said:
        try:
            can_read, _can_write = ssh.wait(max(end - time.monotonic(), 0), write=False)
        except CommandFailed as error:
            return (
                f"python3 did not start within {GRACE} seconds" if time.monotonic() >= end else str(error).rstrip(".")
            )
        data = ssh.read() if can_read else None
        if data == b"" or len(said) > LONGEST_GREETING:
            return _why_not(ssh, said)
        said += data or b""
    return None


def _why_not(ssh: Conversation, said: bytes) -> str:
    try:
        ended = ssh.finish(1)
    except CommandFailed:
        return "it answered something else than python3 does"
    why = reason(records.replace(ended, stdout=said.decode(errors="replace")))
    return (
        f"python3, 3.9 or newer, is not installed there ({why})" if ended.returncode in NO_COMMAND else why.rstrip(".")
    )


def lines(host: str, action: str, ssh: Conversation, parts: Iterator[bytes], timeout: float) -> Iterator[bytes]:
    """The lines that the bridge ``host`` writes while it gets ``parts``; its own side of the connection stays open.

    :arg timeout: seconds for all the lines, once everything was sent.
    :raises TransferFailed: the connection ended.
    :raises CommandFailed: the time is over, nothing is taken for too long, or a line is too long.
    """
    waiting: memoryview | bytes | None = b""
    line = bytearray()
    allowed = min(STALL, timeout)
    end = time.monotonic() + allowed
    while True:
        try:
            can_read, can_write = ssh.wait(max(0.0, end - time.monotonic()), write=waiting is not None)
        except CommandFailed as error:
            if time.monotonic() < end:
                raise CommandFailed(
                    f"The connection to the bridge {host} is given up during {action}: {error}"
                ) from error
            can_read = can_write = False
        if not can_write and time.monotonic() >= end:
            doing = "did not answer" if waiting is None else "takes nothing more for"
            raise CommandFailed(f"The bridge {host} {doing} {action} within {allowed:g} seconds and is given up.")
        if can_read:
            data = ssh.read()
            if not data:
                raise TransferFailed(
                    f"The connection to the bridge {host} broke during {action}: {reason(ssh.finish(GRACE))}."
                )
            *whole, rest = data.split(b"\n")
            for one in whole:
                line += one
                yield bytes(line)
                line.clear()
            line += rest
            if len(line) > LONGEST_ANSWER:
                raise _unexpected(host, action, f"a line of more than {LONGEST_ANSWER} bytes")
        if can_write:
            waiting = waiting or next(map(memoryview, parts), None)
            if waiting is not None:
                waiting = ssh.write(waiting)
            allowed = timeout if waiting is None else min(STALL, timeout)
            end = time.monotonic() + allowed


def frames(descriptor: int, *, bandwidth: int | None = None, check: Callable[[], object] = bool) -> Iterator[bytes]:
    """A file as :class:`Received` reads it; of its holes nothing is read or sent.

    :arg bandwidth: bytes a second at most.
    :arg check: is called before the end is sent, and raises when the file isn't to be used.
    """
    from ..._core.throttle import throttle
    from ..._image.copy import extents

    size = length_of(descriptor)

    def pieces() -> Iterator[bytes]:
        position = 0
        for start, end in [*extents(descriptor, size), (size, size)]:
            if start > position:
                yield FRAME.pack(HOLE, start - position)
            position = start
            while position < end:
                data = os.pread(descriptor, min(CHUNK, end - position), position)
                if not data:
                    raise StaleState(
                        "The file that an image is copied from became shorter meanwhile; copy it when nothing writes "
                        "to it."
                    )
                yield FRAME.pack(DATA, len(data)) + data
                position += len(data)

    return sealed(throttle(pieces(), bandwidth), check)


def sealed(pieces: Iterable[bytes], check: Callable[[], object] = bool) -> Iterator[bytes]:
    """Frames, and the last one behind them: the digest of them all."""
    import hashlib

    digest = hashlib.new(DIGEST, usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
        yield piece
    check()
    yield FRAME.pack(END, digest.digest_size) + digest.digest()


def encode(message: Mapping[str, object]) -> bytes:
    """A line of JSON; the dataclasses that drivers deal in are objects with their name under ``is``."""

    def plain(value: Any) -> object:
        if records.is_dataclass(value):
            return {
                "is": type(value).__name__,
                **{field.name: getattr(value, field.name) for field in records.fields(value)},
            }
        if isinstance(value, Mapping):
            return dict(value)
        return list(value) if isinstance(value, frozenset) else str(value)

    return json.dumps(message, default=plain).encode() + b"\n"


def decode(line: bytes) -> Any:
    """
    :raises LookupError, TypeError, ValueError: it isn't what :func:`encode` makes.
    """

    def made(found: dict[str, Any]) -> object:
        name = found.pop("is", None)
        if name is None:
            return found
        kind = vars(inventory if name in inventory.__all__ else base)[name]
        if not records.is_dataclass(kind):
            raise ValueError(name)
        return kind(**{field: tuple(value) if isinstance(value, list) else value for field, value in found.items()})

    return json.loads(line, object_hook=made)


def read_answer(host: str, action: str, line: bytes) -> dict[str, Any]:
    """What came from a bridge: ``log`` is a text, ``result`` that of the action, ``error`` what to raise.

    :raises CommandFailed: something else came.
    """
    try:
        answer = dict(decode(line))
        if "error" in answer:
            answer["error"] = rebuilt(host, answer)
        if (
            answer.keys() & {"error", "log"}
            or "result" in answer
            and fits(answer["result"], ANSWERS.get(action, "None"))
        ):
            return answer
        why = "an unknown answer"
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    raise _unexpected(host, action, why)


def _unexpected(host: str, action: str, why: str) -> CommandFailed:
    return CommandFailed(f"The bridge {host} did not answer {action} as it should: {printable(why)}.")


def fits(value: object, annotation: str) -> bool:
    """Whether what came as JSON is of a type: a text, a flag, a number that the catalog can hold, one of the
    dataclasses, or a tuple of these.
    """
    if annotation.startswith("tuple["):
        return isinstance(value, (list, tuple)) and all(
            fits(one, annotation[len("tuple[") : -len(", ...]")]) for one in value
        )
    if " | " in annotation:
        return any(fits(value, one) for one in annotation.split(" | "))
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return False
    if records.is_dataclass(value) and not all(
        fits(getattr(value, one.name), str(one.type)) for one in records.fields(value)
    ):
        return False
    return annotation == ("None" if value is None else type(value).__name__)


def failure(error: Exception) -> dict[str, object]:
    """What :func:`rebuilt` makes the same error of."""
    if isinstance(error, InvalidInput):
        return {"error": type(error).__name__, "about": [error.option, error.value, error.accepted]}
    if isinstance(error, VmstoreError):
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "CommandFailed", "message": f"The action failed: {type(error).__name__}: {error}"}


def rebuilt(host: str, answer: Mapping[str, Any]) -> VmstoreError:
    """
    :raises LookupError, TypeError, ValueError: it isn't what :func:`failure` makes.
    """
    kind = vars(errors)[answer["error"]]
    if not issubclass(kind, VmstoreError):
        raise ValueError(answer["error"])
    if issubclass(kind, InvalidInput):
        option, value, accepted = answer["about"]
        return kind(printable(str(option)), value, printable(str(accepted)))
    message = printable(str(answer["message"]))
    return kind(message if kind is UnsupportedAction else f"On the bridge {host}: {message}")


# What follows runs on the bridge.


class Received:
    """A file of the front-end, of ``size`` bytes or :data:`UNKNOWN`, while it arrives.

    :arg ended: is called when there is nothing more to come.
    """

    def __init__(self, stdin: IO[bytes], size: int, ended: Callable[[], object]) -> None:
        self.size = size
        self._stdin = stdin
        self._ended = ended

    def begun(self) -> tuple[bytes, Iterator[bytes]]:
        """Its first ``HEAD_SIZE`` bytes or more, and all of it.

        :raises TransferFailed: it isn't what was sent, or not all of it.
        """
        chunks = self._chunks()
        head: list[bytes] = []
        for chunk in chunks:
            head.append(chunk)
            if sum(map(len, head)) >= HEAD_SIZE:
                break
        return b"".join(head), itertools.chain(head, chunks)

    def _chunks(self) -> Iterator[bytes]:
        import hashlib

        digest = hashlib.new(DIGEST, usedforsecurity=False)
        zeros = bytes(CHUNK)
        while True:
            header = self._read(FRAME.size)
            kind, length = FRAME.unpack(header)
            data = b"" if kind == HOLE else self._read(length)
            if kind == END:
                if data != digest.digest():
                    raise TransferFailed("What arrived from the front-end is not what it sent: the digests differ.")
                self._ended()
                return
            digest.update(header)
            digest.update(data)
            while kind == HOLE and length > 0:
                yield zeros[:length]
                length -= CHUNK
            if data:
                yield data

    def _read(self, length: int) -> bytes:
        data = self._stdin.read(length)
        if len(data) < length:
            raise TransferFailed("The front-end is gone.")
        return data


class ReceivingFsDriver(FsDriver):
    """Takes what has ``received`` for the path or the URL that it is asked to make an image of."""

    received: Received | None = None

    def uses(self, running: bool) -> Sequence[ImageUse]:
        """Return all users of all images, as :meth:`users` does those of one.

        :raises VmstoreError: the directory can't be read.
        """
        named = {*self._programs, *({} if running else self._domains)}
        sources = {self._source(name) for name in named if is_hexadecimal(name, 32)}
        with contextlib.suppress(NotFound):  # nothing was ever stored
            sources |= self.stored()
        return tuple(
            ImageUse(source, user) for source in sorted(sources) for user in self.users(source, running=running)
        )

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        if self.received is None:
            return super().stat(path, no_decompress=no_decompress, any_content=any_content)
        head, chunks = self.received.begun()
        options = CopyOptions("", no_decompress=no_decompress, any_content=any_content)
        self._require_image(sniff(head), path, options)
        if self.received.size == UNKNOWN:
            return in_mebibytes(
                self._measured(
                    self._unpacked(chunks, path, options) if self._unpacks(options) else chunks, path, options
                )
            )
        return in_mebibytes(self._size(head, b"", self.received.size, chunks, path, options))

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        if self.received is None:
            return super().preview(path, options)
        head, chunks = self.received.begun()
        self.require_type(options.image_type)
        self._require_image(sniff(head), path, options)
        return self._previewed(chunks, path, options)

    def _fetch(
        self, path: str, target: int, options: CopyOptions, digests: Digests, warn: Callable[[str], object]
    ) -> None:
        if self.received is None:
            super()._fetch(path, target, options, digests, warn)
        else:
            self._copy(path, target, options, digests)

    def _copy(self, path: str, target: int, options: CopyOptions, digests: Digests) -> Sequence[str]:
        if self.received is None:
            raise TransferFailed(f"The file {path} did not come with the request.")
        head, chunks = self.received.begun()
        kind = sniff(head)
        self._require_image(kind, path, options)
        if self._unpacks(options) and kind in COMPRESSIONS:
            self._store(chunks, path, target, options, digests)
        else:
            from ..._image.copy import write_stream
            from ..._image.room import room

            write_stream(
                chunks,
                target,
                digests=list(digests.came.values()),
                sparse=options.sparse,
                limit=room(target),
                path=shown(path),
            )
        for _rest in chunks:
            pass  # up to the digest at the end
        return ()


def serve(stdin: IO[bytes]) -> None:
    """Do what is asked on ``stdin``, and answer."""
    import signal
    import threading

    # Whatever else prints something doesn't answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    confirmed = threading.Event()
    main = threading.main_thread().ident

    def tell(message: Mapping[str, object]) -> None:
        answers.write(encode(message))

    def wait_for_end() -> None:
        with contextlib.suppress(OSError):
            if os.read(0, 1) == CONFIRMED:
                confirmed.set()
                return
        while True:  # a signal that comes just before the main thread waits for something doesn't wake it
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(SIGNAL_INTERVAL)

    def watch() -> None:
        threading.Thread(target=wait_for_end, daemon=True).start()

    signal.signal(signal.SIGTERM, _terminate)
    request = decode(stdin.readline())
    driver = ReceivingFsDriver(
        request["datastore"],
        **{name: request[name] for name in ("settings", "timeout", "words")},
        log=lambda text: tell({"log": text}),
    )
    if request["size"] is None:
        watch()
    else:
        driver.received = Received(stdin, request["size"], watch)
    result: Any = None
    try:
        try:
            result = getattr(driver, request["action"])(*request["arguments"], **request["named"])
        except Exception as error:  # pylint: disable=broad-except  # whatever it is, the front-end tells it
            with contextlib.suppress(OSError):
                tell(failure(error))
            return
        tell({"result": result})
        if request["action"] in MAKING:
            confirmed.wait()
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if result is not None and request["action"] in MAKING:
            driver.rm(result if isinstance(result, str) else result.source)
        raise


def _terminate(number: int, _frame: object) -> NoReturn:
    """What the action made is removed on the way out, which nothing interrupts."""
    import signal

    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


__all__ = ["BridgedFsDriver", "serve"]
