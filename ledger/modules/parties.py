"""Who acts and who is meant: an institution by its id, or a person by a pseudonymous key.

Both are one text: an institution's id has at most 32 characters, a key is written as 66 hexadecimal ones, so neither
can be taken for the other. Shared by the rule modules that deal with people as well as institutions.

Must not know: any module's tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ledger.codec import Value, encode
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, check_public_key, verify
from ledger.errors import Code, FieldReject, Reject, SignatureRefused
from ledger.fields import Text, is_printable
from ledger.rules import Context

INSTITUTION_ID_LENGTH_MAX = 32
KEY_TEXT_LENGTH = 2 * PUBLIC_KEY_SIZE_BYTES
VALIDATORS = ""  # in place of an institution's id, which is never empty: a key that is to vote
KEYS_REMEMBERED_MAX = 16_384  # about 4 MB; the check of a key costs more than that of a signature

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Party(Text):
    """An institution's id, or a key as 66 lower-case hexadecimal characters."""

    high: int = KEY_TEXT_LENGTH

    def check(self, value: Value, path: str) -> None:
        if type(value) is str:
            if 1 <= len(value) <= INSTITUTION_ID_LENGTH_MAX and is_printable(value):
                return
            if len(value) == KEY_TEXT_LENGTH and value[:2] == "01" and _HEX.issuperset(value):
                return
        raise FieldReject(path, "an institution's id or a key in hexadecimal")


def is_key(party: str) -> bool:
    """Whether a checked party is a person's key; otherwise it is an institution's id."""
    return len(party) == KEY_TEXT_LENGTH


def acting_party(ctx: Context) -> str:
    """The institution that the sender signs for, which must not be suspended; a stranger acts for its own key."""
    return ctx.sender.hex() if ctx.member_or_none is None else ctx.member.id


def check_party(ctx: Context, party: str, path: str) -> None:
    """Reject a party that could never act: an unknown institution, or a key that nobody can sign with."""
    if is_key(party):
        check_key(bytes.fromhex(party), path)
    elif ctx.read("members", "institution", party) is None:
        raise Reject(Code.UNKNOWN_MEMBER, party)


def check_key(key: bytes, path: str) -> None:
    """Reject a key that is no point of the prime-order group: others could sign for it (ledger/crypto.py)."""
    if not _is_sound(key):
        raise FieldReject(path, "a valid Ed25519 point")


@lru_cache(maxsize=KEYS_REMEMBERED_MAX)
def _is_sound(key: bytes) -> bool:
    try:
        check_public_key(key)
    except SignatureRefused:
        return False
    return True


def join_statement(chain_id: bytes, name: str) -> bytes:
    """What a key's holder signs to let the institution `name` enter the key as its own, or to become a validator."""
    return encode(("medchain/join/1", chain_id, name))


def check_possession(chain_id: bytes, name: str, key: bytes, proof: bytes) -> None:
    """Reject a key whose holder did not agree to join: a patient's must not become an institution's."""
    if not verify(key, join_statement(chain_id, name), proof):
        raise Reject(Code.KEY_NOT_PROVEN, key)
