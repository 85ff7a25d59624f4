"""The account of one run for people: aligned lines, and a picture of who sent what to whom.

Must not know: clusters; it is told what happens.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from consensus.messages import (
    CheckpointVote,
    NewView,
    PrePrepare,
    Status,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
)
from ledger.codec import decode
from ledger.errors import CodecError
from p2p.frames import Kind

EVENTS_MAX = 200_000  # of one picture or listing; a run has fewer unless it goes on for hours


@dataclass(frozen=True, slots=True)
class Arrow:
    """One message from one node to another; `arrived_ms` is None for a lost one."""

    sent_ms: int
    arrived_ms: int | None
    sender: int
    receiver: int
    kind: Kind
    payload: bytes


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that happened at a node, or (None) to all."""

    at_ms: int
    node: int | None
    text: str


class Trace:
    """Keeps what happened between two times; `show` is called with each line as it comes."""

    def __init__(
        self,
        show: Callable[[str], None] | None = None,
        from_ms: int = 0,
        to_ms: int = 1 << 62,
        *,
        statuses: bool = False,
    ) -> None:
        self._show, self._from_ms, self._to_ms, self._statuses = show, from_ms, to_ms, statuses
        self.entries: list[Arrow | Remark] = []

    def _wants(self, at_ms: int) -> bool:
        return self._from_ms <= at_ms <= self._to_ms and len(self.entries) < EVENTS_MAX

    def note(self, now_ms: int, node: int | None, text: str) -> None:
        if self._wants(now_ms):
            self.entries.append(Remark(now_ms, node, text))
            if self._show is not None:
                where = "  *  " if node is None else f"{node:>3}  "
                self._show(f"{now_ms / 1000:>9.3f}  {where}{'':>14}{text}")

    def arrived(self, now_ms: int, sent_ms: int, sender: int, receiver: int, kind: Kind, payload: bytes) -> None:
        self._message(now_ms, Arrow(sent_ms, now_ms, sender, receiver, kind, payload))

    def lost(self, now_ms: int, sender: int, receiver: int, kind: Kind, payload: bytes) -> None:
        self._message(now_ms, Arrow(now_ms, None, sender, receiver, kind, payload))

    def _message(self, now_ms: int, arrow: Arrow) -> None:
        if not self._wants(now_ms) or (arrow.kind is Kind.STATUS and not self._statuses):
            return
        self.entries.append(arrow)
        if self._show is not None:
            took = "lost" if arrow.arrived_ms is None else f"+{arrow.arrived_ms - arrow.sent_ms} ms"
            what = describe(arrow.kind, arrow.payload)
            self._show(f"{now_ms / 1000:>9.3f}  {arrow.sender:>3} -> {arrow.receiver:<3} {took:>9}  {what}")


def describe(kind: Kind, payload: bytes) -> str:
    """A frame in a few words."""
    try:
        if kind is Kind.VOTE:
            return _describe_vote(payload)
        if kind is Kind.STATUS:
            status = Status.from_value(decode(payload, size_bytes_max=256))
            mode = " changing" if status.changing else ""
            place = f"epoch {status.epoch} view {status.view}{mode}"
            return f"STATUS      {place} height {status.height} stable {status.stable}"
        if kind is Kind.BLOCK_REQUEST:
            return f"BLOCKS?     {decode(payload, size_bytes_max=64)!r}"
        if kind is Kind.EPOCH_REQUEST:
            return f"EPOCHS?     from {decode(payload, size_bytes_max=64)!r}"
    except (CodecError, TypeError, ValueError):
        return f"{kind.name:<11} malformed, {len(payload)} bytes"
    return f"{kind.name:<11} {len(payload)} bytes"


def _describe_vote(payload: bytes) -> str:
    message = decode_message(payload)
    match message:
        case PrePrepare(proposal=proposal):
            seal = " seal" if proposal.seal else ""
            place = f"e{message.epoch} v{message.view} h{proposal.height}"
            return f"PRE-PREPARE {place} {proposal.digest[1:5].hex()} {len(proposal.batches)} batches{seal}"
        case Vote():
            place = f"e{message.epoch} v{message.view} h{message.height}"
            return f"{message.phase.name:<11} {place} {message.digest[1:5].hex()}"
        case CheckpointVote():
            return f"CHECKPOINT  e{message.epoch} h{message.height} {message.state_root[1:5].hex()}"
        case Suspect():
            return f"SUSPECT     e{message.epoch} v{message.view}"
        case TimeoutCertificate():
            return f"TIMEOUT     e{message.epoch} v{message.view} of {[member for member, _ in message.signatures]}"
        case ViewChange():
            stable = 0 if message.stable is None else message.stable.height
            locks = [prepared.height for prepared in message.prepared]
            return f"VIEW-CHANGE e{message.epoch} v{message.view} by {message.member} stable {stable} locks {locks}"
        case NewView():
            members = [claim.member for claim in message.claims]
            return f"NEW-VIEW    e{message.epoch} v{message.view} from view changes of {members}"
    return type(message).__name__


# The picture: one column a node, time downwards

_COLUMN_PX, _LEFT_PX, _TOP_PX, _ROW_PX, _LINE_PX = 150, 330, 50, 15, 12
_FAULT_CHARACTERS_MAX = 46  # what fits the column on the left; the rest is shown when pointed at
_GAP_MS_MAX = 40  # longer silences are drawn this long
_COLORS = {
    "PRE-PREPARE": "#1664c0",
    "PREPARE": "#4c9be8",
    "COMMIT": "#1a8f4c",
    "CHECKPOINT": "#8a6d1d",
    "SUSPECT": "#c0392b",
    "TIMEOUT": "#c0392b",
    "VIEW-CHANGE": "#a0309a",
    "NEW-VIEW": "#6b2fb3",
}


