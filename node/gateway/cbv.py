"""The words of EPCIS 2.0 and CBV 2.0: which terms, vocabularies and members the standard knows.

Lives here: the standard vocabularies with their four spellings (bare word, `urn:epcglobal:cbv:...`, the web form
`https://ref.gs1.org/cbv/...`, and the compact form `cbv:...`), the members of each event type, and the namespaces that
the standard's own JSON-LD context declares. A term is known or it is foreign; a foreign one must be a URI outside the
standard's namespaces, so a misspelt standard word is never taken for a partner's own.

Must not know: documents, or what a term does to a pack.
Sources: GS1 CBV 2.0 section 7 (vocabularies), EPCIS 2.0 section 7.4 (event types) and 10 (JSON/JSON-LD binding).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "BIZ_STEP",
    "BIZ_TRANSACTION_TYPE",
    "COMMON_MEMBERS",
    "COMPONENT",
    "CONTEXT_URLS",
    "DISPOSITION",
    "ERROR_REASON",
    "EVENT_MEMBERS",
    "MEASUREMENT_TYPE",
    "SENSOR_EXCEPTION",
    "SOURCE_DEST_TYPE",
    "STANDARD_PREFIXES",
    "Vocabulary",
    "is_standard_context",
    "term_name",
    "words",
]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One of the standard's closed lists: its words, and where it lives in URN, web and compact form."""

    terms: frozenset[str]
    urn: str  # prefix of the URN form; empty where there is none
    web_classes: tuple[str, ...]  # what precedes the word in web and compact form, e.g. `BizStep-`
    namespace: str  # compact prefix: cbv or gs1

    def word(self, local: str) -> str | None:
        """The word that a local name of the namespace spells; None for others."""
        bare = (local.removeprefix(web_class) for web_class in self.web_classes if local.startswith(web_class))
        return next((word for word in bare if word in self.terms), None)


def words(text: str) -> frozenset[str]:
    """A closed list, written as a sentence."""
    return frozenset(text.split())


BIZ_STEP = Vocabulary(
    words(
        "accepting arriving assembling collecting commissioning consigning creating_class_instance cycle_counting "
        "decommissioning departing destroying disassembling dispensing encoding entering_exiting holding inspecting "
        "installing killing loading other packing picking receiving removing repackaging repairing replacing "
        "reserving retail_selling sampling sensor_reporting shipping staging_outbound stock_taking stocking storing "
        "transporting unloading unpacking void_shipping"
    ),
    "urn:epcglobal:cbv:bizstep:",
    ("BizStep-",),
    "cbv",
)
DISPOSITION = Vocabulary(
    words(
        "active available completeness_inferred completeness_verified conformant container_closed container_open "
        "damaged destroyed dispensed disposed encoded expired in_progress in_transit inactive mismatch_class "
        "mismatch_instance mismatch_quantity needs_replacement no_pedigree_match non_conformant non_sellable_other "
        "partially_dispensed recalled reserved retail_sold returned sellable_accessible sellable_not_accessible "
        "stolen unavailable unknown"
    ),
    "urn:epcglobal:cbv:disp:",
    ("Disp-",),
    "cbv",
)
BIZ_TRANSACTION_TYPE = Vocabulary(
    words("bol cert desadv inv pedigree po poc prodorder recadv rma testprd testres upevt"),
    "urn:epcglobal:cbv:btt:",
    ("BTT-",),
    "cbv",
)
SOURCE_DEST_TYPE = Vocabulary(
    words("location owning_party possessing_party"), "urn:epcglobal:cbv:sdt:", ("SDT-",), "cbv"
)
ERROR_REASON = Vocabulary(words("did_not_occur incorrect_data"), "urn:epcglobal:cbv:er:", ("ER-",), "cbv")
COMPONENT = Vocabulary(
    words(
        "altitude axial_distance azimuth easting elevation_angle height latitude longitude northing polar_angle "
        "spherical_radius x y z"
    ),
    "urn:epcglobal:cbv:comp:",
    ("Comp-",),
    "cbv",
)
# Published documents have the bare word behind the prefix, the web vocabulary a class before it; MT- is the class of a
# draft, which tools still send.
# Latitude and Longitude are not in the published list, but are what position loggers send; they mean no ambiguity.
MEASUREMENT_TYPE = Vocabulary(
    words(
        "AbsoluteHumidity AbsorbedDose AbsorbedDoseRate Acceleration Altitude AmountOfSubstance "
        "AmountOfSubstancePerUnitVolume Angle AngularAcceleration AngularMomentum AngularVelocity Area Capacitance "
        "Conductance Conductivity Count Density Dimensionless DoseEquivalent DoseEquivalentRate DynamicViscosity "
        "ElectricCharge ElectricCurrent ElectricCurrentDensity ElectricFieldStrength Energy Exposure Force Frequency "
        "Illuminance Inductance Irradiance KinematicViscosity Latitude Length LinearMomentum Longitude Luminance "
        "LuminousFlux LuminousIntensity MagneticFlux MagneticFluxDensity MagneticVectorPotential Mass "
        "MassConcentration MassFlowRate MassPerAreaTime MemoryCapacity MolalityOfSolute MolarEnergy MolarMass "
        "MolarVolume Power Pressure RadiantFlux RadiantIntensity Radioactivity RelativeHumidity Resistance "
        "Resistivity SolidAngle SpecificVolume Speed SurfaceDensity SurfaceTension Temperature Time Torque Voltage "
        "Volume VolumeFlowRate VolumeFraction VolumetricFlux Wavenumber"
    ),
    "",
    ("", "MeasurementType-", "MT-"),
    "gs1",
)
SENSOR_EXCEPTION = Vocabulary(words("ALARM_CONDITION ERROR_CONDITION"), "", ("", "SensorAlertType-"), "gs1")

