"""What committing to the state costs, for two designs at several sizes: the measurement behind docs/adr/0009.

python -m bench.statetrees                      10,000 and 1 million keys (some minutes)
python -m bench.statetrees --keys 10000000      one size; 10 million take half an hour and 6 GiB of disk

Both keep the same entries in LevelDB and are updated at checkpoints of 1,000 changed keys, nine in ten of them known,
spread evenly, as hashed keys are. `entries` is the cost of the entries alone, without any commitment. Times are
processor time, single-threaded; compare the columns of one row, not rows of two runs.

Must not know: the chain. The design that was not chosen lives only here.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Protocol

from ledger.codec import encode
from storage.leveldb import LevelDB
from storage.statetree import StateStore

SIZES = (10_000, 1_000_000)
CHECKPOINT_KEYS = 1_000
BULK_KEYS = 20_000
CHECKPOINTS = 40
PROOFS = 400
NODE_CACHE_MAX = 700_000  # of about 140 bytes: as much memory as the buckets' cache may take

EMPTY = bytes(32)

Update = tuple[bytes, bytes]  # key, encoded value


class Design(Protocol):
    """A way to commit to a set of entries."""

    def update(self, updates: list[Update]) -> None: ...

    def proof(self, key: bytes) -> tuple[int, float]:
        """Size in bytes, and seconds to check one."""
        ...


class EntriesAlone:
    """The entries in LevelDB and nothing else, read before they are written as execution does."""

    def __init__(self, db: LevelDB) -> None:
        self._db = db

    def update(self, updates: list[Update]) -> None:
        for key, _ in updates:
            self._db.get(b"S" + sha256(key).digest()[:2] + key)
        self._db.write([(b"S" + sha256(key).digest()[:2] + key, value) for key, value in updates])

    def proof(self, key: bytes) -> tuple[int, float]:
        return 0, 0.0


class Buckets:
    """The product's: 2^16 buckets under a tree with 16 children a node, inner digests in memory."""

    def __init__(self, db: LevelDB) -> None:
        self._store = StateStore(db, 0)
        self._height = 0

    def update(self, updates: list[Update]) -> None:
        self._height += 1
        changes = {key: (value, value) for key, value in updates}
        self._store.write(changes, self._height, seal=True)  # type: ignore[arg-type]

    def proof(self, key: bytes) -> tuple[int, float]:
        proven = self._store.prove(key)
        began_s = time.process_time()
        assert proven.proof.verify(proven.root, key, proven.value_bytes)
        return len(encode(proven.proof.to_value())), time.process_time() - began_s


