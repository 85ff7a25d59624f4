"""The contract of `storage.kv`, held against both backends and a plain dictionary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Closed
from storage.kv import KeyValue, prefix_end
from storage.leveldb import LevelDB
from storage.memory import MemoryKeyValue


@pytest.fixture(params=["memory", "leveldb"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = MemoryKeyValue() if request.param == "memory" else LevelDB(tmp_path / "db", create=True)
    yield opened
    opened.close()


KEYS = st.binary(max_size=3) | st.sampled_from([b"a", b"b", b"ab", b"\xff", b"\xff\xff", b""])
LIMITS = st.none() | st.integers(0, 4)
WRITES = st.tuples(
    st.just("write"),
    st.lists(st.tuples(KEYS, st.binary(max_size=4)), max_size=6),
    st.lists(KEYS, max_size=4),
    st.booleans(),
)
SCANS = st.tuples(st.just("scan"), KEYS, st.none() | KEYS, st.booleans(), LIMITS)
PREFIX_SCANS = st.tuples(st.just("prefix"), KEYS, st.booleans(), LIMITS)
OTHERS = st.sampled_from([("snapshot",), ("compact",), ("reopen",)])


def expected(model: dict[bytes, bytes], start: bytes, stop: bytes | None, reverse: bool, limit: int | None):
    found = sorted(item for item in model.items() if item[0] >= start and (stop is None or item[0] < stop))
    return (found[::-1] if reverse else found)[:limit]


@settings(max_examples=40, deadline=None)
@given(st.lists(WRITES | SCANS | PREFIX_SCANS | OTHERS, max_size=25))
def test_both_backends_do_what_a_sorted_dictionary_does(operations: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        level = LevelDB(Path(folder) / "db", create=True)
        memory = MemoryKeyValue()
        model: dict[bytes, bytes] = {}
        views: list[tuple[dict[bytes, bytes], list]] = []
        try:
            for operation in operations:
                match operation:
                    case ("write", puts, deletes, sync):
                        for backend in (level, memory):
                            backend.write(puts, deletes, sync=sync)
                        for key in deletes:
                            model.pop(key, None)
                        model.update(puts)
                    case ("scan", start, stop, reverse, limit):
                        wanted = expected(model, start, stop, reverse, limit)
                        for backend in (level, memory):
                            assert list(backend.scan(start, stop, reverse=reverse, limit=limit)) == wanted
                    case ("prefix", prefix, reverse, limit):
                        within = {key: value for key, value in model.items() if key.startswith(prefix)}
                        wanted = expected(within, b"", None, reverse, limit)
                        for backend in (level, memory):
                            assert list(backend.scan_prefix(prefix, reverse=reverse, limit=limit)) == wanted
                    case ("snapshot",):
                        views.append((dict(model), [level.snapshot(), memory.snapshot()]))
                    case ("compact",):
                        level.compact()
                        memory.compact()
                    case ("reopen",):
                        level.reopen()
                        views.clear()
                for backend in (level, memory):
                    assert [backend.get(key) for key in sorted(model)] == [model[key] for key in sorted(model)]
                for then, readers in views:
                    for reader in readers:
                        assert list(reader.scan(b"")) == sorted(then.items())
        finally:
            level.close()


@given(st.binary(max_size=5), st.binary(max_size=5))
def test_prefix_end_is_the_least_key_above_all_with_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (key >= prefix and (end is None or key < end))


def test_a_key_deleted_and_put_in_one_write_is_there_and_the_last_put_holds(kv: KeyValue) -> None:
    kv.write([(b"k", b"old")])
    kv.write([(b"k", b"1"), (b"k", b"2")], [b"k", b"absent"])
    assert kv.get(b"k") == b"2"


def test_a_write_that_fails_changes_nothing(kv: KeyValue) -> None:
    with pytest.raises(TypeError):
        kv.write([(b"a", b"1"), ("b", b"2")], [])  # type: ignore[list-item]
    assert kv.get(b"a") is None
    assert list(kv.scan(b"")) == []


def test_a_scan_shows_the_moment_it_was_asked_for(kv: KeyValue) -> None:
    kv.write([(b"%d" % digit, b"old") for digit in range(5)])
    scan = kv.scan(b"")
    kv.write([(b"%d" % digit, b"new") for digit in range(9)], [b"0"])
    assert list(scan) == [(b"%d" % digit, b"old") for digit in range(5)]


def test_a_snapshot_shows_its_moment_and_ends_with_its_close(kv: KeyValue) -> None:
    kv.write([(b"a", b"1"), (b"b", b"1")])
    with kv.snapshot() as view:
        kv.write([(b"a", b"2")], [b"b"])
        assert view.get(b"a") == b"1"
        assert view.get(b"absent") is None
        assert list(view.scan_prefix(b"", reverse=True)) == [(b"b", b"1"), (b"a", b"1")]
    with pytest.raises(Closed):
        view.get(b"a")
    with pytest.raises(Closed):
        view.scan(b"")


def test_after_close_everything_raises_and_a_second_close_does_nothing(kv: KeyValue) -> None:
    kv.write([(b"%03d" % number, b"v") for number in range(200)])
    scan, downwards, unstarted, view = (
        kv.scan(b""),
        kv.scan(b"", reverse=True),
        kv.scan(b"", reverse=True),
        kv.snapshot(),
    )
    assert len(list(islice(scan, 3))) == len(list(islice(downwards, 3))) == 3
    seen = view.scan(b"")
    next(seen)
    kv.close()
    kv.close()
    for use in (
        lambda: next(scan),
        lambda: next(downwards),
        lambda: next(unstarted),
        lambda: next(seen),
        lambda: view.get(b"000"),
        lambda: kv.get(b"000"),
        lambda: kv.write([(b"a", b"b")]),
        lambda: kv.scan(b""),
        lambda: kv.scan_prefix(b""),
        kv.snapshot,
        kv.compact,
        kv.approximate_size_bytes,
    ):
        with pytest.raises(Closed):
            use()
    view.close()


def test_a_long_scan_gives_everything_in_both_directions(kv: KeyValue) -> None:
    """More than is fetched at one go, with values that end a fetch early."""
    items = [(b"%04d" % number, bytes(1 + 9_000 * (number % 7 == 0))) for number in range(500)]
    kv.write(items)
    assert list(kv.scan(b"")) == items
    assert list(kv.scan(b"", reverse=True)) == items[::-1]
    assert list(kv.scan(b"0100", b"0400", limit=130)) == items[100:230]
    assert list(kv.scan(b"0100", b"0400", reverse=True, limit=130)) == items[270:400][::-1]


def test_a_negative_limit_is_refused_and_an_empty_range_is_empty(kv: KeyValue) -> None:
    kv.write([(b"a", b"1")])
    with pytest.raises(ValueError, match="limit"):
        kv.scan(b"", limit=-1)
    assert list(kv.scan(b"b", b"a")) == []
    assert list(kv.scan(b"a", b"a", reverse=True)) == []
    assert list(kv.scan(b"", limit=0)) == []


def test_a_range_whose_one_key_is_its_start_is_found_downwards(kv: KeyValue) -> None:
    kv.write([(b"a", b"1"), (b"c", b"2")])
    assert list(kv.scan(b"a", b"b", reverse=True)) == [(b"a", b"1")]
    assert list(kv.scan(b"c", reverse=True)) == [(b"c", b"2")]
    assert list(kv.scan_prefix(b"a", reverse=True, limit=1)) == [(b"a", b"1")]
