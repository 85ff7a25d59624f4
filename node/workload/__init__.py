"""Business to send through a cluster: generated from a seed, or from published files, as an ordered stream of steps.

    steps.py      what a step is
    cast.py       who takes part: development institutions, and patients with keys of their own
    goods.py      drugs: EPCIS documents from production to patient, with frauds
    care.py       patients: FHIR resources, consents, reads
    money.py      transfers, escrow, policies and claims
    business.py   all of that as one stream
    published.py  the same from a folder of files that others published
    perform.py    carries a step out: through the same doors, vault and rules as everything else

Only `perform` and `published` know how a step becomes transactions; a transport is given to it.
"""

from node.workload.business import SIZES, Size, generate
from node.workload.cast import Cast
from node.workload.perform import Outcome, Performer, Refused, Transport
from node.workload.published import published, published_modules
from node.workload.steps import Step

__all__ = [
    "SIZES",
    "Cast",
    "Outcome",
    "Performer",
    "Refused",
    "Size",
    "Step",
    "Transport",
    "generate",
    "published",
    "published_modules",
]
