"""Rule modules come from entry points, exactly those that genesis names; the five package names are ours."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledger.errors import ConfigError
from ledger.genesis import Genesis, development_key
from node import packages, plugins


def genesis(**modules: dict[str, object]) -> Genesis:
    key = development_key("hospital").public
    return Genesis("t", 1, (key,), {"members": {"version": 1}, **modules}, development=True)


def test_only_the_modules_that_genesis_names_are_active() -> None:
    registry = plugins.load_registry(genesis(payments={"version": 1}))
    assert [module.name for module in registry.modules] == ["members", "payments"]


def test_the_four_built_in_modules_are_installed() -> None:
    assert {"members", "records", "drugs", "payments"} <= set(plugins.available_modules())


def test_everything_missing_or_different_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load_registry(genesis(vaccines={"version": 1}, drugs={"version": 9}, records={}))
    text = str(caught.value)
    assert "rule module vaccines version 1: not installed" in text
    assert "rule module drugs: genesis wants version 9" in text
    assert "rule module records: genesis must state its version" in text


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("no_such_module_of_rules:MODULE", "cannot be imported"),
        ("ledger.modules.drugs:NO_SUCH", "cannot be imported"),
        ("ledger.modules.drugs:MODULE", "not a rule module of that name"),
        ("ledger.errors:Code", "not a rule module of that name"),
    ],
)
def test_an_entry_point_that_does_not_hold_what_it_says_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, part: str
) -> None:
    found = [*plugins.available_modules().values(), EntryPoint("extra", value, plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    with pytest.raises(ConfigError, match=part):
        plugins.load_registry(genesis(extra={"version": 1}))


@pytest.mark.parametrize("source", ["def f(:", "1 / 0", "raise KeyError('x')"])
def test_a_plug_in_that_breaks_while_it_is_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    (tmp_path / "broken_rules.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [*plugins.available_modules().values(), EntryPoint("extra", "broken_rules:MODULE", plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    with pytest.raises(ConfigError, match=r"rule module extra: broken_rules:MODULE cannot be imported: .*Error"):
        plugins.load_registry(genesis(extra={"version": 1}))


def test_two_packages_that_offer_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("drugs", value, plugins.GROUP) for value in ("a:MODULE", "b:MODULE")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    with pytest.raises(ConfigError, match="uninstall one"):
        plugins.available_modules()


def test_the_five_packages_are_ours_here() -> None:
    packages.check_packages()


def test_another_distribution_with_one_of_the_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "packages_distributions", lambda: {"storage": ["medchain", "stowage"]})
    with pytest.raises(packages.PackageClash, match="storage also belongs to stowage"):
        packages.check_packages()


def test_a_package_from_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.find_spec

    def find(name: str) -> object:
        return SimpleNamespace(submodule_search_locations=["/elsewhere/p2p"]) if name == "p2p" else real(name)

    monkeypatch.setattr(packages, "find_spec", find)
    with pytest.raises(packages.PackageClash, match="p2p is not imported from"):
        packages.check_packages()
