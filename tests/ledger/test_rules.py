"""The rule layer: what a rule sees and may do, and how modules are registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Annotated, Any

import pytest

from ledger.codec import Value, decode, encode
from ledger.errors import Code, ConfigError, Explanation, Reject
from ledger.fields import Integer, Operation
from ledger.rules import Context, Member, Registry, Role, Rule, RuleModule, member_by_id, member_by_key
from ledger.state import EmptyState, Overlay, state_key


@dataclass(frozen=True, slots=True)
class Add(Operation):
    NAME = "counter.add"
    amount: Annotated[int, Integer(1, 9)]


@dataclass(frozen=True, slots=True)
class AddTwice(Operation):
    NAME = "counter.add"
    VERSION = 2
    amount: Annotated[int, Integer(1, 9)]


class CounterCode(IntEnum):
    FULL = 10_000


class TooLowCode(IntEnum):
    FULL = 9_999


def apply(op: Any, ctx: Context) -> None:
    ctx.put("total", value=op.amount)


COUNTER = RuleModule("counter", 1, (Rule(Add, apply), Rule(AddTwice, apply)), codes=CounterCode)
KEY = b"\x01" * 33
CLINIC = Member("clinic", "Clinic", ("hospital",), (), (), True)


def context(state: Overlay | None = None, module: str = "counter") -> Context:
    return Context(state or Overlay(EmptyState()), module, KEY, b"\x02" * 33, 5, 1_000)


def with_member(member: Member) -> Overlay:
    state = Overlay(EmptyState())
    state.put(state_key("members", "institution", member.id), member.to_value())
    state.put(state_key("members", "key", KEY), member.id)
    return state


def test_operations_are_found_by_name_and_version() -> None:
    registry = Registry([COUNTER])
    assert registry.handler("counter.add", 1).rule.operation is Add
    assert registry.handler("counter.add", 2).rule.operation is AddTwice
    assert [handler.rule.operation.VERSION for handler in registry.handlers] == [1, 2]
    for name, version in (("counter.add", 3), ("counter.sub", 1), ("", 1)):
        with pytest.raises(Reject) as caught:
            registry.handler(name, version)
        assert caught.value.code == Code.UNKNOWN_OPERATION


def test_the_order_of_registration_does_not_matter() -> None:
    """Trap 45. Entry points are found in whatever order the file system gives."""
    other = RuleModule("another", 1, ())
    assert Registry([COUNTER, other]).modules == Registry([other, COUNTER]).modules


@pytest.mark.parametrize(
    "modules",
    [
        [COUNTER, COUNTER],
        [replace(COUNTER, name="other")],
        [replace(COUNTER, rules=(Rule(Add, apply), Rule(Add, apply)))],
        [replace(COUNTER, codes=TooLowCode)],
        [COUNTER, RuleModule("other", 1, (), codes=CounterCode)],
        [RuleModule("other", 1, ()), RuleModule("other", 2, ())],
    ],
    ids=["twice", "foreign operation", "operation twice", "reserved code", "taken code", "name twice"],
)
def test_modules_that_clash_cannot_be_registered(modules: list[RuleModule]) -> None:
    with pytest.raises(ConfigError):
        Registry(modules)


def test_a_plug_ins_codes_are_explained_by_itself() -> None:
    explanation = Explanation("Full.", "Wait.")
    registry = Registry([replace(COUNTER, explanations={CounterCode.FULL: explanation})])
    assert registry.explain(10_000) == explanation
    assert registry.explain(10_001) is None


def test_a_rule_writes_its_own_tables_and_reads_others() -> None:
    state = Overlay(EmptyState())
    ctx, other = context(state), context(state, "other")
    ctx.put("total", "a", 1, b"k", value=("x", 2))
    assert ctx.get("total", "a", 1, b"k") == ("x", 2)
    assert other.get("total", "a", 1, b"k") is None
    assert other.read("counter", "total", "a", 1, b"k") == ("x", 2)
    ctx.delete("total", "a", 1, b"k")
    assert ctx.get("total", "a", 1, b"k") is None
    state.keep()
    assert state.changes == {state_key("counter", "total", "a", 1, b"k"): (None, None)}
    with pytest.raises(TypeError):
        ctx.put("total", value=None)


@pytest.mark.parametrize("part", [True, None, 1.0, ("a",), Role.HOSPITAL], ids=repr)
def test_state_keys_take_plain_text_integers_and_bytes_only(part: Any) -> None:
    """Trap 45."""
    with pytest.raises(TypeError):
        state_key("counter", "total", part)


def test_state_keys_of_different_tables_never_collide() -> None:
    parts: list[tuple[Any, ...]] = [
        ("a", "b"), ("ab", ""), ("a", "b", ""), ("a", "b", b""), ("a", "b", 0), ("a", "b", "0"), ("a", "", "b"),
    ]  # fmt: skip
    assert len({state_key(*one) for one in parts}) == len(parts)


def test_an_overlay_hides_what_is_below_and_keeps_only_what_succeeded() -> None:
    below = Overlay(EmptyState())
    below.put(b"a", 1)
    state = Overlay(below)
    state.put(b"a", 2)
    state.put(b"b", None)
    assert (state.get(b"a"), state.get(b"b"), below.get(b"a")) == (2, None, 1)
    state.keep()
    state.put(b"a", 3)
    state.put(b"c", 4)
    assert (state.get(b"a"), state.get(b"c")) == (3, 4)
    state.drop()
    assert (state.get(b"a"), state.get(b"c")) == (2, None)
    assert state.changes == {b"a": (2, encode(2)), b"b": (None, None)}


def test_lists_are_kept_as_the_tuples_they_are_read_back_as() -> None:
    state = Overlay(EmptyState())
    state.put(b"k", (1, [2, (3, [])]))  # type: ignore[arg-type]
    state.keep()
    assert state.get(b"k") == (1, (2, (3, ()))) == decode(state.changes[b"k"][1] or b"", size_bytes_max=100)


@pytest.mark.parametrize("value", [1.5, {"a": 1}, (1, 2.0), 2**64, "\ud800", (b"x", {1})], ids=repr)
def test_a_value_without_encoding_keeps_nothing_of_its_transaction(value: Any) -> None:
    state = Overlay(EmptyState())
    state.put(b"a", 1)
    state.put(b"b", value)
    with pytest.raises(TypeError):
        state.keep()
    state.drop()
    assert state.changes == {}
    assert state.get(b"a") is None


def test_the_sender_is_the_institution_its_key_signs_for() -> None:
    ctx = context(with_member(CLINIC))
    assert ctx.member == ctx.member_or_none == CLINIC
    assert ctx.institution("clinic") == CLINIC
    with pytest.raises(Reject) as caught:
        ctx.institution("nobody")
    assert caught.value.code == Code.UNKNOWN_MEMBER


def test_strangers_and_suspended_institutions_are_refused() -> None:
    stranger = context()
    assert stranger.member_or_none is None
    with pytest.raises(Reject) as caught:
        _ = stranger.member
    assert caught.value.code == Code.NOT_A_MEMBER
    suspended = context(with_member(CLINIC._replace(active=False)))
    with pytest.raises(Reject) as caught:
        _ = suspended.member
    assert caught.value.code == Code.MEMBER_SUSPENDED


def test_members_are_read_from_the_state_or_are_absent() -> None:
    state = with_member(CLINIC)
    assert member_by_key(state, KEY) == member_by_id(state, "clinic") == CLINIC
    assert member_by_key(state, KEY[:-1]) is None
    assert member_by_id(state, "other") is None


def test_what_an_institution_is_asked_for_with_does_not_hang_on_what_was_asked_before() -> None:
    """Else nodes that remember different questions would execute differently."""
    state = Overlay(EmptyState())
    for _ in range(2):
        assert member_by_id(state, 1) is None  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            member_by_id(state, True)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            member_by_id(state, 1.0)  # type: ignore[arg-type]


def test_index_entries_are_text_or_bytes() -> None:
    ctx = context()
    ctx.index("serial", "ä")
    ctx.index("key", b"\x00")
    value: Value = tuple(ctx.indexes)
    assert value == (("serial", "ä".encode()), ("key", b"\x00"))
