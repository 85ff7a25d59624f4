"""Every message there may be, and what must have been sent by honest members before it can exist.

The network is a set that only grows: what was sent may arrive at any time, in any order, any number of times, or never.
So all that honest members ever said is a set of bits, and each message says of which bits it needs one whole group.
What an honest member says needs its own bit. What the Byzantine member says needs nothing where its own signature is
enough; certificates, locks, view changes with locks and new views need the honest signatures inside. Whether a forged
or a true combination of signatures passes is asked of the real `Verifier`, after a journey over the wire, so weaker
checks make more messages.

Must not know: what engines do with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any

from consensus import Verifier
from consensus.events import Certified, Received, Verified
from consensus.messages import (
    NewView,
    Prepared,
    PrePrepare,
    Suspect,
    TimeoutCertificate,
    ViewChange,
    Vote,
    decode_message,
    encode_message,
    signed,
)
from consensus.newview import compose
from ledger.block import Certificate, Phase, Proposal
from ledger.errors import CodecError
from tests.exploration.fingerprint import Key, key_of
from tests.exploration.place import CHAIN, KEYS, VALIDATORS, Scope, Signer, is_signed, name_of, values

Mask = int  # bits of honest messages
Signatures = tuple[tuple[int, bytes], ...]


@dataclass(slots=True)
class Item:
    """A message as an engine gets it. `groups`: it exists once all bits of one of them were sent; least ones only."""

    index: int
    key: Key
    event: Received | Certified
    member: int  # who said it; -1 for a certificate
    view: int
    counted: Key | None  # votes, suspicions, view changes: counted with others that have the same; None stands alone
    groups: list[Mask] = field(default_factory=list)


def _merge(groups: list[Mask], new: Iterable[Mask]) -> bool:
    """Add groups, keeping least ones; whether that changed anything."""
    changed = False
    for group in new:
        if any(known & group == known for known in groups):
            continue
        groups[:] = [known for known in groups if known & group != group]
        groups.append(group)
        changed = True
    return changed


class Alphabet:
    """Grows with what honest members are seen to say."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.items: list[Item] = []
        self.version = 0  # changes with any item or group
        self.bits: dict[Key, Mask] = {}
        self._index: dict[Key, Item] = {}
        self._votes: dict[tuple[int, int, Phase, bytes], dict[int, tuple[Vote, Mask]]] = {}
        self._suspects: dict[int, dict[int, tuple[Suspect, Mask]]] = {}
        self._changes: dict[int, dict[int, dict[Key, tuple[ViewChange, Mask]]]] = {}
        self._locks: dict[Key, tuple[Prepared, list[Mask]]] = {}
        self._own_changes: dict[int, dict[Key, ViewChange]] = {}
        self._tried: set[tuple[Key, ...]] = set()
        self._verifier = Verifier(CHAIN, is_signed)
        self._present: dict[Mask, int] = {}
        self._conflicts: list[int] = []
        self._sign = Signer(KEYS[scope.byzantine])
        self._speak_freely()

    # What exists

    def present(self, sent: Mask) -> int:
        """The items that exist once `sent` was, as bits by index."""
        known = self._present.get(sent)
        if known is None:
            known = 0
            for item in self.items:
                if any(group & sent == group for group in item.groups):
                    known |= 1 << item.index
            self._present[sent] = known
        return known

    def is_broken(self, present: int) -> bool:
        """Whether certificates for two blocks at one height exist: agreement is gone, whoever holds them."""
        return any(pair & present == pair for pair in self._conflicts)

    def hear(self, message: Any) -> Mask:
        """An honest member sent this; its bit. Nothing for certificates, which anyone can make from their parts."""
        if isinstance(message, TimeoutCertificate) or not self._is_in_scope(message):
            return 0
        key = key_of(message)
        bit = self.bits.get(key)
        if bit is None:
            bit = self.bits[key] = 1 << len(self.bits)
            known = self._add(message, [bit])
            assert known, "what honest members say is valid"
            self._derive(message, bit)
        return bit

    def _is_in_scope(self, message: Any) -> bool:
        if isinstance(message, Vote):
            return message.height <= self.scope.heights
        if isinstance(message, PrePrepare):
            return message.vote.height <= self.scope.heights
        return True

    def _add(self, message: Any, groups: Iterable[Mask]) -> bool:
        """Make it an item, unless a peer would refuse it."""
        arrived = self._arrive(message)
        if arrived is None:
            return False
        self._put(key_of(arrived.message), Received(arrived), arrived.message, groups)
        return True

    def _arrive(self, message: Any) -> Verified[Any] | None:
        """What a peer makes of it: over the wire and through all checks."""
        try:
            return self._verifier.message(decode_message(encode_message(message)), VALIDATORS)
        except CodecError:
            return None

    def _put(self, key: Key, event: Received | Certified, message: Any, groups: Iterable[Mask]) -> None:
        item = self._index.get(key)
        if item is None:
            member = getattr(message, "member", -1)
            item = Item(len(self.items), key, event, member, message.view, _counted(message))
            self.items.append(item)
            self._index[key] = item
        if _merge(item.groups, groups):
            self.version += 1
            self._present.clear()

    # The Byzantine member's own voice

    def _speak_freely(self) -> None:
        """What it can say from the start, whatever honest members do."""
        scope, me = self.scope, self.scope.byzantine
        for view in range(scope.views):
            for height in range(1, scope.heights + 1):
                for proposal in self._values(height, view):
                    vote = self._signed(Vote(0, view, height, Phase.PREPARE, proposal.digest, me))
                    self._voted(vote, 0)
                    self._voted(self._signed(Vote(0, view, height, Phase.COMMIT, proposal.digest, me)), 0)
                    if VALIDATORS.leader(view) == me:
                        self._add(PrePrepare(proposal, vote), [0])
            if view + 1 < scope.views:
                self._suspected(self._signed(Suspect(0, view, me)), 0)
            if view > 0:
                self._change(view)

    def _values(self, height: int, view: int) -> tuple[Proposal, ...]:
        """All that may be voted on; null only fills a gap below another height."""
        null = (Proposal.null(height),) if view > 0 and height < self.scope.heights else ()
        return (*values(height), *null)

    def _signed(self, message: Any) -> Any:
        return signed(message, self._sign, CHAIN)

    # What follows from what was said

    def _derive(self, message: Any, bit: Mask) -> None:
        match message:
            case PrePrepare(vote=vote):
                self._voted(vote, bit)  # anyone can take the vote out
            case Vote():
                self._voted(message, bit)
            case Suspect():
                self._suspected(message, bit)
            case ViewChange():
                self._changed(message, bit)

    def _voted(self, vote: Vote, bit: Mask) -> None:
        """A vote, and what else its signature passes for."""
        for other in self._relabelled(vote):
            if self._add(other, [bit]):
                self._counts(other, bit)
        self._add(vote, [bit])
        self._counts(vote, bit)

    def _relabelled(self, vote: Vote) -> Iterator[Vote]:
        yield replace(vote, phase=Phase.COMMIT if vote.phase is Phase.PREPARE else Phase.PREPARE)
        yield from (replace(vote, view=view) for view in range(self.scope.views) if view != vote.view)
        yield from (replace(vote, height=one) for one in range(1, self.scope.heights + 1) if one != vote.height)

    def _counts(self, vote: Vote, bit: Mask) -> None:
        place = (vote.view, vote.height, vote.phase, vote.digest)
        self._votes.setdefault(place, {})[vote.member] = (vote, bit)
        plain = Certificate(0, vote.view, vote.height, vote.phase, vote.digest, ())
        proposal = self._proposal(vote.digest)
        for certificate, mask in self._certificates(plain, self._votes[place]):
            if vote.phase is Phase.PREPARE:
                self._locked(Prepared(proposal, certificate), mask)
            elif self._verifier.certificate(certificate, VALIDATORS) is not None:
                self._decided(proposal, certificate, mask)

    def _proposal(self, digest: bytes) -> Proposal:
        heights = range(1, self.scope.heights + 1)
        found = [one for height in heights for one in self._values(height, 1) if one.digest == digest]
        assert found, "nobody votes for a value that is not explored"
        return found[0]

    def _certificates(self, plain: Any, votes: dict[int, tuple[Any, Mask]]) -> Iterator[tuple[Any, Mask]]:
        """Every combination of signatures, with the bits it needs."""
        known = [(member, vote.signature, bit) for member, (vote, bit) in sorted(votes.items())]
        chosen = [part for size in range(1, len(known) + 1) for part in combinations(known, size)]
        own = [one for one in known if one[0] == self.scope.byzantine]
        chosen += [tuple(own * 3)] if own else []  # one signature passed off as three
        for part in chosen:
            made = replace(plain, signatures=tuple((member, signature) for member, signature, _ in part))
            yield made, _union(bit for _, _, bit in part)

    def _decided(self, proposal: Proposal, certificate: Certificate, mask: Mask) -> None:
        key = ("decided", proposal.height, name_of(proposal.digest))
        is_new = key not in self._index
        self._put(key, Certified(proposal, Verified(certificate)), certificate, [mask])
        if is_new:
            ours = 1 << self._index[key].index
            for one in self.items:
                if one.key != key and isinstance(one.event, Certified) and one.event.proposal.height == proposal.height:
                    self._conflicts.append(ours | 1 << one.index)

    def _locked(self, lock: Prepared, mask: Mask) -> None:
        """A lock that passes as proven, as the Byzantine member can show it."""
        view = lock.certificate.view + 1
        if self._arrive(self._signed(ViewChange(0, view, None, (lock,), self.scope.byzantine))) is None:
            return
        _, groups = self._locks.setdefault(key_of(lock), (lock, []))
        if _merge(groups, [mask]):
            for view in range(lock.certificate.view + 1, self.scope.views):
                self._change(view)

    def _suspected(self, suspect: Suspect, bit: Mask) -> None:
        self._add(suspect, [bit])
        known = self._suspects.setdefault(suspect.view, {})
        known[suspect.member] = (suspect, bit)
        for certificate, mask in self._certificates(TimeoutCertificate(0, suspect.view, ()), known):
            self._add(certificate, [mask])

    # View changes and new views of the Byzantine member

    def _change(self, view: int) -> None:
        """Its view change with any locks it can prove, and those it cannot, for its own new views."""
        me, changes = self.scope.byzantine, self._own_changes.setdefault(view, {})
        per_height: list[list[tuple[Prepared | None, list[Mask]]]] = []
        for height in range(1, self.scope.heights + 1):
            known = [pair for pair in self._locks.values() if pair[0].height == height]
            per_height.append([(None, [0]), *(pair for pair in known if pair[0].certificate.view < view)])
        for picked in product(*per_height):
            locks = tuple(lock for lock, _ in picked if lock is not None)
            change = self._signed(ViewChange(0, view, None, locks, me))
            masks = [_union(groups) for groups in product(*(groups for _, groups in picked))]
            self._add(change, masks)
            if key_of(change) in changes:
                self._add_group_of_new_views(view)
            else:
                changes[key_of(change)] = change
                self._new_views(view)

    def _changed(self, change: ViewChange, bit: Mask) -> None:
        self._changes.setdefault(change.view, {}).setdefault(change.member, {})[key_of(change)] = (change, bit)
        self._new_views(change.view)

    def _add_group_of_new_views(self, view: int) -> None:
        """Another way to prove one of its own locks: new views that show it have another way too."""
        me = self.scope.byzantine
        self._tried = {tried for tried in self._tried if all(part[-1] != me for part in tried)}  # type: ignore[index]
        self._new_views(view)

    def _new_views(self, view: int) -> None:
        """All it can compose as the view's leader, from any view changes there are."""
        me = self.scope.byzantine
        if VALIDATORS.leader(view) != me:
            return
        by_member: dict[int, list[tuple[ViewChange, list[Mask]]]] = {
            member: [(change, [bit]) for change, bit in known.values()]
            for member, known in self._changes.get(view, {}).items()
        }
        for member in self.scope.honest:  # a lie in another's name: it holds nothing
            forged = replace(self._signed(ViewChange(0, view, None, (), me)), member=member)
            by_member.setdefault(member, []).append((forged, [0]))
        by_member[me] = self._claims(view)
        for size in range(2, len(by_member) + 1):
            for members in combinations(sorted(by_member), size):
                for picked in product(*(by_member[member] for member in members)):
                    self._compose([change for change, _ in picked], [groups for _, groups in picked])

    def _claims(self, view: int) -> list[tuple[ViewChange, list[Mask]]]:
        found: list[tuple[ViewChange, list[Mask]]] = []
        for key, change in self._own_changes.get(view, {}).items():
            if key in self._index:
                found.append((change, self._index[key].groups))
        for proposal in values(1):  # a lie may pass where another claim outweighs it, as then nobody asks for its proof
            for locked_view in range(view):
                lie = Prepared(proposal, Certificate(0, locked_view, 1, Phase.PREPARE, proposal.digest, ()))
                found.append((self._signed(ViewChange(0, view, None, (lie,), self.scope.byzantine)), [0]))
        return found

    def _compose(self, changes: list[ViewChange], groups: list[list[Mask]]) -> None:
        tried = tuple((key_of(change), change.signature, _is_lie(change), change.member) for change in changes)
        if tried in self._tried:
            return
        self._tried.add(tried)
        message: NewView = self._signed(compose(changes, 0, self.scope.byzantine))
        self._add(message, [_union(part) for part in product(*groups)])


def _is_lie(change: ViewChange) -> bool:
    return any(not lock.certificate.signatures for lock in change.prepared)


def _union(masks: Iterable[Mask]) -> Mask:
    whole = 0
    for mask in masks:
        whole |= mask
    return whole


def _counted(message: Any) -> Key | None:
    match message:
        case Vote():
            return ("vote", message.view, message.height, int(message.phase), message.digest)
        case Suspect():
            return ("suspect", message.view)
        case ViewChange():
            return ("view change",)  # those for different views together make a member follow to the smallest
    return None
