"""Files that appear whole or not at all, and JSON that is valid."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# a full disk, an exceeded quota, a file larger than the system allows, a read-only file system
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def disk_full(error: BaseException) -> bool:
    """Whether an error means that nothing more can be written."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def unwritable(error: BaseException) -> str | None:
    """A sentence for an error that means that a file or folder cannot be written; None for other errors."""
    if isinstance(error, (PermissionError, IsADirectoryError)) or disk_full(error):
        return f"{error.filename or 'output'} cannot be written: {error.strerror}"
    return None


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block ends without an error. An OSError names the path.

    Args:
        sync: whether to sync the file to disk first; False for many files that are quickly made again.
    """
    # Processes of two containers may have one number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a failed write names no file, a failed rename the temporary one
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file; readers see the old or the new content, never a part."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            file.write(part)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, as `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_not_a_number)
# Numbers with large exponents or hundreds of digits, and escaped characters: only these need a closer look.
_SUSPECT = re.compile(r"\d[eE]\+?\d{3,}(?:[\s,\]}]|$)|\d{200}|\\u")


def from_json(text: str) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: it is not JSON, or could not be written again: NaN, infinity, overflowing floats, lone surrogates.
    """
    try:
        content = _DECODER.decode(text)
        if _SUSPECT.search(text):
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        return content
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError or ValueError."""
    return from_json(path.read_text(encoding="utf-8"))


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond floats
        return False


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, or the name of its class if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:limit]
