"""What is seen while the demonstration runs: a bar on a terminal, a plain line every two seconds otherwise.

Must not know: clusters.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Progress"]

LINE_EVERY_S = 2.0


class Progress:
    """Steps done of `total`. `say` prints a line that stays. Everything goes to stderr: stdout is for the summary."""

    def __init__(self, total: int, *, terminal: bool | None = None) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._started_s = self._line_s = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if self._terminal:
            self._bar, self._task = _bar(total)
            self._bar.start()

    def say(self, text: str) -> None:
        elapsed_s = time.monotonic() - self._started_s
        line = f"[{elapsed_s:5.1f} s] {text}"
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            _write(line)

    def update(self, done: int, state: str) -> None:
        """`state` is a few words on the cluster, e.g. its height and leader."""
        now_s = time.monotonic()
        rate = done / max(now_s - self._started_s, 0.001)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, state=f"{rate:.0f}/s, {state}")
            return
        if now_s - self._line_s < LINE_EVERY_S:
            return
        self._line_s = now_s
        left = f"about {(self._total - done) / rate:.0f} s left" if rate > 0 else "waiting"
        self.say(f"{done}/{self._total} steps, {rate:.0f}/s, {left}; {state}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _write(line: str) -> None:
    with suppress(BrokenPipeError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _bar(total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("business"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=Console(stderr=True),
    )
    return bar, bar.add_task("business", total=total, state="")
