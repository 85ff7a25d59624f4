"""Signature checks of consensus messages, outside the engine (docs/adr/0003).

Pure functions that turn a decoded message into `Verified`, or None. Every signature inside is checked, those within
view changes too. `check` is a parameter so that the simulator can use tokens that cannot be forged, at the same places.

Must not know: the engine's state. A message of another epoch than the set's is not verified.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from consensus.events import Verified
from consensus.messages import (
    Message,
    NewView,
    Prepared,
    PrePrepare,
    Status,
    TimeoutCertificate,
    ViewChange,
)
from consensus.newview import choose
from ledger.block import Certificate, CheckpointCertificate, Signatures, is_quorum
from ledger.crypto import verify as verify_signature
from ledger.genesis import LOG_WINDOW_MAX
from ledger.validators import VALIDATORS_MAX, ValidatorSet

C = TypeVar("C", Certificate, CheckpointCertificate)
Check = Callable[[bytes, bytes, bytes], bool]

# View changes of all members, and the new view, show mostly the same prepare signatures: those of a whole log.
CACHE_ENTRIES_MAX = LOG_WINDOW_MAX * VALIDATORS_MAX + 4_096


class Verifier:
    """Checks messages of one chain; remembers signatures already found valid, up to a bound."""

    def __init__(self, chain_id: bytes, check: Check = verify_signature) -> None:
        self._chain_id = chain_id
        self._check = check
        self._seen: dict[tuple[bytes, bytes], bytes] = {}
        self.checked = 0  # signatures really computed, for the account of where time goes

    def message(self, message: Message, validators: ValidatorSet) -> Verified[Message] | None:
        """The message with all signatures checked; None if any is bad, or the epoch is not the set's."""
        if isinstance(message, Status) or message.epoch != validators.epoch:
            return None
        match message:
            case PrePrepare():
                valid = self._by_member(message.vote.member, message.vote, validators)
            case TimeoutCertificate():
                valid = self._quorum(message.signatures, message.statement(self._chain_id), validators)
            case ViewChange():
                valid = self._view_change(message, validators)
            case NewView():
                valid = self._new_view(message, validators)
            case _:
                valid = self._by_member(message.member, message, validators)
        return Verified(message) if valid else None

    def certificate(self, certificate: C, validators: ValidatorSet) -> Verified[C] | None:
        """A block's or checkpoint's certificate against the set of its height."""
        if certificate.epoch != validators.epoch:
            return None
        if not self._quorum(certificate.signatures, certificate.statement(self._chain_id), validators):
            return None
        return Verified(certificate)

    def _by_member(self, member: int, message: object, validators: ValidatorSet) -> bool:
        if member >= validators.n:
            return False
        statement = message.statement(self._chain_id)  # type: ignore[attr-defined]
        return self._one(validators.keys[member], statement, message.signature)  # type: ignore[attr-defined]

    def _one(self, key: bytes, statement: bytes, signature: bytes) -> bool:
        # Keyed by signer and signature, and compared with the whole statement: no hash stands in for it.
        if self._seen.get((key, signature)) == statement:
            return True
        self.checked += 1
        if not self._check(key, statement, signature):
            return False
        if len(self._seen) >= CACHE_ENTRIES_MAX:
            for oldest in list(islice(self._seen, CACHE_ENTRIES_MAX // 2)):
                del self._seen[oldest]
        self._seen[key, signature] = statement
        return True

    def _quorum(self, signatures: Signatures, statement: bytes, validators: ValidatorSet) -> bool:
        return is_quorum(signatures, validators) and all(
            self._one(validators.keys[index], statement, signature) for index, signature in signatures
        )

    def _view_change(self, message: ViewChange, validators: ValidatorSet) -> bool:
        if not self._by_member(message.member, message, validators):
            return False
        if message.stable is not None and self.certificate(message.stable, validators) is None:
            return False
        floor = message.stable_height(validators.first_height - 1)
        for prepared in message.prepared:
            if prepared.height <= floor or not self._prepared(prepared, message.view, validators):
                return False
            floor = prepared.height
        return True

    def _prepared(self, prepared: Prepared, view: int, validators: ValidatorSet) -> bool:
        """With exactly a quorum of votes, as everyone collects: a new view holds hundreds, and must fit a frame."""
        certificate = prepared.certificate
        is_lean = len(certificate.signatures) == validators.quorum
        return certificate.view < view and is_lean and self.certificate(certificate, validators) is not None

    def _new_view(self, message: NewView, validators: ValidatorSet) -> bool:
        members = [claim.member for claim in message.claims]
        if len(members) < validators.quorum or members != sorted(set(members)):
            return False
        if message.member != validators.leader(message.view) or message.view == 0:
            return False
        if any((claim.epoch, claim.view) != (message.epoch, message.view) for claim in message.claims):
            return False
        if choose(message, validators.first_height - 1) is None:
            return False
        if not self._by_member(message.member, message, validators):
            return False
        if not all(self._by_member(claim.member, claim, validators) for claim in message.claims):
            return False
        if message.stable is not None and self.certificate(message.stable, validators) is None:
            return False
        return all(self._prepared(item, message.view, validators) for item in message.prepared)
