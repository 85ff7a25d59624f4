"""The start-up check that the five package names are ours.

`node`, `ledger`, `storage`, `p2p` and `consensus` are generic names: another wheel may overwrite one of the folders
silently, and then a chain would run on strangers' code.

Must not know: anything of the node.
"""

from __future__ import annotations

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from ledger.errors import ConfigError

DISTRIBUTION = "medchain"
PACKAGES = ("consensus", "ledger", "node", "p2p", "storage")


class PackageClash(ConfigError):
    """Another installed package has the name of one of ours (MC4005)."""


def check_packages() -> None:
    """Raise PackageClash unless all five come from one folder and no other distribution claims one."""
    problems = []
    claims = packages_distributions()
    root = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        others = sorted({owner for owner in claims.get(name, ()) if owner != DISTRIBUTION})
        if others:
            problems.append(f"{name} also belongs to {', '.join(others)}")
        spec = find_spec(name)
        locations = () if spec is None else spec.submodule_search_locations or ()
        if {Path(location).resolve() for location in locations} != {root / name}:
            problems.append(f"{name} is not imported from {root}")
    if problems:
        raise PackageClash("packages: " + "; ".join(problems) + "; install medchain in an environment of its own")
