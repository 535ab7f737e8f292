"""Downloads a public file whole and as published, or not at all.

Failure policy: a download has three tries. A connection that breaks, a server that says nothing
or is too slow, an HTTP error and a wrong SHA-256 each end a try. The problem of the last try is
the error.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path

from evaluation.public_files import PublicFile
from policy.digest import sha256
from policy.disk import write_whole, writing
from policy.errors import UserError

_TRIES = 3
_PAUSE_S = 1.0
_TRY_S = 120.0  # the largest file has 1.2 MB


def download(file: PublicFile, folder: Path, silence_s: float = 30.0) -> bool:
    """Download ``file`` into ``folder`` unless it is there; returns whether it was downloaded.

    A try ends when the server says nothing for ``silence_s`` seconds. Raises ``UserError`` that
    names the URL when no try succeeded, or the file when it is there with other content. Raises
    ``NotWritten`` when the file cannot be written.
    """
    target = folder / file.path
    with writing(target):
        if target.exists():
            if sha256(target) != file.sha256:
                raise UserError(f"{target} is there but is not the published file; move it away")
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, _content(file, silence_s))
    return True


def _read(reply: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    """At most ``most`` bytes: one too many shows that a file is too long.

    Raises ``TimeoutError`` for a server that sends so slowly that it never meets the deadline.
    """
    content = b""
    while len(content) < most and (chunk := reply.read1(most - len(content))):
        content += chunk
        if time.monotonic() > deadline:
            raise TimeoutError("the server is too slow")
    return content


def _content(file: PublicFile, silence_s: float) -> bytes:
    """The published bytes, from the first try that gets them."""
    request = urllib.request.Request(file.url, headers={"User-Agent": "eg-grpo"})
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            with urllib.request.urlopen(request, timeout=silence_s) as reply:
                content = _read(reply, file.size + 1, time.monotonic() + _TRY_S)
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            if (found := hashlib.sha256(content).hexdigest()) == file.sha256:
                return content
            problem = (
                f"SHA-256 is {found} after {len(content)} bytes,"
                f" not {file.sha256} after {file.size}"
            )
    raise UserError(f"{file.url}: {problem} (tried {_TRIES} times)")
