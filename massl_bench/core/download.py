"""A file from the web: whole, hashed while it comes, and the file that was meant rather than a page about it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import PARTIAL_CONTENT, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import BinaryIO, cast
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, urlparse
from urllib.request import Request, urlopen

from typing_extensions import override

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

    Files of Google Drive are fetched by gdown, which gets past its pages; those of object stores and other remote file
    systems (`s3://`, `gs://`, `sftp://`) by fsspec; everything else over http or https.

    Raises:
        RequestError: gdown, or the library of a store, is needed and not installed; the text says how to install it.
        OSError: There is no connection, or the server has no such file.
        ValueError: The address is of another kind, the file came in part, or a web page came in its place.
    """
    place = urlparse(url)
    if place.scheme not in ("http", "https"):
        digests = _from_store(url, file)
    else:
        digests = _from_drive(url, file) if place.hostname in _DRIVE else _from_server(url, file)
    if what_it_is(file) == "a web page":
        raise ValueError(
            f"a web page came in place of the file ({file.stat().st_size:,} bytes): a login, a quota that is used up, "
            "or a question that a browser has to answer"
        )
    return digests


def _from_server(url: str, file: Path) -> Digests:
    with _opened(url) as response:
        return _written(cast("BinaryIO", _Resumed(url, response)), response.length, file)


def _from_store(url: str, file: Path) -> Digests:
    """Raises as `download`; what a store's own library raises becomes an `OSError`."""
    import fsspec

    scheme, named, _ = url.partition("://")
    if not named or "::" in url or scheme in ("file", "local") or scheme not in fsspec.available_protocols():
        raise ValueError(f"expected an address that begins with https://, or that of a store, as s3://…, got {url}")
    try:
        with fsspec.open(url, "rb") as opened:
            return _written(opened, opened.size, file)
    except ImportError as error:
        raise RequestError(f"{url}: {one_line(error)}") from None
    except FileNotFoundError:
        raise OSError("the store has no such file") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # of boto, of Google's, of paramiko
        raise OSError(one_line(error)) from None


def _written(source: BinaryIO, size: int | None, file: Path) -> Digests:
    """Writes a stream to a file, and shows how far that is."""
    from rich.console import Console
    from rich.progress import wrap_file

    console = Console(stderr=True)
    bar = wrap_file(source, size or 0, description=file.name, console=console, disable=not console.is_terminal)
    with file.open("wb") as out:
        with bar as shown:
            digests = _digested(shown, out.write)
        if size is not None and out.tell() != size:
            raise ValueError(f"the connection ended after {out.tell():,} of {size:,} bytes")
    return digests


class _Resumed(io.RawIOBase):
    """A file that a server sends: where the connection breaks, the rest of the same file is asked for.

    Only of a server that names the file's version and can begin in the middle of it; and not where it sends nothing.
    """

    def __init__(self, url: str, response: HTTPResponse) -> None:
        super().__init__()
        self._url, self._response = url, response
        self._size, self._read = response.length, 0
        etag = response.headers.get("ETag") or ""
        self._version = response.headers.get("Last-Modified") if etag.startswith("W/") or not etag else etag

    @override
    def read(self, count: int = -1, /) -> bytes:
        """Returns the next bytes; none at the end, or where the connection ended and nothing can be done."""
        chunk = self._next(count)
        if not chunk and self._size is not None and self._read < self._size and self._resume():
            chunk = self._next(count)
        self._read += len(chunk)
        return chunk

    @override
    def close(self) -> None:
        """Ends the connection."""
        self._response.close()
        super().close()

    def _next(self, count: int) -> bytes:
        try:
            return self._response.read1(count)
        except (ConnectionError, IncompleteRead):
            return b""

    def _resume(self) -> bool:
        if self._version is None:
            return False
        self._response.close()
        part = {"Range": f"bytes={self._read}-", "If-Range": self._version}
        try:
            self._response = _opened(self._url, part)
        except OSError:
            return False
        # A server that cannot sends the whole again, and one that has another file by now sends that.
        told = self._response.headers.get("Content-Range", "")
        return self._response.status == PARTIAL_CONTENT and told == f"bytes {self._read}-{self._last}/{self._size}"

    @property
    def _last(self) -> int:
        assert self._size is not None
        return self._size - 1


def _opened(url: str, part: Mapping[str, str] | None = None) -> HTTPResponse:
    request = Request(url, headers={"User-Agent": "massl-bench", **(part or {})})  # some servers refuse Python's own
    try:
        response: HTTPResponse = urlopen(request, timeout=_TIMEOUT_SECONDS)  # nosec B310  # http(s): `download`
    except HTTPError as error:
        raise OSError(f"the server answers {error.code} {error.reason}") from None
    except URLError as error:
        raise OSError(f"no connection: {error.reason}") from None
    if urlparse(url).scheme == "https" and urlparse(response.url).scheme != "https":
        raise ValueError(f"it leads from https to {response.url}, where anybody on the way could change the file")
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
