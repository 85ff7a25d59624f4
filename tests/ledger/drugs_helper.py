"""A small drug supply chain for tests: a maker, a distributor, two pharmacies, a hospital, a regulator, an insurer."""

from __future__ import annotations

from ledger.gs1 import check_digit, day_end_ms, sgtin
from ledger.modules import drugs
from ledger.modules.drug_operations import Aggregate, Commission, Disaggregate, Dispense, Observe, Receive, Ship
from ledger.modules.drugs import PackState, pack_state
from tests.ledger.chain import Chain, institution, key_pair

PREFIX = "9521234"
GTIN = "09521234001010"
CASE_GTIN = "19521234001017"
SSCC = "00/395212340000000014"
EXPIRY = 20280630
START_MS = day_end_ms(20260630)  # 2026-07-01T00:00Z

MAKER, CARRIER, PHARMACY, OTHER = key_pair("maker"), key_pair("distributor"), key_pair("pharmacy"), key_pair("other")
HOSPITAL, REGULATOR, INSURER, RIVAL = (
    key_pair("hospital"),
    key_pair("regulator"),
    key_pair("insurer"),
    key_pair("rival"),
)
STRANGER = key_pair("stranger")

INSTITUTIONS = [
    institution("maker", "manufacturer", prefixes=[PREFIX], glns=["9521234000013"]),
    institution("distributor", "distributor", glns=["9521234000020"]),
    institution("pharmacy", "pharmacy", glns=["9521234000044"]),
    institution("other", "pharmacy"),
    institution("hospital", "hospital"),
    institution("regulator", "regulator"),
    institution("insurer", "insurer"),
    institution("rival", "manufacturer", prefixes=["9529999"]),
]


def new_chain(kind: type[Chain] = Chain) -> Chain:
    return kind([drugs.MODULE], {"members": {"institutions": INSTITUTIONS}}, time_ms=START_MS)


def gtin(payload: str) -> str:
    """13 digits with their check digit."""
    return payload + str(check_digit(payload))


def pack(number: int) -> str:
    return sgtin(GTIN, f"SN{number:05d}")


def packs(count: int) -> tuple[str, ...]:
    return tuple(map(pack, range(count)))


def commission(
    *serials: str,
    gtin: str = GTIN,
    lot: str = "LOT1",
    expiry: int = EXPIRY,
    produced: int = 20260701,
    ingredients: tuple[str, ...] = (),
    temperature: tuple[int, int] | None = (200, 800),
) -> Commission:
    return Commission(gtin, lot, expiry, produced, ingredients, serials, temperature, 0)


def stocked(count: int = 3, **facts: object) -> Chain:
    """A chain on which the maker has commissioned `count` packs."""
    chain = new_chain()
    serials = tuple(epc[21:] for epc in packs(count))
    assert chain.send(MAKER, commission(*serials, **facts)).ok  # type: ignore[arg-type]
    return chain


def aggregate(parent: str, *children: str) -> Aggregate:
    return Aggregate(parent, children, 0)


def disaggregate(parent: str, *children: str) -> Disaggregate:
    return Disaggregate(parent, children, 0)


def ship(to: str, *epcs: str) -> Ship:
    return Ship(epcs, to, 0)


def receive(*epcs: str) -> Receive:
    return Receive(epcs, 0)


def dispense(*epcs: str) -> Dispense:
    return Dispense(epcs, None, 0)


def observe(degrees: int, *epcs: str) -> Observe:
    return Observe(epcs, 0, (("Temperature", degrees * 1000, "CEL"),), None)


def at_pharmacy(chain: Chain, *epcs: str) -> Chain:
    assert chain.send(MAKER, ship("pharmacy", *epcs)).ok
    assert chain.send(PHARMACY, receive(*epcs)).ok
    return chain


def state(chain: Chain, epc: str) -> PackState:
    found = pack_state(chain, epc)
    assert found is not None
    return found
