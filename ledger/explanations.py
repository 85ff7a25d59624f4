"""What each code means and what its reader can do: the one table behind the API, `medchain errors` and docs/errors.md.

`retryable` says that the same call may succeed later without being changed (a transaction needs a new nonce for it).

Must not know: who asks. Plug-in modules bring the explanations of their own codes (ledger/rules.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ledger.errors import Code, Explanation

_TRANSACTION: dict[Code, Explanation] = {
    Code.MALFORMED: Explanation("The bytes are not a message of this protocol.", "Build it with the client library."),
    Code.NOT_CANONICAL: Explanation(
        "The bytes decode, but are not the one canonical encoding of their value.",
        "Encode as docs/wire-format.md, section 1, says.",
    ),
    Code.TOO_LARGE: Explanation("Larger than the limit.", "Split it into several transactions."),
    Code.BAD_SIGNATURE: Explanation(
        "The signature does not fit the sender and the content.", "Sign the final bytes with the sender's key."
    ),
    Code.BAD_KEY: Explanation("The public key is not a valid Ed25519 key.", "Make a key with `medchain key gen`."),
    Code.WRONG_CHAIN: Explanation(
        "The transaction was signed for another chain.", "Sign it with the chain id that `medchain status` shows."
    ),
    Code.EXPIRED: Explanation(
        "The chain has passed the transaction's last valid height.", "Sign it again with a later height."
    ),
    Code.VALIDITY_TOO_LONG: Explanation(
        "The transaction's last valid height lies too far ahead.", "Sign it again with an earlier height."
    ),
    Code.REPLAYED: Explanation(
        "A transaction of this sender with this nonce is already on the chain.",
        "Look its receipt up; to do the same again, sign with a new nonce.",
    ),
    Code.UNKNOWN_OPERATION: Explanation(
        "No active rule module has this operation in this version.", "Check the name; see GET /v1/openapi.json."
    ),
    Code.BAD_FIELD: Explanation(
        "A field has the wrong type or is out of range; the detail names it and what is expected.",
        "Correct the field.",
    ),
    Code.RULE_FAILED: Explanation(
        "The rule module failed on this transaction; nothing was written.", "Report it to the module's author."
    ),
    Code.DEVELOPMENT_KEY: Explanation(
        "The sender is one of the public development keys.", "Use a key of your own outside development chains."
    ),
}

_MEMBERS: dict[Code, Explanation] = {
    Code.ROLE_REQUIRED: Explanation(
        "The institution has none of the roles that may do this; the detail lists them.",
        "Let an institution of that role sign.",
    ),
    Code.NOT_A_MEMBER: Explanation(
        "The sender's key signs for no institution.", "Let an institution add the key, or sign with one of its keys."
    ),
    Code.MEMBER_SUSPENDED: Explanation(
        "The institution is suspended.", "Ask the validators to activate it again.", retryable=True
    ),
    Code.MEMBER_EXISTS: Explanation("An institution of this id exists.", "Choose another id."),
    Code.UNKNOWN_MEMBER: Explanation("There is no institution of this id.", "See `medchain member list`."),
    Code.KEY_TAKEN: Explanation("The key already belongs to someone.", "Use another key."),
    Code.UNKNOWN_KEY: Explanation("The key is not one of those to change.", "See `medchain member list`."),
    Code.NOT_A_VALIDATOR: Explanation("Only a validator may do this.", "Sign with a validator's key."),
    Code.UNKNOWN_PROPOSAL: Explanation(
        "No proposal has this id.", "A proposal's id is that of the transaction that made it."
    ),
    Code.PROPOSAL_CLOSED: Explanation("The proposal has been enacted or withdrawn.", "Make a new one if needed."),
    Code.ALREADY_VOTED: Explanation("This validator has already approved the proposal.", "Nothing is left to do."),
    Code.TOO_FEW_VALIDATORS: Explanation(
        "The change would leave fewer than four validators, or more than the limit.",
        "Add or remove others in the same proposal.",
    ),
    Code.NO_VALIDATOR_KEPT: Explanation(
        "The change would keep fewer of the present validators than a quorum.", "Change fewer of them at a time."
    ),
    Code.CHANGE_PENDING: Explanation(
        "Another change of validators has not taken effect yet.", "Vote again once it has.", retryable=True
    ),
    Code.KEY_IN_USE: Explanation(
        "A key cannot remove itself, so that one always stays.", "Sign the removal with another key."
    ),
    Code.KEY_NOT_PROVEN: Explanation(
        "Nothing shows that the key's holder agrees to join under this name.",
        "Let the holder run `medchain key prove`, and hand in what it prints.",
    ),
    Code.BAD_PARAMETERS: Explanation(
        "The parameters would not fit together, or not change; the detail says which.", "Choose other values."
    ),
    Code.BAD_EVIDENCE: Explanation(
        "It does not show that a validator of that epoch signed two contradicting statements.",
        "Report what the node wrote down, unchanged.",
    ),
    Code.EVIDENCE_KNOWN: Explanation(
        "This validator has been convicted for this epoch already.", "Nothing is left to do."
    ),
    Code.EVIDENCE_EXPIRED: Explanation(
        "The epoch is too far back: its validators are no longer in the state.", "Nothing can be done any more."
    ),
    Code.PROPOSAL_OUTDATED: Explanation(
        "The institution has changed since this was proposed.", "Propose what is wanted now."
    ),
}

_RECORDS: dict[Code, Explanation] = {
    Code.RECORD_EXISTS: Explanation("This commitment is already registered.", "Commit with a fresh salt."),
    Code.UNKNOWN_RECORD: Explanation("No record has this commitment.", "Register it first."),
    Code.NOT_THE_PATIENT: Explanation("Only the record's patient may do this.", "Sign with the patient's key."),
    Code.NOT_GRANTED: Explanation(
        "The reader has no grant for this record.", "Ask the patient for a grant.", retryable=True
    ),
    Code.GRANT_EXPIRED: Explanation("The grant's time is over.", "Ask the patient for a new grant."),
    Code.GRANT_REVOKED: Explanation("The patient has revoked the grant.", "Ask the patient for a new grant."),
    Code.PURPOSE_NOT_GRANTED: Explanation(
        "The grant is for other purposes.", "Read for a granted purpose, or ask the patient for a grant of this one."
    ),
    Code.UNKNOWN_GRANT: Explanation("No grant has this id.", "A grant's id is that of the transaction that granted."),
    Code.NOT_THE_CUSTODIAN: Explanation(
        "Only the record's custodian may do this.", "Sign with a key of the institution that registered it."
    ),
    Code.RECORD_ERASED: Explanation("The record has been erased.", "Nothing is left to read."),
    Code.RECORD_WITHDRAWN: Explanation(
        "The patient has withdrawn the record from everyone.", "Its custodian confirms with `records.erased`."
    ),
}

_DRUGS: dict[Code, Explanation] = {
    Code.BAD_CHECK_DIGIT: Explanation("A GS1 check digit is wrong.", "Read the code again; do not type it."),
    Code.NOT_PREFIX_OWNER: Explanation(
        "The GTIN's company prefix does not belong to the sender's institution.",
        "Let the prefix's owner sign, or have the prefix entered for the institution.",
    ),
    Code.SERIAL_EXISTS: Explanation("This serial was commissioned before.", "Suspect a copy; check the line."),
    Code.UNKNOWN_PACK: Explanation(
        "Nothing was commissioned under this identifier.", "Quarantine it and ask its maker."
    ),
    Code.NOT_IN_CUSTODY: Explanation(
        "The item is not in the sender's custody.", "Let its custodian act, or receive it first."
    ),
    Code.ALREADY_DISPENSED: Explanation("The pack was dispensed before.", "Do not dispense; suspect a copy."),
    Code.PACK_EXPIRED: Explanation("The pack's expiry date has passed.", "Decommission it."),
    Code.PACK_RECALLED: Explanation("The lot or serial is recalled.", "Quarantine it and return it to its maker."),
    Code.COLD_CHAIN_BROKEN: Explanation(
        "A temperature outside the lot's range was observed.", "Quarantine it and ask its maker."
    ),
    Code.NOT_ACTIVE: Explanation("The item is decommissioned or in no state for this.", "See `medchain pack trace`."),
    Code.IN_TRANSIT: Explanation("The item is on its way.", "Receive it first.", retryable=True),
    Code.NOT_IN_TRANSIT: Explanation("The item is not on its way.", "Ship it first.", retryable=True),
    Code.NOT_THE_CONSIGNEE: Explanation("It was shipped to another institution.", "Let the consignee receive it."),
    Code.PACKED_IN_PARENT: Explanation("The item is packed in another.", "Act on the container, or unpack first."),
    Code.NOT_IN_PARENT: Explanation("The item is not packed in this container.", "See `medchain pack trace`."),
    Code.UNKNOWN_LOT: Explanation("The lot is not known.", "Check its number; it is known once commissioned."),
    Code.LOT_EXISTS: Explanation(
        "The lot is already known with other data; the detail says which.", "Use the lot's first data."
    ),
    Code.BAD_DATE: Explanation("A date is impossible or contradicts another.", "Correct the dates."),
    Code.BAD_IDENTIFIER: Explanation(
        "The identifier is not one that this operation can act on.", "Check which kind of identifier it expects."
    ),
    Code.EXPIRY_UNKNOWN: Explanation("The pack's lot has no expiry date on the chain.", "Let its maker state it."),
    Code.PACKED_TOO_DEEP: Explanation("Containers would be nested too deeply.", "Use fewer levels."),
    Code.CONTAINER_FULL: Explanation("The container would hold too many items.", "Use several containers."),
}

_PAYMENTS: dict[Code, Explanation] = {
    Code.UNKNOWN_CURRENCY: Explanation("There is no such currency.", "A regulator creates it."),
    Code.NOT_THE_ISSUER: Explanation("Only the currency's issuer may do this.", "Let the issuer sign."),
    Code.INSUFFICIENT_FUNDS: Explanation(
        "An account holds less than is to be paid; the detail names account, currency, balance and amount.",
        "Fund the account, then send again.",
        retryable=True,
    ),
    Code.CURRENCY_EXISTS: Explanation("The currency exists.", "Choose another code."),
    Code.UNKNOWN_ESCROW: Explanation("No escrow has this id.", "Its id is that of the transaction that opened it."),
    Code.ESCROW_CLOSED: Explanation("The escrow was released or refunded.", "Nothing is left to do."),
    Code.NOT_A_PARTY: Explanation("The sender is not one of those who may decide this.", "Let the right party sign."),
    Code.UNKNOWN_POLICY: Explanation("No policy has this id.", "Ask the insurer for it."),
    Code.POLICY_INACTIVE: Explanation(
        "The policy was ended, or the block's time is outside its validity.", "Ask the insurer."
    ),
    Code.POLICY_EXISTS: Explanation("A policy of this id exists.", "Commit with a fresh salt."),
    Code.CLAIM_EXISTS: Explanation("A claim of this id exists.", "Look it up; a new claim needs a new id."),
    Code.UNKNOWN_CLAIM: Explanation("No claim has this id.", "The hospital opens it with `payments.claim`."),
    Code.CLAIM_CLOSED: Explanation("The claim is settled or cancelled.", "Nothing is left to do."),
    Code.ALREADY_CONFIRMED: Explanation("The patient has confirmed this already.", "Wait for the hospital's claim."),
    Code.AMOUNT_OUT_OF_RANGE: Explanation(
        "The currency's supply would pass its limit.", "Issue less, or redeem first."
    ),
    Code.LIMIT_EXCEEDED: Explanation(
        "The claim passes a limit of the policy; the detail names it, the amount and the limit.",
        "Claim less, or agree on it outside the policy.",
    ),
    Code.CLAIM_DIFFERS: Explanation(
        "What the patient confirmed is not what the hospital claimed.",
        "Compare policy, provider, amount and treatment; confirm the claim's, or let the hospital claim again.",
    ),
    Code.ESCROW_NOT_EXPIRED: Explanation(
        "The payer may take the escrow back only after its expiry, which the detail gives.",
        "Wait, or ask the beneficiary or the arbiter.",
        retryable=True,
    ),
}

_NODE: dict[Code, Explanation] = {
    Code.POOL_FULL: Explanation(
        "The node holds all the transactions it can, and takes none now that the state as it is would refuse.",
        "Send again later, after the steps that it needs.",
        retryable=True,
    ),
    Code.TOO_MANY_WAITERS: Explanation(
        "Too many requests wait already.", "Send without waiting, and ask for the receipt later.", retryable=True
    ),
    Code.NOT_FINAL_IN_TIME: Explanation(
        "The transaction was not committed in the time asked for.",
        "Ask for its receipt; it may still be committed. See `medchain why`.",
        retryable=True,
    ),
    Code.NOT_FOUND: Explanation("There is nothing under this address.", "Check the id or the height."),
    Code.BAD_REQUEST: Explanation("The request is not understood; the detail names the field.", "Correct the request."),
    Code.BODY_TOO_LARGE: Explanation("The request's body is over the limit.", "Send fewer transactions at once."),
    Code.UNREACHABLE: Explanation(
        "The node does not answer.",
        "Start it, or ask another one: --api takes its address, --dir the folder of a local cluster.",
        retryable=True,
    ),
    Code.UNAUTHORISED: Explanation("This needs an operator's token.", "Send the token of the node's token file."),
    Code.PRUNED: Explanation("The node no longer keeps this.", "Ask a node that keeps everything, or start later."),
    Code.NOT_ACCEPTING: Explanation(
        "The node takes no transactions now: it starts, stops or catches up.", "Send again later.", retryable=True
    ),
    Code.UNSUPPORTED_MEDIA_TYPE: Explanation(
        "The body's media type is not known here.", "Send application/json or application/msgpack."
    ),
    Code.METHOD_NOT_ALLOWED: Explanation("The address does not know this method.", "See GET /v1/openapi.json."),
    Code.FORBIDDEN_HOST: Explanation(
        "The Host header is not one this node serves.", "Use its configured name, or add the name to the configuration."
    ),
    Code.BAD_CONFIGURATION: Explanation(
        "The configuration cannot be used; every problem is listed.",
        "Correct what is named. `medchain config check` looks at a node's medchain.toml again.",
    ),
    Code.PORT_TAKEN: Explanation("Another process uses the port.", "Stop it, or choose another port."),
    Code.ALREADY_RUNNING: Explanation("This node or cluster is running already.", "Use it, or stop it first."),
    Code.NOT_RUNNING: Explanation("This node or cluster is not running.", "Start it first."),
    Code.PACKAGE_CLASH: Explanation(
        "Another installed package has overwritten one of ours.", "Install medchain into an environment of its own."
    ),
    Code.CHECK_FAILED: Explanation(
        "A check found something wrong; the output names it.",
        "Do not rely on what was checked; get it anew, from elsewhere if it fails again.",
    ),
    Code.CLUSTER_UNHEALTHY: Explanation(
        "The cluster does not commit, or its nodes disagree.", "See `medchain why`.", retryable=True
    ),
    Code.BAD_FILE: Explanation(
        "A file that was named is missing, unreadable, or not what it should be.",
        "Check its path, who may read it, and what it holds.",
    ),
}

_STORAGE: dict[Code, Explanation] = {
    Code.DATA_LOCKED: Explanation("Another process has the data folder open.", "Stop that process.", retryable=True),
    Code.DATA_CORRUPT: Explanation(
        "The data on disk is damaged; the node stopped rather than guess.",
        "Run `medchain repair`, then start the node: it fetches from its peers what is gone.",
    ),
    Code.DISK_FULL: Explanation("The disk is full.", "Make room; a running node goes on by itself.", retryable=True),
    Code.NOT_INITIALISED: Explanation(
        "The folder holds no node, or not its data.",
        "Name the right one with --home. `medchain init` makes a new node; `join` and `restore` bring back lost data.",
    ),
    Code.FORMAT_MISMATCH: Explanation(
        "The data was written in a format this version does not read.", "Use the version that wrote it."
    ),
    Code.STATE_DIVERGED: Explanation(
        "This node's state differs from what a quorum certified; it stopped.",
        "Run `medchain repair` with software that executes as theirs does: it keeps the state for examination.",
    ),
    Code.KEY_FORGOTTEN: Explanation(
        "This validator's key may have signed what its log does not know of; it signs nothing any more.",
        "It was restored, repaired, started from an older copy or twice: stop the other one and have the key replaced.",
    ),
    Code.INTERNAL: Explanation("A fault of this software.", "Report it with what it printed, or the node's log."),
}

EXPLANATIONS: Final[Mapping[Code, Explanation]] = MappingProxyType(
    {**_TRANSACTION, **_MEMBERS, **_RECORDS, **_DRUGS, **_PAYMENTS, **_NODE, **_STORAGE}
)


def markdown_table() -> str:
    """All codes by number, as the table of docs/errors.md; ends with a line break."""
    lines = ["| code | name | meaning | what to do | retry |", "|---|---|---|---|---|"]
    for code in sorted(EXPLANATIONS):
        entry = EXPLANATIONS[code]
        retry = "yes" if entry.retryable else ""
        lines.append(f"| {code.label} | `{code.name}` | {entry.summary} | {entry.action} | {retry} |")
    return "\n".join(lines) + "\n"
