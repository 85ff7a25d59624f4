"""Rule modules, found by the entry point group `medchain.rules`. Only those that genesis names are loaded.

Must not know: what a rule does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from ledger.errors import ConfigError
from ledger.genesis import Genesis
from ledger.rules import Registry, RuleModule

GROUP = "medchain.rules"


def available_modules() -> Mapping[str, EntryPoint]:
    """Every installed rule module by name, not loaded. ConfigError if two packages offer the same name."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ConfigError(f"rule module {point.name}: offered as {other.value} and as {point.value}; uninstall one")
    return found


def load_registry(genesis: Genesis) -> Registry:
    """The modules that `genesis` names, each in its version. ConfigError names everything missing or different."""
    available = available_modules()
    modules: list[RuleModule] = []
    problems: list[str] = []
    for name in sorted(genesis.modules):
        wanted = genesis.modules[name].get("version")
        if type(wanted) is not int:
            problems.append(f"rule module {name}: genesis must state its version as an integer")
        elif name not in available:
            problems.append(f"rule module {name} version {wanted}: not installed; install the package that offers it")
        else:
            _collect(available[name], wanted, modules, problems)
    if problems:
        raise ConfigError("; ".join(problems))
    return Registry(modules)


def _collect(point: EntryPoint, wanted: int, modules: list[RuleModule], problems: list[str]) -> None:
    try:
        module = point.load()
    except Exception as error:  # a stranger's code runs here: whatever it raises is its fault, and its name is wanted
        problem = f"{point.value} cannot be imported: {type(error).__name__}: {error}"
        problems.append(f"rule module {point.name}: {problem}")
        return
    if not isinstance(module, RuleModule) or module.name != point.name:
        problems.append(f"rule module {point.name}: {point.value} is not a rule module of that name")
    elif module.version != wanted:
        problems.append(f"rule module {point.name}: genesis wants version {wanted}, installed is {module.version}")
    else:
        modules.append(module)
