"""A flame graph as SVG: each sampled frame above its caller, as wide as its share, coloured by stage.

Hovering shows name and share; what would be narrower than a pixel is left out.

Must not know: how samples are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from bench.stages import STAGES, WAITING, Stack, stage_of
from bench.svg import document

WIDTH, ROW, HEAD = 1_400, 17, 52
WIDTH_MIN = 1.0
OWN_SHARE_MIN = 0.75  # of one stage in what is above a frame, for the frame to have its colour
MIXED = "#e9e9e9"
CHARACTER = 6.6  # the width of one at this size, nearly
FILLS = (
    "#f4a261", "#e76f51", "#e9c46a", "#8ab17d", "#2a9d8f", "#6d9dc5", "#577590", "#b5838d", "#9d8df1", "#c9b79c",
    "#999999",
)  # fmt: skip


@dataclass(slots=True)
class _Box:
    """A frame at one place of the graph, with the samples of all above it by stage."""

    name: str
    count: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    above: dict[str, _Box] = field(default_factory=dict)


def to_svg(stacks: Mapping[Stack, int], title: str) -> str:
    root = _Box("all")
    for stack, count in stacks.items():
        stage = stage_of(stack)
        if stage == WAITING:
            continue
        for box in _path(root, stack):
            box.count += count
            box.stages[stage] = box.stages.get(stage, 0) + count
    height = HEAD + ROW * (_depth(root) + 1)
    parts = [f'<text x="8" y="20" font-size="15">{escape(title)}</text>']
    for place, stage in enumerate(STAGES):
        x = 8 + place * 126
        parts.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{FILLS[place]}"/>')
        parts.append(f'<text x="{x + 16}" y="40">{escape(stage)}</text>')
    parts += _drawn(root, 0.0, WIDTH / max(root.count, 1), height - ROW, max(root.count, 1))
    return document(WIDTH, height, parts)


def _path(root: _Box, stack: Stack) -> Iterator[_Box]:
    box = root
    yield box
    for function, file in stack:
        name = f"{function} ({file})"
        box = box.above.setdefault(name, _Box(name))
        yield box


def _depth(box: _Box) -> int:
    return 1 + max(map(_depth, box.above.values()), default=0)


def _drawn(box: _Box, x: float, scale: float, y: float, total: int) -> Iterator[str]:
    width = box.count * scale
    if width < WIDTH_MIN:
        return
    stage = max(box.stages, key=lambda stage: box.stages[stage], default=STAGES[-1])
    fill = FILLS[STAGES.index(stage)] if box.stages.get(stage, 0) >= OWN_SHARE_MIN * box.count else MIXED
    label = f"{box.name}: {box.count / total:.1%}"
    yield f'<g><title>{escape(label)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{ROW - 1}" '
    yield f'fill="{fill}" rx="1"/>'
    room = int((width - 6) / CHARACTER)
    if room >= 3:
        yield f'<text x="{x + 3:.1f}" y="{y + 12:.1f}" font-size="11">{escape(box.name[:room])}</text>'
    yield "</g>"
    for child in sorted(box.above.values(), key=lambda child: child.name):
        yield from _drawn(child, x, scale, y - ROW, total)
        x += child.count * scale
