"""The whole generated business as one ordered stream of steps, the same for the same seed and time.

Must not know: how steps are carried out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from node.workload.care import care_story, new_person
from node.workload.cast import Cast
from node.workload.goods import FRAUDS, fraud_story, supply_story
from node.workload.money import claim_story, transfer_story
from node.workload.steps import Step

__all__ = ["SIZES", "Size", "generate"]

TRANSFERS_PER_STORY = 10


@dataclass(frozen=True, slots=True)
class Size:
    """How many stories of each kind; every fraud is tried `frauds` times."""

    lots: int
    patients: int
    frauds: int
    payments: int

    @property
    def stories(self) -> int:
        return self.lots + self.patients + self.frauds * len(FRAUDS) + self.payments


SIZES = {
    "small": Size(lots=4, patients=5, frauds=1, payments=2),  # about 500 transactions
    "normal": Size(lots=28, patients=30, frauds=2, payments=12),  # about 2,200
}


def generate(rng: Random, cast: Cast, now_ms: int, size: Size) -> list[Step]:
    """Admits the patients to `cast`. Stories are mixed, each in its order; `now_ms` is about the chain's time."""
    stories: list[Iterator[Step]] = []
    number = iter(range(1, size.stories + 1))
    stories += [supply_story(rng, cast, next(number), now_ms) for _ in range(size.lots)]
    for index in range(size.patients):
        person = new_person(rng, index)
        cast.admit(person.name, rng)
        story = next(number)
        stories.append(
            _chained(care_story(rng, cast, story, now_ms, person), claim_story(rng, cast, story, now_ms, person))
        )
    for _ in range(size.frauds):
        stories += [fraud_story(rng, cast, next(number), now_ms, kind) for kind in FRAUDS]
    stories += [transfer_story(rng, cast, next(number), TRANSFERS_PER_STORY) for _ in range(size.payments)]
    return _mixed(rng, [list(story) for story in stories])


def _chained(*parts: Iterator[Step]) -> Iterator[Step]:
    for part in parts:
        yield from part


def _mixed(rng: Random, stories: list[list[Step]]) -> list[Step]:
    """One stream: each story keeps its order, and all go on at about the same pace."""
    keyed = []
    for number, story in enumerate(stories):
        start = rng.random()
        keyed += [((position + start) / len(story), number, position) for position in range(len(story))]
    return [stories[number][position] for _, number, position in sorted(keyed)]
