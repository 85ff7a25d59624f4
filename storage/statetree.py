"""The state after the tip, and its commitment at the last checkpoint.

Entries lie in buckets by the hash of their key. The commitment (ledger/stateproof.py) is computed at checkpoints only,
and so is the state written: on disk it is always that of the last root, to which proofs lead, and what has changed
since is in memory. Whoever opens it executes the blocks above that root again. `StateTree` keeps its digests in memory
(2.2 MB) and on disk the leaves alone.

Everything is staged first and adopted after the caller's atomic write: a write that fails leaves memory as it was.

Must not know: blocks, or what a key means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from itertools import groupby

from ledger.codec import Value, decode
from ledger.errors import CodecError
from ledger.state import Change, Changes
from ledger.stateproof import (
    BUCKET_ENTRIES_MAX,
    BUCKETS,
    DIGEST_SIZE_BYTES,
    EMPTY_BUCKET,
    ENTRY_SIZE_BYTES,
    FANOUT,
    LEVELS,
    StateProof,
    bucket_hash,
    bucket_of,
    entry_position,
    hash_key,
    parent_hash,
    root_hash,
)
from storage import schema
from storage.errors import Corruption
from storage.kv import KeyValue
from storage.leaves import LeafLog, LeafRow, present

BUCKET_CACHE_SIZE_BYTES_MAX = 96 * 1024 * 1024  # bucket contents as hashes: 1.4 million entries without re-reading
VALUE_CACHE_SIZE_BYTES_MAX = 32 * 1024 * 1024  # of encoded size, in each of two generations; decoded about three times
_VALUE_OVERHEAD_BYTES = 200  # what a small entry costs beside its bytes
# Our own records, already bounded when written: these only stop a damaged length from taking all memory.
_RECORD_SIZE_BYTES_MAX = 1 << 30
_RECORD_ITEMS_MAX = 1 << 26
_RECORD_DEPTH_MAX = 64


Rows = list[bytes]
"""One level: each sixteen siblings' digests, joined as their parent hashes them. A changed tree shares most rows."""


@dataclass(frozen=True, slots=True)
class TreeChange:
    """A computed but not yet adopted tree: new digests by bucket, new bucket contents, all levels."""

    root: bytes
    leaves: dict[int, bytes]
    buckets: dict[int, bytes]
    levels: tuple[Rows, ...]

    def prove(self, key: bytes) -> StateProof:
        """A proof, under `root`, of an entry that is among the changes."""
        bucket = bucket_of(hash_key(key))
        return _proof(self.levels, bucket, self.buckets[bucket])


