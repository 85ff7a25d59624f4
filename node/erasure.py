"""What the chain calls erased leaves the vault, also where an archive brought it back or nobody told the vault.

Must not know: HTTP, or what is in a record.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ledger.modules.records import RecordState, record_of
from ledger.rules import member_by_key
from node.service import NodeService
from node.vault import VaultError
from storage.errors import StorageError

# Nothing presses: what the chain calls erased is released to nobody. A node made of an archive learns of later erasures
# as it catches up, and finds them when it looks again.
LOOK_EVERY_S: Final = 3_600.0
RECORDS_AT_ONCE: Final = 256  # looked up between two turns of the event loop: some milliseconds


async def keep_erased(service: NodeService, log: Any) -> None:
    """At once, and again now and then until cancelled; also after a store that was full is open again."""
    while True:
        try:
            await erase_due(service, log)
        except StorageError as error:
            service.on_damage(error)
        await asyncio.sleep(LOOK_EVERY_S)


async def erase_due(service: NodeService, log: Any) -> None:
    """Go through the vault, not through the chain: it holds the fewer records, and all that can be erased."""
    vault = service.vault
    if vault is None:
        return
    for number, commitment in enumerate(vault.list()):
        if number % RECORDS_AT_ONCE == 0:
            await asyncio.sleep(0)
        if _is_due(service, commitment):
            try:
                await asyncio.to_thread(vault.erase, commitment)
                log.info("erased", record=commitment.hex())
            except VaultError:
                pass  # an operator has, meanwhile
            except OSError as error:
                log.error("not erased", record=commitment.hex(), error=str(error))


def _is_due(service: NodeService, commitment: bytes) -> bool:
    """Whether our own institution said that it is erased: whoever else registered our commitment has no say here."""
    entry = record_of(service.store, commitment)
    if entry is None or entry.state != RecordState.ERASED or service.vault_key is None:
        return False
    own = member_by_key(service.store, service.vault_key.public)
    return own is not None and own.id == entry.custodian