class SparseTree:
    """A binary sparse Merkle tree with compacted paths: a subtree of one entry is that entry's leaf. Nodes are kept in
    LevelDB by depth and path, with a cache of nodes; an update rehashes each shared path once."""

    def __init__(self, db: LevelDB) -> None:
        self._db = db
        self._cache: dict[bytes, bytes] = {}
        self._puts: dict[bytes, bytes] = {}
        self.root = EMPTY

    @staticmethod
    def _place(depth: int, path: int) -> bytes:
        """Where the node after `depth` bits of `path` is kept."""
        return b"N" + bytes([depth]) + (path >> (256 - depth) << (-depth % 8)).to_bytes((depth + 7) // 8, "big")

    def _node(self, depth: int, path: int) -> bytes:
        """64 bytes: two digests, or (after a mark) a leaf's key hash and value hash; empty: nothing below."""
        place = self._place(depth, path)
        found = self._puts.get(place)
        if found is None:
            found = self._cache.get(place)
        if found is None:
            found = self._db.get(place) or b""
            self._cache[place] = found
        return found

    def _put(self, depth: int, path: int, node: bytes) -> None:
        self._puts[self._place(depth, path)] = node

    @staticmethod
    def digest(node: bytes) -> bytes:
        return sha256(node).digest() if node else EMPTY

    def _merge(self, depth: int, path: int, leaves: list[tuple[int, bytes]]) -> bytes:
        """Put sorted (key hash as a number, leaf node) below a node; the new node."""
        known = self._node(depth, path)
        if known[:1] == b"L":
            other = int.from_bytes(known[1:33], "big")
            if all(number != other for number, _ in leaves):
                leaves = sorted([*leaves, (other, known)])
            known = b""
        if not known and len(leaves) == 1:
            self._put(depth, path, leaves[0][1])
            return leaves[0][1]
        bit = 1 << (255 - depth)
        left = [leaf for leaf in leaves if not leaf[0] & bit]
        right = leaves[len(left) :]
        before = (known[1:33], known[33:65]) if known else (EMPTY, EMPTY)
        digests = (
            self.digest(self._merge(depth + 1, path, left)) if left else before[0],
            self.digest(self._merge(depth + 1, path | bit, right)) if right else before[1],
        )
        node = b"I" + digests[0] + digests[1]
        self._put(depth, path, node)
        return node

    def update(self, updates: list[Update]) -> None:
        leaves, puts = [], []
        for key, value in updates:
            key_hash = sha256(key).digest()
            place = b"S" + key_hash[:2] + key
            self._db.get(place)
            puts.append((place, value))
            leaves.append((int.from_bytes(key_hash, "big"), b"L" + key_hash + sha256(value).digest()))
        leaves.sort()
        self.root = self.digest(self._merge(0, 0, leaves))
        self._db.write([*puts, *self._puts.items()], sync=True)
        if len(self._cache) > NODE_CACHE_MAX:
            self._cache.clear()
        self._cache.update(self._puts)
        self._puts.clear()

    def siblings(self, key: bytes) -> tuple[bytes, list[bytes]]:
        """The node where the path of `key` ends, and the digests beside it, from the root down."""
        path = int.from_bytes(sha256(key).digest(), "big")
        beside, depth, prefix = [], 0, 0
        while (node := self._node(depth, prefix))[:1] == b"I":
            bit = 1 << (255 - depth)
            one = bool(path & bit)
            beside.append(node[1:33] if one else node[33:65])
            prefix |= bit if one else 0
            depth += 1
        return node, beside

    def verify(self, key: bytes, node: bytes, beside: list[bytes]) -> bool:
        path = int.from_bytes(sha256(key).digest(), "big")
        digest = self.digest(node)
        for depth in range(len(beside) - 1, -1, -1):
            one = path & (1 << (255 - depth))
            digest = sha256(b"I" + (beside[depth] + digest if one else digest + beside[depth])).digest()
        return digest == self.root

    def proof(self, key: bytes) -> tuple[int, float]:
        node, beside = self.siblings(key)
        began_s = time.process_time()
        assert self.verify(key, node, beside)
        used = [digest for digest in beside if digest != EMPTY]
        return len(encode((node, tuple(used)))) + 32, time.process_time() - began_s


DESIGNS: Mapping[str, Callable[[LevelDB], Design]] = {"entries": EntriesAlone, "buckets": Buckets, "sparse": SparseTree}


def key_of(number: int) -> bytes:
    return b"drugs/packs/%016x" % number


def value_of(number: int, version: int) -> bytes:
    return encode((b"%032x" % (number * 0x9E3779B97F4A7C15 % (1 << 128)), version, "in_transit"))


def chunks(count: int, size: int) -> Iterator[range]:
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


def measure(name: str, keys: int, folder: Path) -> dict[str, float]:
    """One design at one size."""
    shutil.rmtree(folder, ignore_errors=True)
    db = LevelDB(folder, create=True)
    design = DESIGNS[name](db)
    began_s = time.process_time()
    for number, chunk in enumerate(chunks(keys, BULK_KEYS)):
        design.update([(key_of(number), value_of(number, 0)) for number in chunk])
        if number % 25 == 24:
            print(f"  {name}: {chunk.stop:,} of {keys:,} keys", end="\r", file=sys.stderr, flush=True)
    bulk_us = (time.process_time() - began_s) * 1e6 / keys
    random = Random(7)
    fresh = keys
    took_us: list[float] = []
    for version in range(1, CHECKPOINTS + 1):
        numbers = random.sample(range(keys), CHECKPOINT_KEYS * 9 // 10)
        numbers += range(fresh, fresh + CHECKPOINT_KEYS // 10)
        fresh += CHECKPOINT_KEYS // 10
        updates = [(key_of(number), value_of(number, version)) for number in numbers]
        began_s = time.process_time()
        design.update(updates)
        took_us.append((time.process_time() - began_s) * 1e6 / CHECKPOINT_KEYS)
    asked = [key_of(random.randrange(keys)) for _ in range(PROOFS // 2)]
    asked += [b"absent %d" % number for number in range(PROOFS // 2)]
    proofs = [design.proof(key) for key in asked]
    db.compact()
    db.close()
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    return {
        "bulk_us": bulk_us,
        "update_us": statistics.median(took_us),
        "update_max_us": max(took_us),
        "proof_bytes": statistics.mean(size for size, _ in proofs),
        "proof_bytes_max": max(size for size, _ in proofs),
        "check_us": statistics.median(took for _, took in proofs) * 1e6,
        "disk_bytes_a_key": size_bytes / fresh,
    }


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.statetrees", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, action="append", help="how many; may be given several times")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    given = parser.parse_args(None if arguments is None else list(arguments))
    folder = Path(mkdtemp(prefix="medchain-statetrees-"))
    print("| keys | design | bulk us/key | update us/key (max) | proof bytes (max) | check us | disk B/key |")
    print("|---|---|---|---|---|---|---|")
    try:
        for keys in given.keys or SIZES:
            for name in given.designs:
                found = measure(name, keys, folder / name)
                print(
                    f"| {keys:,} | {name} | {found['bulk_us']:.1f} | {found['update_us']:.1f} "
                    f"({found['update_max_us']:.0f}) | {found['proof_bytes']:,.0f} ({found['proof_bytes_max']:,.0f}) | "
                    f"{found['check_us']:.0f} | {found['disk_bytes_a_key']:.0f} |",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
