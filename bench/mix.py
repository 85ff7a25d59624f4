"""The standard mix: which operation is the i-th of a run, who signs it, and what the set-up before it must bring about.

A run is a sequence of cycles; each cycle holds one operation of every kind of the mix, in a fixed interleaved order.
Kinds of one chain (ship, receive, observe, dispense) act on the same subject `spacing` cycles apart, so that the
earlier step is final before the later one is sent. In the first cycles the later steps have no subject yet: an
operation of the same family on a subject of its own stands in. `World.operation(i)` is a pure function of seed and i,
so that each client process makes its own share without asking the others.

Must not know: time, sockets, signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from ledger.codec import Value, encode
from ledger.crypto import KeyPair, hash_bytes
from ledger.gs1 import check_digit

STAFF = {"hospital": 100, "maker": 100, "pharmacy": 100, "insurer": 100}  # keys that sign for an institution
PATIENTS = 600
SENDERS = sum(STAFF.values()) + PATIENTS

CURRENCY = "CNY"
BALANCE_START = 1_000_000_000  # of a patient
BALANCE_INSTITUTION = 100_000 * BALANCE_START  # the insurer pays most claims, and would not last for half an hour
PREFIX = "4012345"  # the development maker's company prefix
PACKS_PER_LOT = 1_000  # one commissioning transaction each
SPARE_PACKS = PACKS_PER_LOT  # stay with the maker and are only observed
EXPIRY_DATE, PRODUCTION_DATE = 29_991_231, 20_250_101
TIME_FAR_MS = 32_472_144_000_000  # the year 2999: nothing of a run expires
ACCOUNTS_NAMED_MAX = 10_000  # of a large state: a real key takes 25 us to make, and nobody pays a million accounts
SERIALS_PER_TX = 500  # of the bulk mix: what one pallet or one shift of a packaging line holds

DRUGS = ("ship", "receive", "observe", "dispense")
RECORDS = ("register", "grant", "access")
PAYMENTS = ("transfer", "claim", "confirm")
BULK = ("commission lot", "ship lot", "receive lot", "observe lot")
FAMILY = {
    **dict.fromkeys(DRUGS, "drugs"), **dict.fromkeys(RECORDS, "records"), **dict.fromkeys(PAYMENTS, "payments"),
    **dict.fromkeys(BULK, "bulk"), "log": "drugs",
}  # fmt: skip
# Interleaved, so that any ten neighbours have the shares of the mix.
MIXES: Mapping[str, tuple[str, ...]] = {
    "standard": (
        "ship", "register", "transfer", "receive", "grant", "claim", "observe", "access", "confirm", "dispense",
    ),
    "drugs": DRUGS,
    "records": RECORDS,
    "payments": PAYMENTS,
    "bulk": BULK,
    "sized": ("log",),
}  # fmt: skip
_STAGE = {
    "receive": 1, "observe": 2, "dispense": 3, "grant": 1, "access": 2, "confirm": 1,
    "ship lot": 1, "receive lot": 2, "observe lot": 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One operation to be signed. `signer` is `<institution>/<number>` or `patient/<number>`, `serials` how many packs
    it is about.
    """

    kind: str
    signer: str
    operation: str
    fields: tuple[Value, ...]
    serials: int = 0


