"""Checks a proof bundle: one fact about a chain, from the validators its reader trusts. No node, network or database.

This file is made to be ported. Beside SHA-256 and one function that checks an Ed25519 signature (both handed in or from
the standard library) it needs nothing, not even the codec of the rest: docs/proofs.md is its specification, and the two
must agree. Whatever is in a bundle is hashed, signed or compared, so that no byte of it can be another.

Must not know: how a bundle is made (storage/bundles.py), what the facts mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

FORMAT: Final = "medchain/proof/1"
BUNDLE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
ITEMS_MAX: Final = 100_000
DEPTH_MAX: Final = 8
SIGNATURES_MAX: Final = 128  # of a certificate: as many validators as there can be, or more
# Refusals of one copy of a transaction (MC1007 to 1009): it came too late, too early, or after another. What became of
# that other one, which may have been executed, they do not say.
OF_ONE_COPY: Final = frozenset({1007, 1008, 1009})

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature), 33 and 65 bytes: whether it covers `key || message` under the chain's rule."""


class Refused(Exception):
    """The bundle does not prove what it says. The text says where it fails, and holds nothing of its content."""


@dataclass(frozen=True)
class Trusted:
    """What a reader knows beforehand: the chain's id, and the validators of one of its epochs (of genesis: 0)."""

    chain_id: bytes
    epoch: int
    keys: tuple[bytes, ...]

    @property
    def quorum(self) -> int:
        """Signatures that decide: any two quorums share an honest member while at most a third lies."""
        n = len(self.keys)
        return (n + (n - 1) // 3 + 2) // 2


@dataclass(frozen=True)
class Proven:
    """A fact. `trusted` is the latest set that the bundle's history led to."""

    kind: str  # "head", "state", "transaction" or "receipt"
    height: int
    epoch: int
    fact: dict[str, Any]
    trusted: Trusted


def check(bundle: bytes, trusted: Trusted, verify: VerifySignature) -> Proven:
    """What the bundle proves to whoever trusts `trusted`; Refused if it does not."""
    match decode(bundle):
        case (str(form), chain_id, tuple(links), tuple(claim), digest) if form == FORMAT:
            pass
        case _:
            raise Refused("not a proof bundle")
    # A proof that one key is absent may well be one for another key, as true: the digest keeps them apart.
    if digest != _hash(encode((form, chain_id, links, claim))):
        raise Refused("damaged, or changed on its way")
    if chain_id != trusted.chain_id:
        raise Refused("of another chain")
    for link in links:
        trusted = _follow(link, trusted, verify)
    match claim:
        case ("head", header, checkpoint):
            return _head(trusted, verify, header, checkpoint)
        case ("state", header, checkpoint, key, value, entries, siblings):
            return _state(trusted, verify, header, checkpoint, (key, value, entries, siblings))
        case ("transaction", wire, steps, proposal, certificate):
            return _transaction(trusted, verify, wire, steps, proposal, certificate)
        case ("receipt", receipt, steps, previous, tuple(following), checkpoint):
            return _receipt(trusted, verify, receipt, steps, previous, following, checkpoint)
    raise Refused("not a claim that is known here")


# Who signs


def _follow(link: Any, trusted: Trusted, verify: VerifySignature) -> Trusted:
    """The set that took over after the checkpoint of a link."""
    match link:
        case (tuple(checkpoint), bytes(value), entries, siblings):
            pass
        case _:
            raise Refused("not a link")
    epoch, _, _, state_root, _ = _checkpoint(checkpoint, trusted, verify)
    _in_state(state_root, encode(("members", "validators")), value, entries, siblings)
    match decode(value):
        case (int(following), int(), tuple(keys)) if following == epoch + 1 and keys and all(map(_is_33_bytes, keys)):
            return Trusted(trusted.chain_id, following, keys)
    raise Refused("a link leads to no later set")


def _signed(signatures: Any, statement: bytes, epoch: Any, trusted: Trusted, verify: VerifySignature) -> None:
    """All signatures hold, and a quorum of those trusted is among them. In an epoch after the trusted one there may be
    others: what a trusted quorum signed there is as true as before. Keys are counted first and those trusted verified
    first, so that whoever trusts none of the signers verifies nothing."""
    if type(signatures) is not tuple or not _is_number(epoch) or epoch < trusted.epoch:
        raise Refused("not a certificate of this time")
    if len(signatures) > SIGNATURES_MAX:
        raise Refused("more signatures than a certificate holds")
    keys: list[bytes] = []
    for item in signatures:
        match item:
            case (bytes(key), bytes(signature)) if len(key) == 33 and len(signature) == 65 and keys[-1:] < [key]:
                keys.append(key)
            case _:
                raise Refused("signatures are not distinct and ordered")
    strangers = set(keys).difference(trusted.keys)
    if strangers and epoch == trusted.epoch:
        raise Refused("signed by a stranger")
    if len(keys) - len(strangers) < trusted.quorum:
        raise Refused("not signed by a quorum of those trusted")
    for key, signature in sorted(signatures, key=lambda item: item[0] in strangers):
        if not verify(key, statement, signature):
            raise Refused("a signature does not hold")


def _checkpoint(value: tuple[Any, ...], trusted: Trusted, verify: VerifySignature) -> tuple[Any, ...]:
    """(epoch, height, block hash, state root, results hash) that a quorum signed."""
    match value:
        case (epoch, height, block_hash, state_root, results_hash, signatures):
            content = (epoch, height, block_hash, state_root, results_hash)
        case _:
            raise Refused("not a checkpoint")
    # Before anything is signed over it: a long field would be hashed for each signature again.
    if not all(map(_is_number, content[:2])) or not all(map(_is_33_bytes, content[2:])):
        raise Refused("not a checkpoint")
    _signed(signatures, encode(("medchain/checkpoint/1", trusted.chain_id, *content)), epoch, trusted, verify)
    return content


# Claims


def _head(trusted: Trusted, verify: VerifySignature, header: Any, checkpoint: Any) -> Proven:
    """That the chain reached a block, and a state."""
    epoch, height, block_hash, state_root, _ = _checkpoint(checkpoint, trusted, verify)
    if type(header) is not tuple or len(header) != 6:
        raise Refused("not a header")
    if _hash(encode(("medchain/header/1", trusted.chain_id, *header))) != block_hash or header[0] != height:
        raise Refused("the header is not the checkpoint's")
    fact = {"block_hash": block_hash, "state_root": state_root, "time_ms": header[4]}
    return Proven("head", height, epoch, fact, trusted)


def _state(trusted: Trusted, verify: VerifySignature, header: Any, checkpoint: Any, entry: tuple[Any, ...]) -> Proven:
    """That an entry of the state had a value, or that there was none, at a certified checkpoint."""
    head = _head(trusted, verify, header, checkpoint)
    key, value, entries, siblings = entry
    if type(key) is not bytes or not (value is None or type(value) is bytes):
        raise Refused("not an entry of the state")
    _in_state(head.fact["state_root"], key, value, entries, siblings)
    fact = {"key": key, "value": value, "block_hash": head.fact["block_hash"], "time_ms": head.fact["time_ms"]}
    return Proven("state", head.height, head.epoch, fact, trusted)


def _transaction(
    trusted: Trusted, verify: VerifySignature, wire: Any, steps: Any, proposal: Any, certificate: Any
) -> Proven:
    """That a transaction was ordered. A commit vote says only that its signer saw a quorum prepare, which may be so
    without a decision: this takes a quorum of the epoch's own set, so that set must be the trusted one."""
    match proposal, certificate:
        case (height, time_ms, tuple(batches), bool()), (epoch, view, signatures):
            pass
        case _:
            raise Refused("not a certified proposal")
    if not all(map(_is_number, (height, time_ms, epoch, view))) or not all(map(_is_33_bytes, batches)):
        raise Refused("not a certified proposal")
    if epoch != trusted.epoch:
        raise Refused("decided in another epoch than that of those trusted")
    if type(wire) is not bytes:
        raise Refused("not a transaction")
    tx_id = _hash(b"\x00" + wire)
    if _climb(tx_id, steps) not in batches:
        raise Refused("the transaction is in none of the batches")
    digest = _hash(encode(("medchain/proposal/1", *proposal)))
    statement = encode(("medchain/vote/1", trusted.chain_id, epoch, view, height, 2, digest))
    _signed(signatures, statement, epoch, trusted, verify)
    return Proven("transaction", height, epoch, {"id": tx_id, "wire": wire, "time_ms": time_ms}, trusted)


def _receipt(
    trusted: Trusted,
    verify: VerifySignature,
    receipt: Any,
    steps: Any,
    previous: Any,
    following: tuple[Any, ...],
    checkpoint: Any,
) -> Proven:
    """What execution made of a transaction: code 0, or why it was refused."""
    epoch, top, _, _, results_hash = _checkpoint(checkpoint, trusted, verify)
    match receipt:
        case (bytes(tx_id), int(code), tuple(detail)):
            pass
        case _:
            raise Refused("not a receipt")
    if code in OF_ONE_COPY:
        raise Refused("says only that one copy was refused; another may have been executed")
    if not all(map(_is_33_bytes, (previous, *following))):
        raise Refused("not a chain of results")
    height = top - len(following)
    results = previous
    root = _climb(_hash(b"\x00" + encode(receipt)), steps)
    for at, receipts_root in enumerate((root, *following), height):
        results = _hash(encode(("medchain/results/1", results, at, receipts_root)))
    if results != results_hash:
        raise Refused("the receipt does not lead to the checkpoint")
    return Proven("receipt", height, epoch, {"id": tx_id, "code": code, "detail": detail}, trusted)


# Trees


def _climb(leaf: bytes, steps: Any) -> bytes:
    """The root above a leaf (RFC 6962, 2.1). A step is 34 bytes: 00 if the neighbour is on the right or 01, and it."""
    if type(steps) is not bytes or len(steps) % 34 or len(steps) > 32 * 34:
        raise Refused("not a way up a tree")
    node = leaf
    for at in range(0, len(steps), 34):
        side, other = steps[at], steps[at + 1 : at + 34]
        if side > 1:
            raise Refused("not a way up a tree")
        node = _hash(b"\x01" + (other + node if side else node + other))
    return node


def _in_state(root: Any, key: bytes, value: bytes | None, entries: Any, siblings: Any) -> None:
    """The key's whole bucket, 64 bytes an entry, in order, and 15 digests on each of the 4 levels of a 16-ary tree."""
    if type(entries) is not bytes or len(entries) % 64 or type(siblings) is not bytes or len(siblings) != 4 * 15 * 32:
        raise Refused("not a proof of state")
    known = {entries[at : at + 32]: entries[at + 32 : at + 64] for at in range(0, len(entries), 64)}
    if len(known) * 64 != len(entries) or list(known) != sorted(known):
        raise Refused("a bucket's entries are distinct and ordered")
    key_hash = sha256(key).digest()
    if key[:1] == b"\x92":  # of two parts: bucket 0 is theirs alone
        key_hash = b"\x00\x00" + key_hash[2:]
    elif key_hash[:2] == b"\x00\x00":
        key_hash = b"\x00\x01" + key_hash[2:]
    if known.get(key_hash) != (None if value is None else sha256(value).digest()):
        raise Refused("the entry is not what the bucket says")
    index = key_hash[0] << 8 | key_hash[1]
    node = sha256(b"medchain/bucket/1\x00" + entries).digest()
    for at in range(0, len(siblings), 15 * 32):
        row = [siblings[one : one + 32] for one in range(at, at + 15 * 32, 32)]
        row.insert(index % 16, node)
        node = sha256(b"medchain/statenode/1\x00" + b"".join(row)).digest()
        index //= 16
    if b"\x01" + node != root:
        raise Refused("the bucket does not lead to the state root")


def _hash(data: bytes) -> bytes:
    return b"\x01" + sha256(data).digest()


def _is_33_bytes(value: Any) -> bool:
    return type(value) is bytes and len(value) == 33


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


# Canonical MessagePack: nil, booleans, integers of 64 bits, bytes, text, arrays; one encoding for each value


def encode(value: Any) -> bytes:
    """The one encoding of a value."""
    match value:
        case None | True | False:
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case int() if value >= 0:
            return bytes([value]) if value < 0x80 else _sized(value, (0xCC, 0xCD, 0xCE, 0xCF))
        case int():
            if value >= -32:
                return value.to_bytes(1, "big", signed=True)
            width = next(width for width in range(4) if value >= -(1 << (8 << width) - 1))
            return bytes([0xD0 + width]) + value.to_bytes(1 << width, "big", signed=True)
        case bytes():
            return _sized(len(value), (0xC4, 0xC5, 0xC6)) + value
        case str():
            text = value.encode()
            head = bytes([0xA0 + len(text)]) if len(text) < 32 else _sized(len(text), (0xD9, 0xDA, 0xDB))
            return head + text
        case tuple():
            head = bytes([0x90 + len(value)]) if len(value) < 16 else _sized(len(value), (-1, 0xDC, 0xDD))
            return head + b"".join(map(encode, value))
    raise Refused("nothing else is encoded")


def _sized(number: int, heads: Sequence[int]) -> bytes:
    """A number in the fewest bytes of 1, 2, 4 or 8 that have a head."""
    for width, head in enumerate(heads):
        if head >= 0 and number < 1 << (8 << width):
            return bytes([head]) + number.to_bytes(1 << width, "big")
    raise Refused("a number is too large")


def decode(data: bytes) -> Any:
    """The value of an encoding; Refused for anything else, and beyond the limits at the top."""
    if len(data) > BUNDLE_SIZE_BYTES_MAX:
        raise Refused("too large")
    try:
        value, end = _Reader(data).item(0, DEPTH_MAX)
        if end == len(data) and encode(value) == data:
            return value
    except (UnicodeDecodeError, IndexError):
        pass
    raise Refused("not in the canonical encoding")


@dataclass
class _Reader:
    data: bytes
    items: int = 0

    def item(self, at: int, depth: int) -> tuple[Any, int]:
        """A value and where it ends."""
        self.items += 1
        if self.items > ITEMS_MAX or depth < 0:
            raise Refused("too many values")
        first, at = self.data[at], at + 1
        match first:
            case 0xC0 | 0xC2 | 0xC3:
                return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return self._number(at, 1 << first - 0xCC), at + (1 << first - 0xCC)
            case 0xD0 | 0xD1 | 0xD2 | 0xD3:
                width = 1 << first - 0xD0
                return int.from_bytes(self._bytes(at, width), "big", signed=True), at + width
            case 0xC4 | 0xC5 | 0xC6:
                return self._text(at, 1 << first - 0xC4)
            case 0xD9 | 0xDA | 0xDB:
                found, end = self._text(at, 1 << first - 0xD9)
                return found.decode(), end
            case 0xDC | 0xDD:
                width = 2 << first - 0xDC
                return self._array(at + width, self._number(at, width), depth)
        if first < 0x80:
            return first, at
        if first >= 0xE0:
            return first - 0x100, at
        if 0xA0 <= first < 0xC0:
            return self._bytes(at, first - 0xA0).decode(), at + first - 0xA0
        if 0x90 <= first < 0xA0:
            return self._array(at, first - 0x90, depth)
        raise Refused("not of a kind that is used here")

    def _bytes(self, at: int, count: int) -> bytes:
        found = self.data[at : at + count]
        if len(found) != count:
            raise Refused("cut off")
        return found

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self._bytes(at, width), "big")

    def _text(self, at: int, width: int) -> tuple[bytes, int]:
        count = self._number(at, width)
        return self._bytes(at + width, count), at + width + count

    def _array(self, at: int, count: int, depth: int) -> tuple[Any, int]:
        found: list[Any] = []
        for _ in range(count):
            one, at = self.item(at, depth - 1)
            found.append(one)
        return tuple(found), at
