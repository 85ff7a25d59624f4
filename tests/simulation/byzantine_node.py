"""What all Byzantine members are made of: an honest replica whose frames in and out pass through a strategy.

It signs with its own key only, as the cluster's signer enforces for everyone; what it says in the name of others is
forged. Strategies are in byzantine.py (votes, views, proposals) and byzantine_noise.py (batches, floods, catching up).

Must not know: the checkers, nor anything of other nodes but their public keys and what they send.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from consensus.engine import Engine
from consensus.messages import Message, PrePrepare, Signed, Vote, decode_message, encode_message, signed
from ledger.block import Phase, Proposal
from ledger.crypto import hash_bytes
from ledger.errors import CodecError
from node.replica import Replica
from p2p.frames import Kind
from tests.simulation.cluster import Cluster, SimulatedNode

ACT_MS = 200  # how often a strategy does something of its own accord


class ByzantineNode(SimulatedNode):
    """An honest replica whose frames go through `say` (messages), `pass_on` (the rest) and `hear`; see also `act`."""

    GOES_ON = True  # signs on though it finds votes of its own that it does not know of

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.dice = Random(cluster.seed * 1_000_003 + index)

    def boot(self) -> None:
        super().boot()
        self.replica.on_frame = self.hear  # type: ignore[method-assign]
        if self.GOES_ON:
            self.engine._restart.remembers = lambda certificate: True  # type: ignore[method-assign]
        self.cluster.later(self, ACT_MS, self._act_again)

    def _act_again(self) -> None:
        self.cluster.later(self, ACT_MS, self._act_again)
        if self.engine.me is not None:
            self.act()

    def send(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if kind is Kind.VOTE:
            message = decode_message(payload)
            for said in self.say(key, message):
                self.transmit(key, kind, payload if said is message else encode_message(said))
        else:
            for passed in self.pass_on(key, kind, payload):
                self.transmit(key, kind, passed)

    # What strategies override

    def say(self, key: bytes, message: Message) -> Iterable[Message]:
        """What goes to `key` instead of a message of the replica."""
        return (message,)

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        """What goes to `key` instead of another frame of the replica."""
        return (payload,)

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        """A frame arrived."""
        Replica.on_frame(self.replica, key, kind, payload)

    def act(self) -> None:
        """Called every ACT_MS while it is a member."""

    # What they use

    @property
    def engine(self) -> Engine:
        return self.replica.engine

    @property
    def member(self) -> int:
        assert self.engine.me is not None
        return self.engine.me

    @property
    def others(self) -> list[bytes]:
        return [key for key in self.engine.validators.keys if key != self.key.public]

    @property
    def second_half(self) -> list[bytes]:
        """Never fewer than the first; with this member they make a quorum of four."""
        return self.others[len(self.others) // 2 :]

    def read(self, kind: Kind, payload: bytes) -> Message | None:
        """The message in a frame; None if there is none, which happens: others may be Byzantine too."""
        try:
            return decode_message(payload) if kind is Kind.VOTE else None
        except CodecError:
            return None

    def transmit(self, key: bytes, kind: Kind, payload: bytes) -> None:
        self.cluster.transmit(self, key, kind, payload)

    def signed(self, message: Signed) -> Message:
        chain_id = self.cluster.genesis.chain_id
        result: Message = signed(message, lambda text: self.cluster.signer.sign(self.key.public, text), chain_id)
        return result

    def vote(self, view: int, height: int, phase: Phase, digest: bytes) -> Message:
        return self.signed(Vote(self.engine.validators.epoch, view, height, phase, digest, self.member))

    def proposal(self, view: int, proposal: Proposal) -> PrePrepare:
        vote = self.vote(view, proposal.height, Phase.PREPARE, proposal.digest)
        assert isinstance(vote, Vote)
        return PrePrepare(proposal, vote)

    def tell(self, key: bytes, message: Message) -> None:
        self.transmit(key, Kind.VOTE, encode_message(message))

    def tell_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            payload = encode_message(message)
            for key in self.others:
                self.transmit(key, Kind.VOTE, payload)

    def frame_all(self, kind: Kind, payload: bytes) -> None:
        for key in self.others:
            self.transmit(key, kind, payload)

    def random_hash(self) -> bytes:
        return hash_bytes(self.dice.randbytes(8))
