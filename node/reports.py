"""Evidence on its way to the chain: what this node's engine found, until a block holds a conviction for it.

Each node that saw an offence reports it by itself, with its own key; the rule refuses all reports but the first before
it checks a signature. The report is a transaction like any other, so its batch is the gossip that brings it to every
pool. Pure: the caller submits, and asks again at ticks.

Must not know: networks, clocks, what follows for the culprit (ledger/modules/members.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from ledger.codec import encode
from ledger.evidence import Evidence
from ledger.modules.members import EVIDENCE_EPOCHS, ReportEvidence, conviction, validators_of
from ledger.state import Reader
from ledger.transaction import NONCE_SIZE_BYTES, TX_TAG, Transaction
from ledger.validators import VALIDATORS_MAX

# The engine gives one for each member and epoch; those of epochs that have expired are let go.
REPORTS_MAX = VALIDATORS_MAX * (EVIDENCE_EPOCHS + 1)

Sign = Callable[[bytes], bytes]


class Reports:
    """One node's reports. `sign` covers the node's key and the text, as all its signatures do."""

    def __init__(self, chain_id: bytes, key: bytes, sign: Sign, validity_heights_max: int) -> None:
        self._chain_id, self._key, self._sign = chain_id, key, sign
        self._validity_heights_max = validity_heights_max
        self._waiting: dict[tuple[int, int], tuple[Evidence, int]] = {}  # last height of the report that is out

    def note(self, proof: Evidence) -> None:
        """To be reported from the next `due` on."""
        if len(self._waiting) < REPORTS_MAX:
            self._waiting.setdefault((proof.epoch, proof.member), (proof, -1))

    def due(self, state: Reader, height: int) -> Iterator[Transaction]:
        """What is to be submitted, with `height` the last executed one: reports that were never out, or have expired.
        A transaction counts as out once the next one is asked for; leave off where one was refused.
        """
        for place, (proof, last_height) in list(self._waiting.items()):
            validators = validators_of(state, proof.epoch)
            if validators is None or conviction(state, proof.epoch, validators.keys[proof.member]) is not None:
                del self._waiting[place]
            elif last_height < height + 1:
                tx = self._report(proof, height + self._validity_heights_max)
                yield tx
                self._waiting[place] = proof, tx.valid_until

    def __len__(self) -> int:
        return len(self._waiting)

    def _report(self, proof: Evidence, valid_until: int) -> Transaction:
        operation = ReportEvidence(proof.wire)
        nonce = sha256(proof.wire + encode(valid_until)).digest()[:NONCE_SIZE_BYTES]  # the same after a restart
        body = encode(
            (
                TX_TAG,
                self._chain_id,
                operation.NAME,
                operation.VERSION,
                operation.to_fields(),
                nonce,
                valid_until,
            )
        )
        return Transaction.decode(self._sign(body) + self._key + body)
