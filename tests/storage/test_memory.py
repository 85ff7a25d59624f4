"""What only the memory backend can do: a power cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.memory import UNSYNCED_WRITES_MAX, MemoryKeyValue

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
WRITES = st.lists(
    st.tuples(st.lists(st.tuples(KEYS, st.binary(max_size=2)), max_size=4), st.lists(KEYS, max_size=3), st.booleans()),
    max_size=12,
)


@given(WRITES, st.data())
def test_a_power_cut_leaves_synced_writes_and_a_prefix_of_the_others(writes: list[tuple], data: st.DataObject) -> None:
    kv = MemoryKeyValue()
    states: list[dict[bytes, bytes]] = [{}]
    for puts, deletes, sync in writes:
        kv.write(puts, deletes, sync=sync)
        state = {key: value for key, value in states[-1].items() if key not in deletes} | dict(puts)
        states = [state] if sync else [*states, state]
    assert kv.unsynced_count == len(states) - 1
    keep = data.draw(st.integers(0, kv.unsynced_count))
    survivor = kv.crash(keep)
    assert dict(survivor.scan(b"")) == states[keep]
    assert survivor.unsynced_count == 0
    assert dict(kv.scan(b"")) == states[-1], "other outcomes can still be tried"
    survivor.write([(b"later", b"1")])
    assert dict(survivor.crash(0).scan(b"")) == states[keep]


def test_an_empty_synced_write_makes_all_before_it_durable() -> None:
    kv = MemoryKeyValue()
    kv.write([(b"a", b"1")])
    kv.write((), (), sync=True)
    assert kv.crash(0).get(b"a") == b"1"


def test_a_crash_cannot_keep_more_than_was_written() -> None:
    kv = MemoryKeyValue()
    for keep in (-1, 1):
        with pytest.raises(ValueError, match="keep_unsynced"):
            kv.crash(keep)


def test_a_store_that_never_syncs_remembers_a_bounded_number_of_writes() -> None:
    kv = MemoryKeyValue()
    for number in range(UNSYNCED_WRITES_MAX + 10):
        kv.write([(b"%05d" % number, b"")])
    assert kv.unsynced_count == UNSYNCED_WRITES_MAX
    assert len(list(kv.crash(0).scan(b""))) == 10
