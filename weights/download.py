"""Downloads weight files from URLs, continues broken downloads, and checks the files."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from weights.catalog import WeightFile
from weights.files import CHUNK, flush_to_disk, fresh_sha256

Progress = Callable[[str, int, int | None], None]
"""File name, bytes so far, bytes in all (None: unknown)."""

_TIMEOUT = 30.0  # s without a byte


class FetchError(Exception):
    """Why a source did not deliver the file, in a few words."""


def fetch(record: WeightFile, url: str, part: Path, progress: Progress | None) -> None:
    """Download `url` to `part`, continuing what `part` already holds, and check its sha256. Raises FetchError."""
    resumed = _download(record, url, part, progress)
    if fresh_sha256(part) == record.sha256:
        return
    part.unlink()
    if resumed:  # the beginning may have come from another source
        _download(record, url, part, progress)
        if fresh_sha256(part) == record.sha256:
            return
        part.unlink()
    raise FetchError("what it serves has another sha256")


def _download(record: WeightFile, url: str, part: Path, progress: Progress | None) -> bool:
    """Append what is missing in `part`, or write it anew if the server cannot continue. True if it continued."""
    have = part.stat().st_size if part.exists() else 0
    if record.size is not None and have >= record.size:
        part.unlink()  # whole but not yet renamed cannot be told from damaged here: fetch it again
        have = 0
    response = _request(url, have)
    if response is None:
        part.unlink()
        return _download(record, url, part, progress)
    with response:
        resumed = _continues(response, have)
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None and length.isdigit() else None
        total = record.size if record.size is not None else expected
        with part.open("ab" if resumed else "wb") as out:
            for block in _blocks(response, have):
                out.write(block)
                have += len(block)
                if progress is not None:
                    progress(record.name, have, total)
                if record.size is not None and have > record.size:
                    break
            flush_to_disk(out)
    if record.size is not None and have > record.size:
        part.unlink()
        raise FetchError(f"it serves more than the {record.size} bytes of the file")
    if have < max(total or 0, expected or 0):
        raise FetchError(f"the transfer broke off after {have} of {total} bytes")
    return resumed


def _request(url: str, have: int) -> http.client.HTTPResponse | None:
    """Ask for `url` from byte `have` on; None if the server has no such rest."""
    request = urllib.request.Request(url, headers={"User-Agent": "drsf"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return None
        raise FetchError(f"HTTP {error.code}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise FetchError(_reason(error)) from error
    return response


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Whether the answer is the rest from byte `have` on (True) or the whole file (False)."""
    sent = str(response.headers.get("Content-Range", ""))
    if response.status == HTTPStatus.PARTIAL_CONTENT and sent.startswith(f"bytes {have}-"):
        return True
    if response.status == HTTPStatus.OK:
        return False
    raise FetchError(f"it answered a request for the rest with HTTP {response.status}")


def _blocks(response: http.client.HTTPResponse, have: int) -> Iterator[bytes]:
    """What the server sends after the `have` bytes that are there."""
    while True:
        try:
            block = response.read(CHUNK)
        except (http.client.HTTPException, OSError) as error:
            raise FetchError(f"the transfer broke off after {have} bytes ({_reason(error)})") from error
        if not block:
            return
        have += len(block)
        yield block


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
