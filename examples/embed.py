"""A medchain node inside your own asyncio application: submit a transaction, get its receipt, read the state.

    python examples/embed.py

Makes a development chain with one node in a temporary folder. A real institution's node is one of at least four, and
its key, genesis and configuration come from `medchain init`.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

from ledger.errors import code_label
from ledger.genesis import Genesis, development_key
from ledger.modules.payments import Transfer
from ledger.state import state_key
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import keys
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig
from node.home import initialise
from node.node import Node

HOSPITAL, PHARMACY = "hospital", "pharmacy"


def prepare(home: Path) -> NodeConfig:
    """A new chain's folder: key, genesis, first state. Port 0 takes a free one."""
    config = NodeConfig(home=home, p2p=P2P(port=0), api=Api(port=0), log=Log(level="warning"))
    key = keys.generate()
    keys.save(config.key_path, key)
    genesis = Genesis(
        name="embedded",
        time_ms=time.time_ns() // 1_000_000,
        validators=(key.public,),
        modules=development_modules(),
        development=True,
    )
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    return config


def transfer(node: Node, amount: int) -> Transaction:
    """Signed by the hospital. Keys stay in your application: a node never sees them."""
    operation = Transfer("CNY", PHARMACY, amount, "invoice 2031")
    return Transaction.create(
        development_key(HOSPITAL),
        node.desk.genesis.chain_id,
        operation.NAME,
        operation.to_fields(),
        nonce=secrets.token_bytes(NONCE_SIZE_BYTES),
        valid_until=node.desk.store.tip.height + 100,
    )


async def main(home: Path) -> None:
    config = prepare(home)
    async with Node(config) as node:
        tx = transfer(node, 12_500)
        receipt = await node.submit(tx)
        print(f"transaction {tx.id.hex()[:16]}… {code_label(receipt.code)}")
        balance = node.desk.store.get(state_key("payments", "balance", "CNY", PHARMACY))
        print(f"the {PHARMACY} has {balance!r} at height {node.desk.store.tip.height}")
        refused = await node.submit(transfer(node, 10**15))  # a rule refuses it: on the chain, and without effect
        print(f"too much: {code_label(refused.code)} {refused.detail!r}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
