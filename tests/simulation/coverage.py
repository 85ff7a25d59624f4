"""What a range of seeds reached: inputs, effects, messages, frames, and every branch in which the engine refuses.

The refusals are read from the engine's source, so a new one that no seed reaches shows up by itself.

Must not know: clusters.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import consensus
from consensus import events, messages
from p2p.frames import Kind

_REASON = re.compile(r"\bignore\(\s*\"([^\"]+)\"")
_REASONS_OF = re.compile(r"def _refusal\(.*?\n    def ", re.DOTALL)  # a function that names several
_RETURNED = re.compile(r"return \"([^\"]+)\"")


def refusals() -> list[str]:
    """All reasons that appear in the source of `consensus`."""
    folder = Path(consensus.__file__).parent
    found: set[str] = set()
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        found.update(_REASON.findall(text))
        for body in _REASONS_OF.findall(text):
            found.update(_RETURNED.findall(body))
    return sorted(found)


def expected() -> list[str]:
    """Every point that a few hundred seeds should reach, as `group/name`."""
    # A status is not signed and comes as an input of its own.
    travelling = [kind for kind in messages.Kind if kind not in (messages.Kind.PREPARED, messages.Kind.STATUS)]
    frames = [kind for kind in Kind if kind >= Kind.VOTE]
    return [
        *(f"input/{kind.__name__}" for kind in get_args(events.Input)),
        # An honest node whose state differs is a failed run.
        *(f"effect/{kind.__name__}" for kind in get_args(events.Effect) if kind is not events.Diverged),
        *(f"timer/{timer.value}" for timer in events.Timer),
        *(f"message/{kind.name.lower()}" for kind in travelling),
        *(f"frame/{kind.name.lower()}" for kind in frames),
        *(f"refusal/{reason}" for reason in refusals() if reason != "halted"),
    ]


def missing(found: Counter[str]) -> list[str]:
    return [point for point in expected() if not found[point]]