@cache
def _empty_levels() -> tuple[Rows, ...]:
    """All levels of a tree without entries; copied, never changed."""
    digest = EMPTY_BUCKET
    levels: list[Rows] = []
    for depth in range(1, LEVELS + 1):
        row = digest * FANOUT
        levels.append([row] * (BUCKETS // FANOUT**depth))
        digest = parent_hash(row)
    return tuple(levels)


def _with_leaves(before: tuple[Rows, ...], leaves: Mapping[int, bytes]) -> tuple[Rows, ...]:
    """All levels with other leaves, and everything above them computed anew; `before` stays."""
    levels = tuple(map(list, before))
    above = leaves
    for rows in levels:
        changed: dict[int, bytearray] = {}
        for index, digest in above.items():
            number, place = divmod(index, FANOUT)
            row = changed.get(number)
            if row is None:
                row = changed[number] = bytearray(rows[number])
            row[place * DIGEST_SIZE_BYTES : (place + 1) * DIGEST_SIZE_BYTES] = digest
        for number, row in changed.items():
            rows[number] = bytes(row)
        above = {number: parent_hash(rows[number]) for number in changed}
    return levels


class StateTree:
    """The digests of all levels, and a cache of bucket contents as of the root.

    `read_bucket` gives a bucket's entries (64 bytes each, sorted) when the cache has not.
    """

    def __init__(self, leaves: Mapping[int, bytes], read_bucket: Callable[[int], bytes]) -> None:
        self._read_bucket = read_bucket
        self._buckets: dict[int, bytes] = {}
        self._buckets_size_bytes = 0
        self._levels = _with_leaves(_empty_levels(), leaves)
        self.root = root_hash(parent_hash(self.top()))

    def stage(self, changes: Iterable[tuple[bytes, bytes | None]]) -> TreeChange:
        """The tree after `changes`: (key hash, value hash), None deleting. Their order does not matter."""
        buckets: dict[int, bytes] = {}
        for key_hash, value_hash in changes:
            bucket = bucket_of(key_hash)
            entries = buckets.get(bucket)
            if entries is None:
                entries = self.entries(bucket)
            buckets[bucket] = _changed(entries, key_hash, value_hash)
        leaves = {bucket: bucket_hash(entries) for bucket, entries in buckets.items()}
        levels = _with_leaves(self._levels, leaves)
        return TreeChange(root_hash(parent_hash(levels[-1][0])), leaves, buckets, levels)

    def adopt(self, change: TreeChange) -> None:
        """Make a staged change the tree."""
        self._levels = change.levels
        self.root = change.root
        for bucket, entries in change.buckets.items():
            self._buckets_size_bytes += len(entries) - len(self._buckets.pop(bucket, b""))
            self._buckets[bucket] = entries
        while self._buckets_size_bytes > BUCKET_CACHE_SIZE_BYTES_MAX:
            oldest = next(iter(self._buckets))
            self._buckets_size_bytes -= len(self._buckets.pop(oldest))

    def update(self, changes: Iterable[tuple[bytes, bytes | None]]) -> bytes:
        """Stage and adopt; the new root."""
        change = self.stage(changes)
        self.adopt(change)
        return change.root

    def cached_bucket(self, bucket: int) -> bytes | None:
        """The entries at the root, if at hand; those of an empty bucket always are."""
        entries = self._buckets.get(bucket)
        return b"" if entries is None and self.leaf(bucket) == EMPTY_BUCKET else entries

    def entries(self, bucket: int) -> bytes:
        """The same, read where they are not at hand."""
        entries = self.cached_bucket(bucket)
        return self._read_bucket(bucket) if entries is None else entries

    def lacks(self, key_hash: bytes) -> bool:
        """Whether it is known at once that the root has no such key, as of most that are new: nothing is read then."""
        entries = self.cached_bucket(bucket_of(key_hash))
        return entries is not None and key_hash not in entries

    def leaf(self, bucket: int) -> bytes:
        number, place = divmod(bucket, FANOUT)
        return self._levels[0][number][place * DIGEST_SIZE_BYTES : (place + 1) * DIGEST_SIZE_BYTES]

    def leaves(self, first: int, count: int) -> bytes:
        """The digests of `count` buckets from `first` on."""
        rows = b"".join(self._levels[0][first // FANOUT : (first + count - 1) // FANOUT + 1])
        skipped = first % FANOUT * DIGEST_SIZE_BYTES
        return rows[skipped : skipped + count * DIGEST_SIZE_BYTES]

    def top(self) -> bytes:
        """The sixteen digests under the root."""
        return self._levels[-1][0]

    def prove(self, bucket: int, entries: bytes) -> StateProof:
        """A proof from a bucket's entries at the root."""
        return _proof(self._levels, bucket, entries)


def _proof(levels: tuple[Rows, ...], bucket: int, entries: bytes) -> StateProof:
    siblings: list[bytes] = []
    index = bucket
    for level in levels:
        index, place = divmod(index, FANOUT)
        row, at = level[index], place * DIGEST_SIZE_BYTES
        siblings += (row[:at], row[at + DIGEST_SIZE_BYTES :])
    return StateProof(entries, b"".join(siblings))


def _changed(entries: bytes, key_hash: bytes, value_hash: bytes | None) -> bytes:
    """A bucket with one entry put or (None) removed."""
    at = entries.find(key_hash)  # three times as fast as halving, and an update mostly finds its key
    if at % ENTRY_SIZE_BYTES:
        at = entry_position(entries, key_hash)
    present = entries[at : at + DIGEST_SIZE_BYTES] == key_hash
    rest = entries[at + ENTRY_SIZE_BYTES if present else at :]
    return entries[:at] + rest if value_hash is None else entries[:at] + key_hash + value_hash + rest


def _hashed_values(entries: Iterable[tuple[bytes, bytes | None]]) -> Iterator[tuple[bytes, bytes | None]]:
    """(key hash, value hash) of (key hash, encoded value); neighbours are often one value."""
    last: bytes | None = None
    value_hash: bytes | None = None
    for key_hash, data in entries:
        if data is not last:
            last, value_hash = data, None if data is None else sha256(data).digest()
        yield key_hash, value_hash


class ValueCache:
    """Values with their encodings by key, (None, None) for known absence, in two generations: what is not asked for
    again is dropped.
    """

    __slots__ = ("_old", "_size_bytes", "young")

    def __init__(self) -> None:
        self.young: Changes = {}
        self._old: Changes = {}
        self._size_bytes = 0

    def get_old(self, key: bytes) -> Change | None:
        """The entry, moved to the young generation; None if not here."""
        entry = self._old.get(key)
        if entry is not None:
            self.put(key, entry)
        return entry

    def put(self, key: bytes, entry: Change) -> None:
        data = entry[1]
        self._size_bytes += len(key) + _VALUE_OVERHEAD_BYTES + (0 if data is None else len(data))
        if self._size_bytes > VALUE_CACHE_SIZE_BYTES_MAX:
            self._old, self.young, self._size_bytes = self.young, {}, 0
        self.young[key] = entry

    def put_all(self, entries: Changes) -> None:
        """A block's at once."""
        size_bytes = _VALUE_OVERHEAD_BYTES * len(entries)
        size_bytes += sum([len(key) + (0 if data is None else len(data)) for key, (_, data) in entries.items()])
        self._size_bytes += size_bytes
        if self._size_bytes > VALUE_CACHE_SIZE_BYTES_MAX:
            self._old, self.young, self._size_bytes = self.young, {}, size_bytes
        self.young.update(entries)


@dataclass(frozen=True, slots=True)
class ProvenState:
    """An entry as it was at `height`, the last root's: encoded value (None: absent), root and proof."""

    height: int
    root: bytes
    value_bytes: bytes | None
    proof: StateProof


@dataclass(slots=True)
class StagedState:
    """One block's changes, not yet made; at a checkpoint also `puts` and `deletes` for the store, and the tree."""

    height: int
    changes: Changes
    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: list[bytes] = field(default_factory=list)
    tree: TreeChange | None = None
    leaves: LeafRow | None = None


class StateStore:
    """The state at the tip (`get` is the rules' Reader), and its tree at the last root."""

    def __init__(self, kv: KeyValue, root_height: int) -> None:
        self._kv = kv
        self.root_height = root_height
        self._cache = ValueCache()
        self._changed: Changes = {}  # since the root
        self._leaves = LeafLog()
        self.tree = StateTree(self._leaves.read(kv), self._read_bucket)

    @property
    def leaves_height(self) -> int:
        """The last one whose changes are among the digests on disk; -1 if none is."""
        return self._leaves.next_number - 1

    def get(self, key: bytes, /) -> Value:
        """The decoded value at the tip; None when absent."""
        entry = self._cache.young.get(key)
        return self._entry(key)[0] if entry is None else entry[0]

    def get_bytes(self, key: bytes) -> bytes | None:
        """The encoded value at the tip; None when absent."""
        entry = self._cache.young.get(key)
        return self._entry(key)[1] if entry is None else entry[1]

    def _entry(self, key: bytes) -> Change:
        """Of a key that is not in the cache's young generation."""
        entry = self._cache.get_old(key)
        if entry is None:
            entry = self._changed.get(key)
            if entry is None:
                data = self.get_bytes_at_root(key)
                entry = (None, None) if data is None else (decode_record(data, key), data)
            self._cache.put(key, entry)
        return entry

    def get_bytes_at_root(self, key: bytes) -> bytes | None:
        """The encoded value as of the last root; None when absent."""
        key_hash = hash_key(key)
        return None if self.tree.lacks(key_hash) else self._kv.get(schema.state_entry(key, key_hash))

    def stage(self, changes: Changes, height: int, *, seal: bool) -> StagedState:
        """Prepare a block's changes; `seal` computes the root, and writes all that changed since the last one."""
        staged = StagedState(height, changes)
        if seal:
            hashed: list[tuple[bytes, bytes | None]] = []
            for key, (_, data) in {**self._changed, **changes}.items():
                key_hash = hash_key(key)
                entry = schema.state_entry(key, key_hash)
                if data is None:
                    staged.deletes.append(entry)
                else:
                    staged.puts[entry] = data
                hashed.append((key_hash, data))
            self._stage_root(staged, self.tree.stage(_hashed_values(hashed)))
        return staged

    def _stage_root(self, staged: StagedState, tree: TreeChange) -> None:
        if tree.leaves:
            row = staged.leaves = self._leaves.add(
                staged.height, tree.leaves, lambda: present(b"".join(tree.levels[0]))
            )
            staged.puts[row.key] = row.data
            staged.deletes += row.replaced
        staged.puts[schema.at_height(schema.ROOT, staged.height)] = tree.root
        staged.tree = tree

    def adopt(self, staged: StagedState) -> None:
        """Move memory on to what has been written."""
        self._cache.put_all(staged.changes)
        if staged.tree is None:
            self._changed.update(staged.changes)
        else:
            self.tree.adopt(staged.tree)
            if staged.leaves is not None:
                self._leaves.adopt(staged.leaves)
            self.root_height = staged.height
            self._changed = {}

    def write(self, changes: Changes, height: int, *, seal: bool) -> bytes | None:
        """Stage, write and adopt a state that has no chain beside it; the new root if sealed."""
        staged = self.stage(changes, height, seal=seal)
        if seal:
            self._kv.write(staged.puts.items(), staged.deletes, sync=True)
        self.adopt(staged)
        return None if staged.tree is None else staged.tree.root

    def prove(self, key: bytes) -> ProvenState:
        """The entry as of the last root. ValueError when its bucket is too full for any verifier."""
        bucket = bucket_of(hash_key(key))
        entries = self.tree.entries(bucket)
        if len(entries) > BUCKET_ENTRIES_MAX * ENTRY_SIZE_BYTES:
            raise ValueError(f"bucket {bucket} holds more than {BUCKET_ENTRIES_MAX} entries")
        return ProvenState(
            self.root_height, self.tree.root, self.get_bytes_at_root(key), self.tree.prove(bucket, entries)
        )

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, encoded value) at the last root, in the order they are stored."""
        size = len(schema.STATE) + schema.BUCKET_SIZE_BYTES
        return ((key[size:], value) for key, value in self._kv.scan_prefix(schema.STATE))

    def check_leaves(self) -> None:
        """Recompute every bucket from the stored entries; Corruption names the first that differs."""
        stored: dict[int, bytes] = {}
        size = len(schema.STATE) + schema.BUCKET_SIZE_BYTES
        for prefix, rows in groupby(self._kv.scan_prefix(schema.STATE), lambda row: row[0][:size]):
            stored[int.from_bytes(prefix[1:], "big")] = bucket_hash(_hashed_entries(rows))
        for bucket in range(BUCKETS):
            if stored.get(bucket, EMPTY_BUCKET) != self.tree.leaf(bucket):
                raise Corruption(f"state bucket {bucket} differs from its hash at height {self.root_height}")

    def _read_bucket(self, bucket: int) -> bytes:
        return _hashed_entries(self._kv.scan_prefix(schema.bucket_prefix(bucket)))


def _hashed_entries(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A bucket's contents from its rows as stored."""
    size = len(schema.STATE) + schema.BUCKET_SIZE_BYTES
    return b"".join(sorted(hash_key(key[size:]) + sha256(value).digest() for key, value in rows))


def decode_record(data: bytes, key: bytes) -> Value:
    """Decode what this package wrote; Corruption if it cannot be."""
    try:
        return decode(
            data,
            size_bytes_max=_RECORD_SIZE_BYTES_MAX,
            items_max=_RECORD_ITEMS_MAX,
            depth_max=_RECORD_DEPTH_MAX,
        )
    except CodecError as error:
        raise Corruption(f"record {key.hex()} cannot be decoded: {error}") from None
