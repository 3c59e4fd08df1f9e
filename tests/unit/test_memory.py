"""What a process frees it keeps, where the C library is glibc."""

import platform
import subprocess
import sys

import pytest

AGAIN = """
import resource
import numpy as np
from bench.training.memory import keep_freed_memory

def pages_that_came() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(30 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

np.ones(30 * 2**20, np.uint8)
before = pages_that_came()
keep_freed_memory()
np.ones(30 * 2**20, np.uint8)
print(before, pages_that_came())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_memory_that_was_freed_comes_again_without_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10


TWO = """
import numpy as np
import torch
from bench.training.memory import keep_freed_memory, peak_memory_gib, watch_memory

cpu = torch.device("cpu")
for pieces in (30, 1):
    keep_freed_memory()
    watch_memory(cpu)
    kept = [np.ones(20 * 2**20, np.uint8) for _ in range(pieces)]
    del kept
    print(peak_memory_gib(cpu))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a part of a process's life needed")
def test_the_peak_of_a_cell_is_not_that_of_a_larger_one_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", TWO], capture_output=True, text=True, check=True)
    large, small = map(float, done.stdout.split())
    assert small < large - 0.4
