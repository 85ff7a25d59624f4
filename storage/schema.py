"""Every key of the chain store, in one table. The first byte of a key says what it holds; integers in keys are
big-endian, so that keys sort as numbers do. The same table, with examples, is in docs/storage.md.

    key                                       value
    M name                                    `format`: FORMAT; `genesis`: its JSON; `tip`: Tip; `pruned`: height(8);
                                              `indexed`: height(8) up to which indexes know nothing
    M `muted` public key(33)                  empty: this key signs nothing any more
    M `diverged`                              height(8) root(33) that a quorum certified, and this node does not have
    M `logged`                                first(8) last(8) size(8): segments and bytes that the log had for certain
    M `refetch`                               height(8): up to there blocks were lost, and no key signs before
    P height(8)                               (proposal, commit certificate)
    B height(8) number(2)                     a batch as it travelled, byte for byte: that many before it in this block
    D batch digest(33)                        height(8) number(2) of `B`, height(8) of the last block that ordered it
    H height(8)                               header
    E height(8)                               results hash (33) after that block; height 0: before the first
    R height(8)                               of a block: what is not a plain success, if anything: ((position, code,
                                              detail), ...)
    T transaction id(33)                      height(8) position(4) of its first execution
    I index hash(20) height(8)                positions(4 each) in that block, ascending
    S bucket(2) state key                     state value at the last root
    L height(8)                               bucket(2) hash(32), for each state bucket that the checkpoint changed;
                                              in the first row perhaps all that are not empty
    O height(8)                               state root (33), at checkpoints and at 0
    C height(8)                               checkpoint certificate
    V epoch(8)                                validator set
    K epoch(8)                                (validators of the next epoch, encoded; entries; siblings): their proof
                                              under the state root at the epoch's end

Values are canonical encodings unless sizes are given. Must not know: what a key-value store is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from struct import Struct, pack, unpack

FORMAT = b"medchain/store/6"

META, PROPOSAL, BATCH, ORDERED, HEADER, RESULTS = b"M", b"P", b"B", b"D", b"H", b"E"
EXCEPTIONS, TRANSACTION, INDEX = b"R", b"T", b"I"
STATE, LEAF, ROOT = b"S", b"L", b"O"
CHECKPOINT, VALIDATORS, LINK = b"C", b"V", b"K"

FORMAT_KEY = META + b"format"
GENESIS_KEY = META + b"genesis"
TIP_KEY = META + b"tip"
PRUNED_KEY = META + b"pruned"
DIVERGED_KEY = META + b"diverged"
INDEXED_KEY = META + b"indexed"
REFETCH_KEY = META + b"refetch"
LOGGED_KEY = META + b"logged"
MUTED = META + b"muted"

BUCKET_SIZE_BYTES = 2
INDEX_HASH_SIZE_BYTES = 20  # nobody finds two names in 2^80 tries; each byte is paid for in every entry

# (bytes of a key, bytes of its value) where they are of one size; 0: of any.
_SIZES = {
    PROPOSAL: (9, 0), BATCH: (11, 0), ORDERED: (34, 18), HEADER: (9, 0), RESULTS: (9, 33), EXCEPTIONS: (9, 0),
    TRANSACTION: (34, 12), INDEX: (29, 0), STATE: (0, 0), LEAF: (9, 0), ROOT: (9, 33),
    CHECKPOINT: (9, 0), VALIDATORS: (9, 0), LINK: (9, 0), META: (0, 0),
}  # fmt: skip
_META_SIZES = {PRUNED_KEY: 8, DIVERGED_KEY: 41, INDEXED_KEY: 8, REFETCH_KEY: 8, LOGGED_KEY: 24}

_HEIGHT = Struct(">Q")
_PLACE = Struct(">QI")
_POSITION = Struct(">I")
_BUCKET = Struct(">H")
_BATCH = Struct(">QH")
_ORDERED = Struct(">QHQ")
ORDERED_SIZE_BYTES = _ORDERED.size

pack_height = _HEIGHT.pack
pack_place = _PLACE.pack
pack_bucket = _BUCKET.pack


def unpack_height(data: bytes) -> int:
    """The height from its 8 bytes."""
    height: int = _HEIGHT.unpack(data)[0]
    return height


def unpack_place(data: bytes) -> tuple[int, int]:
    """(height, position) from its 12 bytes."""
    height, position = _PLACE.unpack(data)
    return height, position


pack_ordered = _ORDERED.pack


def unpack_ordered(data: bytes) -> tuple[int, int, int]:
    """(height, number, last height) from the 18 bytes of an `ORDERED` value."""
    height, number, last = _ORDERED.unpack(data)
    return height, number, last


def batch_key(height: int, number: int) -> bytes:
    """Where a batch lies. Under heights, so that what is written later sorts later: a log-structured store moves such
    tables as they are, and merges those of random keys again and again."""
    return BATCH + _BATCH.pack(height, number)


def at_height(prefix: bytes, height: int) -> bytes:
    """The key of what `prefix` holds for a height (or epoch)."""
    return prefix + _HEIGHT.pack(height)


def height_of(key: bytes) -> int:
    """The height in a key made by `at_height`."""
    height: int = _HEIGHT.unpack_from(key, 1)[0]
    return height


def is_shaped(key: bytes, value: bytes) -> bool:
    """Whether a row's key and value have the sizes of its kind. All that this software writes has."""
    key_size, value_size = _SIZES.get(key[:1], (-1, 0))
    return key_size in (0, len(key)) and _META_SIZES.get(key, value_size) in (0, len(value))


def next_key(key: bytes) -> bytes:
    """The first key after `key`."""
    return key + b"\x00"


@lru_cache(maxsize=256)
def _sized(name: str) -> bytes:
    encoded = name.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def index_prefix(name: str, key: bytes) -> bytes:
    """What all entries of `key` in index `name` start with. Hashed, so that one key is never the start of another."""
    return INDEX + sha256(_sized(name) + key).digest()[:INDEX_HASH_SIZE_BYTES]


def pack_positions(positions: Sequence[int]) -> bytes:
    """The value of an index entry."""
    if len(positions) == 1:  # nearly always
        return _POSITION.pack(positions[0])
    return pack(f">{len(positions)}I", *positions)


def unpack_positions(data: bytes) -> tuple[int, ...]:
    """The reverse; ValueError for what is no such value."""
    count, rest = divmod(len(data), 4)
    if rest or not count:
        raise ValueError("not a list of positions")
    return unpack(f">{count}I", data)


def indexed_height(key: bytes) -> int:
    """The height in the key of an index entry."""
    height: int = _HEIGHT.unpack_from(key, len(INDEX) + INDEX_HASH_SIZE_BYTES)[0]
    return height


def state_entry(key: bytes, key_hash: bytes) -> bytes:
    """Where a state entry is kept: its bucket first, so that a bucket is one range."""
    return STATE + key_hash[:BUCKET_SIZE_BYTES] + key


def bucket_prefix(bucket: int) -> bytes:
    """What the entries of a bucket start with."""
    return STATE + pack_bucket(bucket)
