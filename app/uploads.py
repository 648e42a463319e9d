"""Photographs that a browser sends: kept in memory, never in a file, the least used forgotten first."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from pipeline.core.errors import DataError

LIMIT = 40 * 2**20  # bytes of one photograph
ROOM = 8 * LIMIT  # bytes of all that are kept
PREFIX = "upload:"  # before the key of one that is kept
INLINE = "data:"  # before a photograph that is its own key
LONGEST = 120  # characters of a name that are shown


@dataclass(frozen=True)
class Upload:
    """A photograph's file, as it was sent."""

    name: str
    content: bytes


class Uploads:
    """What all sessions have sent, by keys that cannot be guessed: who has none of another's sees none of them."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> str:
        """The key of a photograph that is kept from now on. Raises DataError: it is too large."""
        upload = Upload(shown(name), content)
        check_size(upload)
        key = PREFIX + secrets.token_urlsafe(12)
        with self._lock:
            self._kept[key] = upload
            while sum(len(each.content) for each in self._kept.values()) > self._room:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> Upload:
        """Raises DataError: it is not kept any more."""
        with self._lock:
            if key not in self._kept:
                raise DataError("this photograph is not in memory any more; choose its file again")
            self._kept.move_to_end(key)
            return self._kept[key]


def inline(text: str, name: str = "photograph") -> Upload:
    """A photograph written as text: `data:image/jpeg;base64,…`. Raises DataError: it is not, or it is too large."""
    head, comma, body = text.partition(",")
    if not (head.startswith(INLINE) and head.endswith(";base64") and comma):
        raise DataError(f"a photograph is text like {INLINE}image/jpeg;base64,…, and this begins {shown(text[:30])!r}")
    try:
        upload = Upload(name, base64.b64decode(body, validate=True))
    except binascii.Error as error:
        raise DataError(f"{name} is no valid base64 ({error}); encode its bytes again") from None
    check_size(upload)
    return upload


def shown(name: str) -> str:
    """A name that a client sent, for a sentence: as much of it as is read, and no half characters."""
    text = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def check_size(upload: Upload) -> None:
    if len(upload.content) > LIMIT:
        raise DataError(
            f"{upload.name} has {len(upload.content):,} bytes, more than the {LIMIT:,} that are taken; save it smaller"
        )