def render_html(title: str, entries: list[Arrow | Remark], nodes: int, arrows_max: int = 6_000) -> str:
    """A self-contained page with a message-sequence picture; what goes beyond `arrows_max` entries is left out."""
    shown = entries[:arrows_max]
    times = sorted(
        {
            at
            for entry in shown
            for at in ((entry.at_ms,) if isinstance(entry, Remark) else (entry.sent_ms, entry.arrived_ms))
            if at is not None
        }
    )
    place = dict.fromkeys(times[:1], _TOP_PX)
    lines = _lines_of(shown)
    tallest: Counter[int] = Counter()
    for remark, line in lines.items():
        tallest[remark.at_ms] = max(tallest[remark.at_ms], line)
    for before, after in pairwise(times):
        gap_px = max(_ROW_PX, min(after - before, _GAP_MS_MAX))
        place[after] = place[before] + gap_px + tallest[before] * _LINE_PX
    height_px = max(place.values(), default=_TOP_PX) + 60
    width_px = _LEFT_PX + nodes * _COLUMN_PX + 40
    columns = [_LEFT_PX + index * _COLUMN_PX + _COLUMN_PX // 2 for index in range(nodes)]
    parts = [_frame_of(columns, height_px)]
    parts += [f'<text class="t" x="6" y="{y + 4}">{time / 1000:.3f}</text>' for time, y in place.items()]
    parts += [_draw(entry, columns, place, lines) for entry in shown]
    left_out = f"<p>{len(entries) - len(shown)} more are left out.</p>" if len(shown) < len(entries) else ""
    return _PAGE.format(
        title=html.escape(title), left_out=left_out, width=width_px, height=height_px, body="\n".join(parts)
    )


def _frame_of(columns: list[int], height_px: int) -> str:
    return "".join(
        f'<text class="n" x="{x}" y="28">node {index}</text>'
        f'<line class="life" x1="{x}" x2="{x}" y1="36" y2="{height_px}"/>'
        for index, x in enumerate(columns)
    )


def _lines_of(entries: list[Arrow | Remark]) -> dict[Remark, int]:
    """Several remarks on one node at one time stand below each other."""
    count: Counter[tuple[int, int | None]] = Counter()
    lines: dict[Remark, int] = {}
    for entry in entries:
        if isinstance(entry, Remark) and entry not in lines:
            lines[entry] = count[entry.at_ms, entry.node]
            count[entry.at_ms, entry.node] += 1
    return lines


def _draw(entry: Arrow | Remark, columns: list[int], place: dict[int, int], lines: dict[Remark, int]) -> str:
    if isinstance(entry, Remark):
        x = 62 if entry.node is None else columns[entry.node] + 5
        y = place[entry.at_ms] + 4 + lines[entry] * _LINE_PX
        style = "all" if entry.node is None else "r"
        text, tip = html.escape(entry.text[:_FAULT_CHARACTERS_MAX]), html.escape(entry.text)
        return f'<text class="{style}" x="{x}" y="{y}">{text}<title>{tip}</title></text>'
    what = describe(entry.kind, entry.payload)
    color = _COLORS.get(what.split()[0], "#888")
    x1, x2, y1 = columns[entry.sender], columns[entry.receiver], place[entry.sent_ms]
    tip = f"<title>{html.escape(f'{entry.sender} to {entry.receiver}: {what}')}</title>"
    lost = entry.arrived_ms is None
    if entry.arrived_ms is None:
        x2, y2 = x1 + (x2 - x1) // 4, y1 + 3
        end = f'<text class="x" x="{x2}" y="{y2}">x</text>'
    else:
        y2 = place[entry.arrived_ms]
        end = f'<circle cx="{x2}" cy="{y2}" r="2.5"/>'
    dashes = ' stroke-dasharray="3"' if lost else ""
    line = f'<line{dashes} x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    return f'<g stroke="{color}" fill="{color}">{line}{end}{tip}</g>'


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 1rem; background: #fff; color: #222 }}
svg {{ border: 1px solid #ddd }} line {{ stroke-width: 1.2 }} g:hover line {{ stroke-width: 3 }}
.life {{ stroke: #ccc }} .t {{ font: 10px monospace; fill: #777 }} .n {{ font-weight: 600; text-anchor: middle }}
.r {{ font-size: 10px; fill: #333 }}
.all {{ font-size: 11px; fill: #b00; font-weight: 600 }} .x {{ fill: #b00; stroke: none }}
.key span {{ margin-right: 1em }}
</style>
<h1>{title}</h1>
<p class="key"><span style="color:#1664c0">pre-prepare</span><span style="color:#4c9be8">prepare</span>
<span style="color:#1a8f4c">commit</span><span style="color:#8a6d1d">checkpoint</span>
<span style="color:#c0392b">suspect, timeout</span><span style="color:#a0309a">view change</span>
<span style="color:#6b2fb3">new view</span><span style="color:#888">others</span>
Time runs downwards, in seconds; long silences are cut short. Dashed: lost. Point at a line to read it.</p>
{left_out}
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">
{body}
</svg></html>
"""
