"""Makes proof bundles (ledger/proofcheck.py, docs/proofs.md): a fact, and all it takes to check it without this node.

A bundle begins at the validators of an epoch that its reader trusts. Links lead from there to the epoch of the claim:
each is the checkpoint that closes an epoch, and the next set under its state root. Epochs are left out where a quorum
of those trusted so far still signed a later checkpoint.

Must not know: how a bundle is checked, or what a fact means.
"""

from __future__ import annotations

from ledger.block import Certificate, CheckpointCertificate, Signatures
from ledger.codec import Value, encode
from ledger.crypto import hash_bytes
from ledger.errors import code_label
from ledger.proofcheck import FORMAT, OF_ONE_COPY
from ledger.stateproof import Inclusion
from ledger.validators import ValidatorSet
from storage.chain import ChainStore
from storage.errors import Corruption

LINKS_MAX = 64  # in a bundle that shows the head: a reader who looks rarely comes in several steps


class Unprovable(Exception):
    """There is no proof of this, or not yet; the text says which."""


class Bundler:
    """Bundles from one store, for a reader who trusts the validators of epoch `since` (0: genesis)."""

    def __init__(self, store: ChainStore, since: int = 0) -> None:
        self._store, self._since = store, since
        if since > store.tip.validators.epoch:
            raise Unprovable(f"epoch {since} has not begun; the chain is in epoch {store.tip.validators.epoch}")

    def head(self) -> bytes:
        """How far the chain is certified; at first the end of an earlier epoch, where there are many in between."""
        checkpoint = self._store.latest_checkpoint()
        if checkpoint is None:
            raise Unprovable("no checkpoint is certified yet; try again in a moment")
        if checkpoint.epoch < self._since:
            raise Unprovable(f"no checkpoint of epoch {self._since} is certified yet; try again in a moment")
        links: list[Value] = []
        trusted = self._set(self._since)
        while trusted.epoch < checkpoint.epoch:  # to the latest set, whether needed or not: it is the one to trust now
            trusted, link = self._farthest(trusted, checkpoint.epoch)
            if len(links) == LINKS_MAX:
                checkpoint = self._store.closing_checkpoint(trusted.epoch - 1)
                assert checkpoint is not None, "the link rests on it"
                break
            links.append(link)
        header = self._store.header(checkpoint.height)
        if header is None:
            raise Corruption(f"header {checkpoint.height} is missing")
        return self._sealed(links, ("head", header.to_value(), self._checkpoint(checkpoint)))

    def state(self, key: bytes) -> bytes:
        """That the entry at `key` has its value, or that there is none, at the last checkpoint."""
        proven = self._store.prove_state(key)
        checkpoint, header = self._store.checkpoint(proven.height), self._store.header(proven.height)
        if checkpoint is None or header is None:
            raise Unprovable(f"the checkpoint at height {proven.height} is not certified yet; try again in a moment")
        entry = (key, proven.value_bytes, *proven.proof.to_value())
        claim = ("state", header.to_value(), self._checkpoint(checkpoint), *entry)
        return self._bundle(checkpoint.epoch, checkpoint.signatures, claim)

    def transaction(self, tx_id: bytes) -> bytes:
        """That a transaction was ordered."""
        proof, placed = self._store.prove_transaction(tx_id), self._store.transaction(tx_id)
        if proof is None or placed is None:
            raise Unprovable("no block orders this transaction")
        proposal, certificate = proof.proposal, proof.certificate
        signed = (certificate.epoch, certificate.view, self._by_key(certificate))
        claim = ("transaction", placed[2].wire, _steps(proof.inclusion), proposal.to_value(), signed)
        # It is a decision to whoever trusts the set of its epoch, whoever else may be among the signers.
        return self._bundle(certificate.epoch, (), claim)

    def receipt(self, tx_id: bytes) -> bytes:
        """What execution made of a transaction."""
        proof = self._store.prove_receipt(tx_id)
        if proof is None:
            raise Unprovable("no certified checkpoint covers this transaction yet")
        if proof.receipt.code in OF_ONE_COPY:
            label = code_label(proof.receipt.code)
            raise Unprovable(f"its receipt ({label}) says only that one copy was refused, not that none was executed")
        checkpoint = proof.checkpoint
        way = (proof.receipt.to_value(), _steps(proof.inclusion), proof.previous_results, proof.following)
        claim = ("receipt", *way, self._checkpoint(checkpoint))
        return self._bundle(checkpoint.epoch, checkpoint.signatures, claim)

    # History

    def _bundle(self, epoch: int, signatures: Signatures, claim: tuple[Value, ...]) -> bytes:
        """With links to a set of which a quorum is among the signatures, at the latest to that of `epoch`."""
        if epoch < self._since:
            raise Unprovable(f"it is of epoch {epoch}: begin with the validators of that epoch or an earlier one")
        signers = self._signers(epoch, signatures)
        links: list[Value] = []
        trusted = self._set(self._since)
        while trusted.epoch < epoch and not _is_trusted(signers, trusted):
            trusted, link = self._farthest(trusted, epoch)
            links.append(link)
        return self._sealed(links, claim)

    def _sealed(self, links: list[Value], claim: tuple[Value, ...]) -> bytes:
        content: tuple[Value, ...] = (FORMAT, self._store.chain_id, tuple(links), claim)
        return encode((*content, hash_bytes(encode(content))))

    def _farthest(self, trusted: ValidatorSet, epoch: int) -> tuple[ValidatorSet, Value]:
        """The latest set, up to `epoch`, that a quorum of those trusted has signed for."""
        for last in range(epoch - 1, trusted.epoch - 1, -1):
            following, link = self._set(last + 1), self._store.link(last)
            checkpoint = self._store.checkpoint(following.first_height - 1)
            if link is None or checkpoint is None:
                continue
            if _is_trusted(self._signers(last, checkpoint.signatures), trusted):
                return following, (self._checkpoint(checkpoint), *link)
        raise Unprovable(f"the checkpoint that closes epoch {trusted.epoch} is not certified here yet")

    def _set(self, epoch: int) -> ValidatorSet:
        found = self._store.validator_set(epoch)
        if found is None:
            raise Corruption(f"the validators of epoch {epoch} are missing")
        return found

    def _signers(self, epoch: int, signatures: Signatures) -> set[bytes]:
        keys = self._set(epoch).keys
        return {keys[member] for member, _ in signatures}

    def _by_key(self, certificate: Certificate | CheckpointCertificate) -> Value:
        keys = self._set(certificate.epoch).keys  # in order, so their signatures are
        return tuple((keys[member], signature) for member, signature in certificate.signatures)

    def _checkpoint(self, checkpoint: CheckpointCertificate) -> Value:
        return (*checkpoint.to_value()[:-1], self._by_key(checkpoint))


def _is_trusted(signers: set[bytes], trusted: ValidatorSet) -> bool:
    return len(signers & set(trusted.keys)) >= trusted.quorum


def _steps(inclusion: Inclusion) -> bytes:
    """A way up a tree with a side for each step, so that nothing in it can be read in two ways."""
    steps, siblings = b"", iter(inclusion.path)
    index, count = inclusion.index, inclusion.count
    while count > 1:
        if index ^ 1 < count:
            steps += bytes([index % 2]) + next(siblings)
        index, count = index // 2, (count + 1) // 2
    return steps