@dataclass(frozen=True)
class World:
    """Everything a run is about, from its seed. `spacing` is in cycles.

    `size_bytes` is that of a whole transaction of the mix `sized`; `accounts` hold money from the beginning
    (bench/accounts.py) and are whom transfers go to, where there are any.
    """

    seed: int
    mix: str
    count: int
    spacing: int
    size_bytes: int = 0
    accounts: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        return MIXES[self.mix]

    @cached_property
    def cycles(self) -> int:
        return -(-self.count // len(self.kinds))

    @cached_property
    def gtin(self) -> str:
        body = f"0{PREFIX}00001"
        return f"{body}{check_digit(body)}"

    def name(self, *parts: object) -> bytes:
        """A commitment of this run: 33 bytes."""
        return hash_bytes("/".join(map(str, ("medchain bench", self.seed, *parts))).encode())

    def key(self, signer: str) -> KeyPair:
        return KeyPair.from_seed(sha256(f"medchain bench key/{self.seed}/{signer}".encode()).digest())

    @cached_property
    def keys(self) -> dict[str, KeyPair]:
        """All thousand senders."""
        names = [f"{institution}/{number}" for institution, staff in STAFF.items() for number in range(staff)]
        return {name: self.key(name) for name in (*names, *(f"patient/{number}" for number in range(PATIENTS)))}

    def nonce(self, i: int) -> bytes:
        return self.name("nonce", i)[1:17]

    def genesis_modules(self, development: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The `modules` of genesis: the development institutions with the staff's keys, all balances."""
        modules = {name: dict(module) for name, module in development.items()}
        modules["members"]["institutions"] = [
            {**item, "keys": [*item["keys"], *self._staff_keys(item["id"])]}
            for item in development["members"]["institutions"]
        ]
        modules["payments"]["balances"] = [
            *({**item, "amount": BALANCE_INSTITUTION} for item in development["payments"]["balances"]),
            *(
                {"currency": CURRENCY, "owner": self.patient(number).hex(), "amount": BALANCE_START}
                for number in range(PATIENTS)
            ),
        ]
        return modules

    def _staff_keys(self, institution: str) -> list[str]:
        return [self.keys[f"{institution}/{number}"].public.hex() for number in range(STAFF.get(institution, 0))]

    def patient(self, number: int) -> bytes:
        return self.keys[f"patient/{number % PATIENTS}"].public

    @property
    def accounts_named(self) -> int:
        """How many of the accounts have a key that somebody could sign with, and are paid to."""
        return min(self.accounts, ACCOUNTS_NAMED_MAX)

    def account(self, number: int) -> bytes:
        """The key of one of the named accounts."""
        return self._account_keys[number % self.accounts_named]

    @cached_property
    def _account_keys(self) -> list[bytes]:
        return [self.key(f"account/{number}").public for number in range(self.accounts_named)]

    def setup(self) -> Iterator[Call]:
        """What must be final before the first operation: packs in bulk, a policy for every patient."""
        families = {FAMILY[kind] for kind in self.kinds}
        if "drugs" in families:
            packs = SPARE_PACKS if self.mix == "sized" else self.cycles + SPARE_PACKS
            for lot in range(-(-packs // PACKS_PER_LOT)):
                serials = tuple(_serial(lot * PACKS_PER_LOT + number) for number in range(PACKS_PER_LOT))
                fields = (
                    self.gtin, f"LOT{lot:04d}", EXPIRY_DATE, PRODUCTION_DATE, (), serials, (200, 800),
                    1_700_000_000_000,
                )  # fmt: skip
                yield Call("commission", f"maker/{lot % STAFF['maker']}", "drugs.commission", fields)
        if "payments" in families:
            for number in range(PATIENTS):
                terms = (
                    self.name("policy", number), self.patient(number), CURRENCY, 8_000, 100_000, 1_000_000, 10**12,
                    0, TIME_FAR_MS,
                )  # fmt: skip
                yield Call("policy", f"insurer/{number % STAFF['insurer']}", "payments.policy", terms)

    def operation(self, i: int) -> Call:
        """The i-th of the run."""
        cycle, slot = divmod(i, len(self.kinds))
        kind = self.kinds[slot]
        subject = cycle - _STAGE.get(kind, 0) * self.spacing
        if subject < 0:
            return self._stand_in(kind, i, cycle)
        make = {
            "drugs": self._drug, "records": self._record, "payments": self._payment, "bulk": self._bulk,
        }  # fmt: skip
        return make[FAMILY[kind]](kind, subject)

    def _stand_in(self, kind: str, i: int, cycle: int) -> Call:
        match FAMILY[kind]:
            case "drugs":
                return self._observe("maker", i, self.cycles + i % SPARE_PACKS)
            case "records":
                return self._register(i, self.name("spare record", i))
            case "bulk":
                return self._commission(f"P{i:09d}")
            case _:
                return self._transfer(i)

    def _drug(self, kind: str, pack: int) -> Call:
        epcs, time_ms = (self.epc(pack),), 1_700_000_000_000 + pack
        match kind:
            case "ship":
                return Call(kind, _staff("maker", pack), "drugs.ship", (epcs, "pharmacy", time_ms), 1)
            case "receive":
                return Call(kind, _staff("pharmacy", pack), "drugs.receive", (epcs, time_ms), 1)
            case "observe":
                return self._observe("pharmacy", pack, pack)
            case "log":
                return self._log(pack)
            case _:
                fields = (epcs, self.name("dispensed to", pack), time_ms)
                return Call(kind, _staff("pharmacy", 7 * pack), "drugs.dispense", fields, 1)

    def _observe(self, institution: str, number: int, pack: int) -> Call:
        readings = (("Temperature", 4_000 + number % 997, "CEL"),)
        fields = ((self.epc(pack),), 1_700_000_000_000 + number, readings, "414/4012345000009")
        return Call("observe", _staff(institution, 3 * number), "drugs.observe", fields, 1)

    def _log(self, number: int) -> Call:
        """What a logger beside a pack in the maker's hand has to say: a temperature, and more until the size is met."""
        head = (self.epc(number % SPARE_PACKS),), 1_700_000_000_000 + number
        temperature = "Temperature", 4_000 + number % 997, "CEL"
        plain = (*head, (temperature,), None)
        padding = padding_of(self.size_bytes - _ENVELOPE_SIZE_BYTES - len(encode(plain)))
        return Call("log", _staff("maker", number), "drugs.observe", (*head, (temperature, *padding), None), 1)

    def _bulk(self, kind: str, lot: int) -> Call:
        epcs = tuple(f"01/{self.gtin}/21/{serial}" for serial in _lot_serials(f"L{lot:09d}"))
        time_ms = 1_700_000_000_000 + lot
        match kind:
            case "commission lot":
                return self._commission(f"L{lot:09d}")
            case "ship lot":
                fields: tuple[Value, ...] = (epcs, "pharmacy", time_ms)
                return Call(kind, _staff("maker", lot), "drugs.ship", fields, SERIALS_PER_TX)
            case "receive lot":
                return Call(kind, _staff("pharmacy", lot), "drugs.receive", (epcs, time_ms), SERIALS_PER_TX)
            case _:
                readings = (("Temperature", 4_000 + lot % 997, "CEL"),)
                fields = (epcs, time_ms, readings, "414/4012345000009")
                return Call(kind, _staff("pharmacy", 3 * lot), "drugs.observe", fields, SERIALS_PER_TX)

    def _commission(self, lot: str) -> Call:
        fields = (
            self.gtin, lot, EXPIRY_DATE, PRODUCTION_DATE, (), _lot_serials(lot), (200, 800), 1_700_000_000_000,
        )  # fmt: skip
        return Call("commission lot", _staff("maker", int(lot[1:])), "drugs.commission", fields, SERIALS_PER_TX)

    def _record(self, kind: str, number: int) -> Call:
        record = self.name("record", number)
        match kind:
            case "register":
                return self._register(number, record)
            case "grant":
                fields: tuple[Value, ...] = ("insurer", ("payment",), TIME_FAR_MS, (record,), None, None)
                return Call(kind, f"patient/{number % PATIENTS}", "records.grant", fields)
            case _:
                return Call(kind, _staff("insurer", number), "records.access", (record, "payment", "claim-review"))

    def _register(self, number: int, record: bytes) -> Call:
        fields = (record, self.patient(number), "Observation", 2_000 + number % 1_000)
        return Call("register", _staff("hospital", number), "records.register", fields)

    def _payment(self, kind: str, number: int) -> Call:
        if kind == "transfer":
            return self._transfer(number)
        patient, amount = number % PATIENTS, 10_000 + number % 100
        claim, policy, treatment = (self.name(part, number) for part in ("claim", "policy", "treatment"))
        policy = self.name("policy", patient)
        if kind == "claim":
            return Call(kind, _staff("hospital", number), "payments.claim", (claim, policy, amount, treatment))
        fields = (claim, policy, "hospital", amount, treatment)
        return Call(kind, f"patient/{patient}", "payments.confirm", fields)

    def _transfer(self, number: int) -> Call:
        # Every sender in turn: an institution's staff pay from its account, patients from their own.
        place = number * 7 % SENDERS
        signer = _SENDER_NAMES[place]
        to = (self.account(number * 13) if self.accounts else self.patient(number * 13 + 1)).hex()
        return Call("transfer", signer, "payments.transfer", (CURRENCY, to, 1 + number % 50, f"INV-{number:010d}"))

    def epc(self, pack: int) -> str:
        return f"01/{self.gtin}/21/{_serial(pack)}"


def padding_of(size_bytes: int) -> tuple[Value, ...]:
    """Readings of quantities that no rule looks at, of `size_bytes` encoded, or as near as readings go."""
    readings: list[Value] = []
    while size_bytes >= _READING_SIZE_BYTES:
        # The last two share what is left, so that none remains that is too small for a reading.
        room = size_bytes if size_bytes <= _READING_SIZE_BYTES_MAX else min(
            _READING_SIZE_BYTES_MAX, max(size_bytes - _READING_SIZE_BYTES_MAX, size_bytes // 2)
        )  # fmt: skip
        readings.append((f"{len(readings):03d}".ljust(room - _READING_SIZE_BYTES + _NAME_SIZE_BYTES, "p"), 0, "C62"))
        size_bytes -= room
    return tuple(readings)


def _lot_serials(lot: str) -> tuple[str, ...]:
    return tuple(f"{lot}{number:03d}" for number in range(SERIALS_PER_TX))


def _serial(pack: int) -> str:
    return f"SN{pack:010d}"


def _staff(institution: str, number: int) -> str:
    return f"{institution}/{number % STAFF[institution]}"


_NAME_SIZE_BYTES, _NAME_SIZE_BYTES_MAX = 32, 128  # of a reading; from 32 on its length takes two bytes
_READING_SIZE_BYTES = len(encode(("p" * _NAME_SIZE_BYTES, 0, "C62")))
_READING_SIZE_BYTES_MAX = _READING_SIZE_BYTES + _NAME_SIZE_BYTES_MAX - _NAME_SIZE_BYTES
# What a transaction holds around its fields: signature, key, tag, chain, name, version, nonce, validity.
_ENVELOPE_SIZE_BYTES = 186

_SENDER_NAMES: Sequence[str] = tuple(
    [f"{institution}/{number}" for institution, staff in STAFF.items() for number in range(staff)]
    + [f"patient/{number}" for number in range(PATIENTS)]
)
