"""Downloads that arrive whole and as they should be, or not at all.

Failure policy: a broken connection, a silent server and the statuses 408, 429 and 5xx are tried
again, with what has arrived kept in ``<file>.part``, until the deadline. Any other status, size or
digest is an error at once. A file appears under its name only when all its bytes are proved.
"""

from __future__ import annotations

import fcntl
import http.client
import random
import time
import urllib.error
import urllib.request
from io import FileIO
from pathlib import Path

from evaluation.public_files import PublicFile
from policy.digest import sha256
from policy.errors import UserError

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_CHUNK = 64 * 1024
_LONGEST_PAUSE_S = 30.0


def download(
    file: PublicFile, folder: Path, deadline_s: float = 300.0, silence_s: float = 30.0
) -> bool:
    """Have ``file`` below ``folder``; returns whether anything had to be downloaded.

    ``deadline_s`` bounds the whole download with its retries, ``silence_s`` how long the server
    may say nothing. Raises ``UserError`` that names the file and what was wrong.
    """
    target = folder / file.path
    part = target.with_name(target.name + ".part")
    try:
        if target.exists():
            if sha256(target) != file.sha256:
                raise UserError(f"{target} is there but is not the published file; move it away")
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab", buffering=0) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{part} is being written by another process") from None
            _fill(file, stream, time.monotonic() + deadline_s, silence_s)
            if (found := sha256(part)) != file.sha256:
                part.unlink()
                raise UserError(
                    f"{file.url}: SHA-256 is {found}, not {file.sha256}; nothing was kept"
                )
            part.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from None
    return True


def _fill(file: PublicFile, stream: FileIO, deadline: float, silence_s: float) -> None:
    """Append what is missing until the size is right."""
    pause = 0.5
    while True:
        try:
            _attempt(file, stream, deadline, silence_s)
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP status {error.code}"
            if error.code not in _TRANSIENT:
                raise UserError(f"{file.url}: {reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        wait = pause * random.uniform(0.5, 1.0)  # so that many users do not come back together
        if time.monotonic() + wait > deadline:
            raise UserError(
                f"{file.url}: not complete before the deadline: {reason};"
                f" {stream.seek(0, 2)} of {file.size} bytes are kept for the next run"
            )
        time.sleep(wait)


def _attempt(file: PublicFile, stream: FileIO, deadline: float, silence_s: float) -> None:
    """One request for the bytes that are missing; raises ``OSError`` when it breaks off."""
    have = stream.seek(0, 2)
    if have == file.size:
        return
    # Compressed bytes could not be resumed by their position.
    headers = {"User-Agent": "eg-grpo", "Accept-Encoding": "identity"}
    if 0 < have < file.size:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(file.url, headers=headers)
    timeout = max(0.1, min(silence_s, deadline - time.monotonic()))
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        goes_on = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not (reply.status == 206 and goes_on):
            have = stream.seek(stream.truncate(0))  # the server sends the whole file
        while chunk := reply.read1(_CHUNK):
            have += stream.write(chunk)
            if have > file.size:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the server is too slow")
    if have > file.size:
        stream.truncate(0)
        raise UserError(f"{file.url}: more than the {file.size} bytes it should have")
    if have < file.size:
        raise ConnectionError(f"the connection ended after {have} of {file.size} bytes")
