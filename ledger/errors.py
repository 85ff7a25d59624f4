"""Errors and rejection codes of the ledger. Whose fault something is shows in the type.

    LedgerError
     ├─ CodecError        remote: bytes that are not the canonical encoding of a value within limits
     ├─ SignatureRefused  remote: a signature or key that the chain's one rule refuses
     ├─ EvidenceRefused   remote: a well-formed evidence of equivocation that convicts nobody
     ├─ Reject            remote: a well-formed transaction that a rule refuses (carries a code and typed detail)
     └─ ConfigError       local: genesis or rule modules that cannot be used; fix the input and start again
         └─ FileError     a file that was named is missing, unreadable, or not what it should be

Anything else that escapes is our bug; nobody catches it. Codes are numbers because they cross the wire and enter
receipts; their explanations live beside them so that the API, the command line and docs/errors.md cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PLUGIN_CODE_MIN = 10_000  # codes below belong to this package; rule modules of others take theirs from here


class Code(IntEnum):
    """Every documented outcome; `label` is what people see (`MC2204`). 0 is success."""

    OK = 0
    # 1xxx: the transaction itself
    MALFORMED = 1001
    NOT_CANONICAL = 1002
    TOO_LARGE = 1003
    BAD_SIGNATURE = 1004
    BAD_KEY = 1005
    WRONG_CHAIN = 1006
    EXPIRED = 1007
    VALIDITY_TOO_LONG = 1008
    REPLAYED = 1009
    UNKNOWN_OPERATION = 1010
    BAD_FIELD = 1011
    RULE_FAILED = 1012
    DEVELOPMENT_KEY = 1013
    # 20xx: members
    ROLE_REQUIRED = 2001
    NOT_A_MEMBER = 2002
    MEMBER_SUSPENDED = 2003
    MEMBER_EXISTS = 2004
    UNKNOWN_MEMBER = 2005
    KEY_TAKEN = 2006
    UNKNOWN_KEY = 2007
    NOT_A_VALIDATOR = 2008
    UNKNOWN_PROPOSAL = 2009
    PROPOSAL_CLOSED = 2010
    ALREADY_VOTED = 2011
    TOO_FEW_VALIDATORS = 2012
    NO_VALIDATOR_KEPT = 2013
    CHANGE_PENDING = 2014
    KEY_IN_USE = 2015
    KEY_NOT_PROVEN = 2016
    BAD_PARAMETERS = 2017
    BAD_EVIDENCE = 2018
    EVIDENCE_KNOWN = 2019
    EVIDENCE_EXPIRED = 2020
    PROPOSAL_OUTDATED = 2021
    # 21xx: records
    RECORD_EXISTS = 2101
    UNKNOWN_RECORD = 2102
    NOT_THE_PATIENT = 2103
    NOT_GRANTED = 2104
    GRANT_EXPIRED = 2105
    GRANT_REVOKED = 2106
    PURPOSE_NOT_GRANTED = 2107
    UNKNOWN_GRANT = 2108
    NOT_THE_CUSTODIAN = 2109
    RECORD_ERASED = 2110
    RECORD_WITHDRAWN = 2111
    # 22xx: drugs
    BAD_CHECK_DIGIT = 2201
    NOT_PREFIX_OWNER = 2202
    SERIAL_EXISTS = 2203
    UNKNOWN_PACK = 2204
    NOT_IN_CUSTODY = 2205
    ALREADY_DISPENSED = 2206
    PACK_EXPIRED = 2207
    PACK_RECALLED = 2208
    COLD_CHAIN_BROKEN = 2209
    NOT_ACTIVE = 2210
    IN_TRANSIT = 2211
    NOT_IN_TRANSIT = 2212
    NOT_THE_CONSIGNEE = 2213
    PACKED_IN_PARENT = 2214
    NOT_IN_PARENT = 2215
    UNKNOWN_LOT = 2216
    LOT_EXISTS = 2217
    BAD_DATE = 2218
    BAD_IDENTIFIER = 2219
    EXPIRY_UNKNOWN = 2220
    PACKED_TOO_DEEP = 2221
    CONTAINER_FULL = 2222
    # 23xx: payments
    UNKNOWN_CURRENCY = 2301
    NOT_THE_ISSUER = 2302
    INSUFFICIENT_FUNDS = 2303
    CURRENCY_EXISTS = 2304
    UNKNOWN_ESCROW = 2305
    ESCROW_CLOSED = 2306
    NOT_A_PARTY = 2307
    UNKNOWN_POLICY = 2308
    POLICY_INACTIVE = 2309
    POLICY_EXISTS = 2310
    CLAIM_EXISTS = 2311
    UNKNOWN_CLAIM = 2312
    CLAIM_CLOSED = 2313
    ALREADY_CONFIRMED = 2314
    AMOUNT_OUT_OF_RANGE = 2315
    LIMIT_EXCEEDED = 2316
    CLAIM_DIFFERS = 2317
    ESCROW_NOT_EXPIRED = 2318
    # 3xxx: the node and its API
    POOL_FULL = 3001
    TOO_MANY_WAITERS = 3002
    NOT_FINAL_IN_TIME = 3003
    NOT_FOUND = 3004
    BAD_REQUEST = 3005
    BODY_TOO_LARGE = 3006
    UNREACHABLE = 3007
    UNAUTHORISED = 3008
    PRUNED = 3009
    NOT_ACCEPTING = 3010
    UNSUPPORTED_MEDIA_TYPE = 3011
    METHOD_NOT_ALLOWED = 3012
    FORBIDDEN_HOST = 3013
    # 4xxx: configuration and command line
    BAD_CONFIGURATION = 4001
    PORT_TAKEN = 4002
    ALREADY_RUNNING = 4003
    NOT_RUNNING = 4004
    PACKAGE_CLASH = 4005
    CHECK_FAILED = 4006
    CLUSTER_UNHEALTHY = 4007
    BAD_FILE = 4008
    # 5xxx: storage
    DATA_LOCKED = 5001
    DATA_CORRUPT = 5002
    DISK_FULL = 5003
    NOT_INITIALISED = 5004
    FORMAT_MISMATCH = 5005
    STATE_DIVERGED = 5006
    KEY_FORGOTTEN = 5007
    # 9xxx: ours
    INTERNAL = 9001

    @property
    def label(self) -> str:
        return code_label(int(self))


def code_label(code: int) -> str:
    """What people see of a code: `MC` and at least four digits."""
    return f"MC{code:04d}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means and what the reader can do; `retryable` says whether the same call may succeed later."""

    summary: str
    action: str
    retryable: bool = False


