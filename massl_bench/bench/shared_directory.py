"""What a directory that several machines share can do: locks, clocks, late news, other versions of this package."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from massl_bench.bench.finding import Finding
from massl_bench.core.files import scratch_directory
from massl_bench.features.cache import FeatureCache

_MOUNTS = Path("/proc/self/mounts")

_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.ceph",
    "glusterfs",
    "fuse.glusterfs",
)
"""File systems of other machines."""

_CLOCK_S = 2.0
"""Seconds that a server's clock may differ: what is written and read at once lies as far apart."""

_ATTRIBUTES_S = 60
"""Seconds for which an NFS client believes what it knows of a folder, where its mount says nothing else."""

_ASKED_S = 30.0

_ASKS = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1]).acquire(timeout=0)
except Timeout:
    print("held")
else:
    print("free")
"""
"""A second process asks for the lock that this one holds."""


def examine_directory(subject: str, directory: Path) -> list[Finding]:
    """Returns what processes of several machines can expect of a directory; it need not exist.

    What is missing costs time, and never a wrong number: pieces, banks and records carry their hashes.
    """
    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    kind, late = file_system(place)
    findings = [Finding(f"{subject}: file system", True, f"{kind}{late}")]
    try:
        with scratch_directory(place) as scratch:
            findings += [_locks(subject, scratch), _clock(subject, scratch)]
    except OSError as error:
        text = f"{place} cannot be written to: {error.strerror or error}"
        findings.append(Finding(f"{subject}: locks", False, text, optional=True))
    return findings


def file_system(place: Path) -> tuple[str, str]:
    """Returns the type of the file system that a place is on, and in words for how long its news may be late."""
    found = max(
        ((Path(point), kind, options) for point, kind, options in _mounts() if place.absolute().is_relative_to(point)),
        key=lambda mount: len(mount[0].parts),
        default=(Path("/"), "unknown", ""),
    )
    _, kind, options = found
    if kind not in _NETWORK:
        return f"{kind}, of this machine", ""
    if not kind.startswith("nfs") or "noac" in options.split(","):
        return f"{kind}, of another machine", ""
    told = [int(number) for number in re.findall(r"(?:acdirmax|actimeo)=(\d+)", options)]
    seconds = max(told, default=_ATTRIBUTES_S)
    return (
        f"{kind}, of another machine",
        f"; it may hear up to {seconds} s late of what others finished: then a piece or a cell is looked for again, or "
        "made twice with equal content; the mount option acdirmax=1 makes it sooner",
    )


def _mounts() -> Iterator[tuple[str, str, str]]:
    """Yields place, type and options of what is mounted; nothing where the system does not tell."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, point, kind, options, *_ = line.split(" ")
        yield point.encode().decode("unicode_escape"), kind, options  # a space is written as \040


def _locks(subject: str, scratch: Path) -> Finding:
    """Returns whether a second process is kept out by a lock of this one."""
    name, cost = f"{subject}: locks", "processes that share it may do the same work twice, with equal content"
    file = scratch / "lock"
    try:
        with FileLock(file).acquire(timeout=0):
            asked = subprocess.run(  # nosec B603  # this interpreter, with text of ours
                [sys.executable, "-c", _ASKS, str(file)], capture_output=True, text=True, check=False, timeout=_ASKED_S
            ).stdout.strip()
    except (NotImplementedError, OSError, Timeout, subprocess.TimeoutExpired) as error:
        return Finding(name, False, f"none ({type(error).__name__}): {cost}", optional=True)
    if asked != "held":
        return Finding(name, False, f"lost: a second process got a lock that was held; {cost}", optional=True)
    return Finding(name, True, "a second process was kept out")


def _clock(subject: str, scratch: Path) -> Finding:
    """Returns whether the clock that dates the files agrees with this machine's."""
    name, file = f"{subject}: clock", scratch / "clock"
    before = time.time()
    file.touch()
    dated, after = file.stat().st_mtime, time.time()
    apart = max(before - dated, dated - after, 0.0)
    if apart <= _CLOCK_S:
        return Finding(name, True, "the file system's and this machine's agree")
    direction = "behind" if dated < before else "ahead of"
    return Finding(
        name,
        False,
        f"the file system's is {apart:,.0f} s {direction} this machine's: ages and times of records are off by as "
        "much, and what is being written may be taken for a leftover from a day on; let both follow one time server",
        optional=True,
    )


def versions_of(cache: FeatureCache) -> Finding:
    """Returns which versions of this package wrote to a cache."""
    own = metadata.version("massl-bench")
    others = [version for version in cache.versions() if version != own]
    if not others:
        return Finding("cache: versions", True, f"no other than {own} wrote to it")
    text = f"{', '.join(others)} wrote to it as well as {own}: each extracts anew what it cannot read of the other's"
    return Finding("cache: versions", False, f"{text}; give each its own cache, or remove the older one", optional=True)
