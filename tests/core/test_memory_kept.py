"""Memory that the layers of a network free is taken again, and not fetched from the system each time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GLIBC = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names

# Blocks above what glibc ever keeps by itself, each written to, as a layer writes its output.
COUNTED = """
import resource, sys
import numpy as np
from massl_bench.core.devices import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(48 << 20, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

faults()
start, outside = resident(), faults()
with memory_kept(sys.argv[1]):
    with memory_kept(sys.argv[1]):
        faults()
    inside = faults()
print(outside, inside, faults(), resident() - start)
"""


def counted(device: str, **environment: str) -> list[int]:
    child = {**os.environ, **environment}
    command = [sys.executable, "-c", COUNTED, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=child)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(not GLIBC, reason="the thresholds are those of glibc's allocator")
def test_memory_is_kept_inside_and_handed_back_after() -> None:
    outside, inside, after, grown = counted("cpu")
    assert inside < outside / 50
    assert after > outside / 2
    assert grown < 8  # MB


@pytest.mark.parametrize(("device", "environment"), [("cuda", {}), ("cpu", {"MALLOC_TRIM_THRESHOLD_": "131072"})])
@pytest.mark.skipif(not GLIBC, reason="the thresholds are those of glibc's allocator")
def test_a_card_and_a_users_own_thresholds_are_left_alone(device: str, environment: dict[str, str]) -> None:
    outside, inside, after, _ = counted(device, **environment)
    assert min(inside, after) > outside / 2
