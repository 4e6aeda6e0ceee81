"""Client of the timekeeper's socket protocol: a participant that is not a thread under the shim.

The frames are described in ``docs/protocol.md``. A participant counts as running from the moment it
has joined: virtual time stands until it waits or leaves.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Final

VERSION: Final = 1
LARGEST_PAYLOAD: Final = 4096
HELLO_MAGIC: Final = 0x43564552
NEVER: Final = 2**63 - 1
"""A deadline that never comes: wait until somebody wakes this participant."""

HELLO, WAIT, ASK_TIME, WAKE, COLLECTIVE, LEAVE = 1, 2, 3, 4, 5, 6
WELCOME, WOKEN, TIME, DONE, ERROR = 128, 129, 130, 131, 132
COLLECTIVE_LOST: Final = 7

_HEADER: Final = struct.Struct("<IBBH")


class ProtocolError(Exception):
    """The timekeeper refused a frame, or sent one that makes no sense."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class TimekeeperGone(ProtocolError):
    """The connection ended: the run is over, or the timekeeper was killed."""


@dataclass(frozen=True)
class Woken:
    """The end of a wait."""

    now_ns: int
    by_participant: bool
    """Another participant woke this one; else the deadline came."""


@dataclass(frozen=True)
class CollectiveDone:
    """All ranks have posted; the operation ends at ``finish_ns``."""

    group: int
    sequence: int
    finish_ns: int


def pack_frame(kind: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(len(payload), kind, VERSION, 0) + payload


class Participant:
    """One participant. Times are virtual nanoseconds since the start of the run.

    Args:
        address: path of the Unix socket (default: ``clock.sock`` in ``REVATI_RUN_DIR``), or ``(host, port)``.
        token: shared secret, needed over TCP (default: ``REVATI_CLOCK_TOKEN``).
        timeout: real seconds to wait for the connection and the welcome.
    """

    def __init__(
        self,
        address: str | tuple[str, int] | None = None,
        *,
        token: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        if address is None:
            folder = os.environ.get("REVATI_RUN_DIR")
            if not folder:
                raise ProtocolError("no address given and REVATI_RUN_DIR is not set: start inside a run")
            address = os.path.join(folder, "clock.sock")
        secret = (os.environ.get("REVATI_CLOCK_TOKEN", "") if token is None else token).encode()
        if len(secret) > 1024:
            raise ProtocolError(f"the token has {len(secret)} bytes, expected at most 1024")
        tcp = not isinstance(address, str)
        self._socket = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address)
            if tcp:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._done: list[CollectiveDone] = []
            self._send(HELLO, struct.pack("<IH", HELLO_MAGIC, len(secret)) + secret)
            welcome = struct.unpack("<IBqq", self._expect(WELCOME))
            self.id, self.mode, self.joined_ns, self.monotonic_base_ns = welcome
            self._socket.settimeout(None)
        except OSError as error:
            self._socket.close()
            raise ProtocolError(f"cannot join the timekeeper at {address}: {error}") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Participant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def now_ns(self) -> int:
        """Virtual time since the start of the run."""
        self._send(ASK_TIME)
        return int(struct.unpack("<q", self._expect(TIME))[0])

    def wait_until(self, deadline_ns: int = NEVER) -> Woken:
        """Block until virtual time reaches the deadline or somebody wakes this participant."""
        self._send(WAIT, struct.pack("<q", deadline_ns))
        now, why = struct.unpack("<qB", self._expect(WOKEN))
        return Woken(now, why == 1)

    def wake(self, participant: int) -> None:
        """End the wait of another participant; nothing happens when it does not wait."""
        self._send(WAKE, struct.pack("<I", participant))

    def post_collective(self, group: int, sequence: int, world: int, ready_ns: int, duration_ns: int) -> None:
        """Say that this rank has arrived; :meth:`collective_done` returns when all have."""
        self._send(COLLECTIVE, struct.pack("<QQIqq", group, sequence, world, ready_ns, duration_ns))

    def collective_done(self) -> CollectiveDone:
        """The next completed collective, in order of completion. The participant still counts as running."""
        while not self._done:
            self._read()
        return self._done.pop(0)

    def leave(self) -> None:
        """Leave the run. Safe to call twice."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(ProtocolError):
            self._send(LEAVE)
        self._socket.close()

    def _send(self, kind: int, payload: bytes = b"") -> None:
        try:
            self._socket.sendall(pack_frame(kind, payload))
        except OSError as error:
            raise TimekeeperGone(f"the timekeeper is gone: {error}") from error

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except ConnectionError as error:
                raise TimekeeperGone(f"the timekeeper is gone: {error}") from error
            if not part:
                raise TimekeeperGone("the timekeeper closed the connection: the run is over")
            data += part
        return data

    def _read(self) -> tuple[int, bytes]:
        """One frame; errors raise, finished collectives are kept."""
        size, kind, version, _ = _HEADER.unpack(self._receive(_HEADER.size))
        if version != VERSION or size > LARGEST_PAYLOAD:
            raise ProtocolError(f"got version {version} and {size} bytes, expected version {VERSION}")
        payload = self._receive(size)
        if kind == ERROR:
            code = struct.unpack_from("<H", payload)[0]
            raise ProtocolError(payload[2:].decode(errors="replace"), code)
        if kind == DONE:
            self._done.append(CollectiveDone(*struct.unpack("<QQq", payload)))
        return kind, payload

    def _expect(self, wanted: int) -> bytes:
        while True:
            kind, payload = self._read()
            if kind == wanted:
                return payload
            if kind != DONE:
                raise ProtocolError(f"got frame type {kind}, expected {wanted}")
