"""What the kernel says of one process and its threads."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bench.observer import BenchError, processor_s


def test_a_threads_processor_time_is_told_from_its_processs() -> None:
    def work() -> None:
        while time.thread_time() < 0.2:
            pass

    process, pid = Path("/proc/self/stat"), os.getpid()
    main = Path(f"/proc/{pid}/task/{pid}/stat")
    before_s, main_before_s = processor_s(process), processor_s(main)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    used_s, main_used_s = processor_s(process) - before_s, processor_s(main) - main_before_s
    assert used_s >= 0.15
    assert main_used_s < used_s / 2


def test_a_process_that_is_gone_is_named() -> None:
    with pytest.raises(BenchError, match="has ended"):
        processor_s(Path("/proc/0/stat"))
