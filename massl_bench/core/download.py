"""A file from the web: whole, hashed while it comes, and the file that was meant rather than a page about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, urlparse
from urllib.request import Request, urlopen

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import open_regular, what_it_is
from massl_bench.core.wording import option

_TIMEOUT_SECONDS = 20.0
"""Without an answer, or a byte, from a server."""

_CHUNK = 1 << 20
_DRIVE = ("drive.google.com", "docs.google.com")


@dataclass(frozen=True, kw_only=True)
class Digests:
    """What a file's content is, for a comparison with what its publisher says; hex."""

    sha256: str
    md5: str


def download(url: str, file: Path) -> Digests:
    """Writes what lies at an address to a file; what stands there of a failed download is the caller's to remove.

    Files of Google Drive are fetched by gdown, which gets past its pages; everything else over http or https.

    Raises:
        RequestError: gdown is needed and not installed; the text says how to install it.
        OSError: There is no connection, or the server has no such file.
        ValueError: The address is of another kind, the file came in part, or a web page came in its place.
    """
    place = urlparse(url)
    if place.scheme not in ("http", "https"):
        raise ValueError(f"expected an address that begins with https://, got {url}")
    digests = _from_drive(url, file) if place.hostname in _DRIVE else _from_server(url, file)
    if what_it_is(file) == "a web page":
        raise ValueError(
            f"a web page came in place of the file ({file.stat().st_size:,} bytes): a login, a quota that is used up, "
            "or a question that a browser has to answer"
        )
    return digests


def _from_server(url: str, file: Path) -> Digests:
    from rich.console import Console
    from rich.progress import wrap_file

    with _opened(url) as response, file.open("wb") as out:
        if urlparse(url).scheme == "https" and urlparse(response.url).scheme != "https":
            raise ValueError(f"it leads from https to {response.url}, where anybody on the way could change the file")
        size = response.length
        console = Console(stderr=True)
        bar = wrap_file(response, size or 0, description=file.name, console=console, disable=not console.is_terminal)
        with bar as content:
            digests = _digested(content, out.write)
        if size is not None and out.tell() != size:
            raise ValueError(f"the connection ended after {out.tell():,} of {size:,} bytes")
    return digests


def _opened(url: str) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "massl-bench"})  # some servers refuse Python's own
    try:
        response: HTTPResponse = urlopen(request, timeout=_TIMEOUT_SECONDS)  # nosec B310  # http(s): `download`
    except HTTPError as error:
        raise OSError(f"the server answers {error.code} {error.reason}") from None
    except URLError as error:
        raise OSError(f"no connection: {error.reason}") from None
    return response


def _from_drive(url: str, file: Path) -> Digests:
    """Raises `RequestError` where gdown is not installed, `OSError` for what it reports."""
    try:
        import gdown
    except ImportError:
        raise RequestError(
            f"{url}: Google Drive asks questions in place of sending a file: pip install 'massl-bench[drive]', or "
            f"download it in a browser, and then: massl-bench weights add FILE {option('name', 'NAME')}"
        ) from None
    try:
        found = gdown.download(id=_drive_id(url), output=str(file), quiet=True, use_cookies=False)
    except Exception as error:  # its own, and those of its transport
        raise OSError(f"Google Drive: {one_line(error)}") from None
    if found is None or not file.is_file():
        raise OSError("Google Drive sent no file")
    with open_regular(file) as opened:
        return _digested(opened, lambda _: None)


def _drive_id(url: str) -> str:
    place = urlparse(url)
    parts = place.path.split("/")
    found = parts[parts.index("d") + 1] if "d" in parts[:-1] else parse_qs(place.query).get("id", [""])[0]
    if not found:
        raise ValueError(f"expected the address of a file of Google Drive, .../file/d/ID/view, got {url}")
    return found


def _digested(content: BinaryIO, write: Callable[[bytes], object]) -> Digests:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while chunk := content.read(_CHUNK):
        write(chunk)
        sha256.update(chunk)
        md5.update(chunk)
    return Digests(sha256=sha256.hexdigest(), md5=md5.hexdigest())