class LedgerError(Exception):
    """Base of everything this package raises on purpose."""


class Unreadable(Exception):
    """The state below could not be read. That is this node's trouble and says nothing of a transaction."""


class CodecError(LedgerError):
    """The bytes are not the one canonical encoding of a value within the limits. Drop them, blame the sender."""

    def __init__(self, reason: str, code: Code = Code.MALFORMED) -> None:
        super().__init__(reason)
        self.code = code


class SignatureRefused(LedgerError):
    """A signature or key that the chain's rule refuses."""


class EvidenceRefused(LedgerError):
    """An evidence that convicts nobody: of another epoch, of a stranger, or not signed by the member."""


class ConfigError(LedgerError):
    """Genesis or rule modules that cannot be used. Raised before anything starts."""


class FileError(ConfigError):
    """A file that was named cannot be used. The message begins with its path."""


class Reject(LedgerError):
    """A transaction refused by a rule. `detail` is typed values (never prose): which field, serial, amount."""

    def __init__(self, code: IntEnum, *detail: str | int | bytes) -> None:
        super().__init__(f"{code_label(int(code))} {code.name.lower()}")
        self.code = code
        self.detail = detail


class FieldReject(Reject):
    """A field of the wrong type or out of range; detail[0] is its path, e.g. `serials[3]`."""

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(Code.BAD_FIELD, path, expected)