# Prefixes that the EPCIS context declares, so that no document need repeat them.
STANDARD_PREFIXES = frozenset(
    {"cbv", "cbvmda", "dcterms", "epcis", "gs1", "owl", "rdf", "rdfs", "schema", "skos", "xsd"}
)
CONTEXT_URLS = (
    re.compile(r"https?://ref\.gs1\.org/standards/epcis/(?:[0-9.]+/)?epcis-context\.jsonld"),
    re.compile(r"https?://gs1\.github\.io/EPCIS/epcis-context(?:-[a-z]+)?\.jsonld"),
)

# Where the standard's own terms live. Older drafts said ns.gs1.org; the web vocabulary has two hosts.
_WEB = {
    "cbv": re.compile(r"https?://(?:ref|ns)\.gs1\.org/cbv/(.*)", re.DOTALL),
    "gs1": re.compile(r"https?://(?:(?:www\.)?gs1\.org|ref\.gs1\.org)/voc/(.*)", re.DOTALL),
}
_URN_SPACE = "urn:epcglobal:cbv:"


def is_standard_context(url: str) -> bool:
    """Whether a `@context` address is the EPCIS context itself, whose terms are known here."""
    return any(pattern.fullmatch(url) for pattern in CONTEXT_URLS)


def term_name(vocabulary: Vocabulary, text: str) -> str | None:
    """The bare word of a standard term in any spelling; the text itself when foreign; None when it is neither.

    A compact form whose local name does not claim the vocabulary (`cbv:my_own_party`) counts as foreign: published
    documents use such names. Where words stand bare behind the prefix (`gs1:Temperature`) every local name claims it.
    Whether foreign text is a URI is the caller's question.
    """
    if text in vocabulary.terms:
        return text
    if ":" not in text:
        return None
    if text.lower().startswith(_URN_SPACE):
        word = text[len(vocabulary.urn) :] if vocabulary.urn and text.startswith(vocabulary.urn) else ""
        return word if word in vocabulary.terms else None
    prefix, _, local = text.partition(":")
    if prefix == vocabulary.namespace:
        return vocabulary.word(local) or (None if local.startswith(vocabulary.web_classes) else text)
    for namespace, pattern in _WEB.items():
        if match := pattern.fullmatch(text):
            return vocabulary.word(match.group(1)) if namespace == vocabulary.namespace else None
    return text


_WHERE_AND_WHY = (
    "bizStep disposition persistentDisposition readPoint bizLocation bizTransactionList sourceList destinationList "
    "sensorElementList"
)
# Members of every event, then those of each type (EPCIS 2.0 section 7.4.1 to 7.4.6); any other must be namespaced.
COMMON_MEMBERS = words(
    "@context type eventID eventTime recordTime eventTimeZoneOffset certificationInfo errorDeclaration"
)
EVENT_MEMBERS: dict[str, frozenset[str]] = {
    "ObjectEvent": words(f"action epcList quantityList ilmd {_WHERE_AND_WHY}"),
    "AggregationEvent": words(f"action parentID childEPCs childQuantityList {_WHERE_AND_WHY}"),
    "TransactionEvent": words(f"action parentID epcList quantityList {_WHERE_AND_WHY}"),
    "TransformationEvent": words(
        "inputEPCList inputQuantityList outputEPCList outputQuantityList transformationID ilmd " + _WHERE_AND_WHY
    ),
    "AssociationEvent": words(f"action parentID childEPCs childQuantityList {_WHERE_AND_WHY}"),
}
