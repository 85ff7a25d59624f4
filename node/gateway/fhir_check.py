"""The check of a FHIR R4 resource against the published models' declarations: a walk that names every wrong field.

Lives here: the types of R4, the required bindings, the primitive types, and one walk over parsed JSON that collects
problems. The declarations of `fhir.resources` (release R4B) say which fields a type has, of what type, which are
required, which exclude each other, which codes are admitted. They are walked instead of building model objects, because
building those

- does not check bound codes at all, and turns `"5"` and `5.0` into integers;
- refuses some of what R4 allows (a `_value[x]` beside an extension's value, version-1 UUIDs, types that R4B dropped);
- puts the offending value into the error text, which for a patient's record must never reach a log.

R4 (4.0.1) is the standard. Its types that R4B dropped or redefined get the checks common to all resources.

Must not know: bytes, records, money. Sources: hl7.org/fhir/R4 (json.html, datatypes.html, extensibility.html).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Any, Final, TypeAlias, get_args, get_origin

__all__ = ["Json", "Problem", "epoch_ms", "problems_of"]

Json: TypeAlias = Mapping[str, Any]

PROBLEMS_MAX: Final = 50  # enough to repair a resource in one go; a hostile one cannot make a long answer
STRING_CHARS_MAX: Final = 1024 * 1024  # the standard's own limit for `string` and its kin (datatypes.html)
DECIMAL_EXPONENT_MAX: Final = 400  # a few bytes like 1e999999999 must not become a number of a gigabyte later on


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The resource types of R4 4.0.1, so that an unknown type is refused before anything is imported by its name.
_TYPES: Final = _words(
    """Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic
    Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry
    ChargeItem ChargeItemDefinition Claim ClaimResponse ClinicalImpression CodeSystem Communication
    CommunicationRequest CompartmentDefinition Composition ConceptMap Condition Consent Contract Coverage
    CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric
    DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference Encounter Endpoint
    EnrollmentRequest EnrollmentResponse EpisodeOfCare EventDefinition ExampleScenario ExplanationOfBenefit
    FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse HealthcareService ImagingStudy
    Immunization ImmunizationEvaluation ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice
    Library Linkage List Location Measure MeasureReport Media Medication MedicationAdministration
    MedicationDispense MedicationKnowledge MedicationRequest MedicationStatement MessageDefinition MessageHeader
    MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition OperationDefinition
    OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice PaymentReconciliation
    Person PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse
    RelatedPerson RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject
    RiskAssessment Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition StructureDefinition
    StructureMap Subscription Substance SupplyDelivery SupplyRequest Task TerminologyCapabilities TestReport
    TestScript ValueSet VerificationResult VisionPrescription"""
)
# Of R4, but dropped by R4B or (the two Evidence types) given other fields there: no model says what they hold.
_TYPES_WITHOUT_MODEL: Final = _words(
    """EffectEvidenceSynthesis Evidence EvidenceVariable MedicinalProduct MedicinalProductAuthorization
    MedicinalProductContraindication MedicinalProductIndication MedicinalProductIngredient
    MedicinalProductInteraction MedicinalProductManufactured MedicinalProductPackaged
    MedicinalProductPharmaceutical MedicinalProductUndesirableEffect RiskEvidenceSynthesis SubstanceNucleicAcid
    SubstancePolymer SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial
    SubstanceSpecification"""
)

_OBSERVATION: Final = "registered preliminary final amended corrected cancelled entered-in-error unknown"
_ENCOUNTER: Final = "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown"
# Required bindings that the models' declarations abbreviate (ending in "+"), omit, or state wrongly (None: not bound).
_BINDINGS: Final[Mapping[tuple[str, str], str | None]] = {
    ("AuditEvent", "action"): "C R U D E",
    ("AuditEvent", "outcome"): "0 4 8 12",
    ("AuditEventAgentNetwork", "type"): "1 2 3 4 5",
    ("CapabilityStatement", "format"): None,
    ("DetectedIssue", "status"): _OBSERVATION,
    ("DeviceUdiCarrier", "entryType"): "barcode rfid manual card self-reported unknown",
    ("DeviceUseStatement", "status"): "active completed entered-in-error intended stopped on-hold",
    ("DiagnosticReport", "status"): "partial appended " + _OBSERVATION,
    ("Encounter", "status"): _ENCOUNTER,
    ("EncounterStatusHistory", "status"): _ENCOUNTER,
    ("Expression", "language"): None,
    ("Observation", "status"): _OBSERVATION,
    ("Quantity", "comparator"): "< <= >= >",
    ("QuestionnaireItem", "type"): "group display question boolean decimal integer date dateTime time string text url "
    "choice open-choice attachment reference quantity",
    ("RiskAssessment", "status"): _OBSERVATION,
    ("StructureMapGroupRuleTarget", "transform"): "create copy truncate escape cast append translate reference dateOp "
    "uuid pointer evaluate cc c qty id cp",
    ("SupplyRequest", "status"): "draft active suspended cancelled completed entered-in-error unknown",
    (
        "Task",
        "status",
    ): "draft requested received accepted rejected ready cancelled in-progress on-hold failed "
    "completed entered-in-error",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason for a refusal: a JSON pointer (RFC 6901) and a short sentence without any value."""

    pointer: str
    reason: str


def problems_of(value: object) -> tuple[Problem, ...]:
    """Why parsed JSON (fractions as Decimal) is no valid resource, at most PROBLEMS_MAX reasons; empty if it is one."""
    checker = _Checker()
    with suppress(_TooMany):
        checker.resource(value, within=False)
    return tuple(checker.problems)


# --- Shapes: what the models declare, read once per type ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """One element: a primitive (`kind` is its FHIR name), a resource, or a complex type (`target` gives its model)."""

    kind: str
    target: Callable[[], type] | None
    many: bool
    codes: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """One complex type or resource: its elements, the required ones, and its choices (`x[x]`) with whether required."""

    name: str
    fields: Mapping[str, _Field]
    required: frozenset[str]
    choices: tuple[tuple[str, frozenset[str], bool], ...]


def _model(type_name: str) -> type:
    """The model of a known type; only its own module is imported (the first costs about 0.3 s, later ones 0.03 s)."""
    model: type = getattr(import_module(f"fhir.resources.R4B.{type_name.lower()}"), type_name)
    return model


def _annotated(annotation: Any) -> Iterator[Any]:
    """Every type and marker inside an annotation, outermost first."""
    yield annotation
    if get_origin(annotation) is not None:
        for inner in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
            yield from _annotated(inner)


@cache  # bounded by the number of model classes, about a thousand
def _shape(model: Any) -> _Shape:
    names = {cls.__name__ for cls in model.__mro__}
    fields: dict[str, _Field] = {}
    required: set[str] = set()
    choices: dict[str, set[str]] = {}
    demanded: set[str] = set()
    for python_name, info in model.model_fields.items():
        name: str = info.alias or python_name
        if name.startswith("_") or name in ("fhir_comments", "resourceType"):
            continue
        extra = info.json_schema_extra or {}
        fields[name] = _field(names, name, info, extra)
        if info.is_required() or extra.get("element_required"):
            required.add(name)
        if choice := extra.get("one_of_many"):
            choices.setdefault(choice, set()).add(name)
            if extra.get("one_of_many_required"):
                demanded.add(choice)
    options = tuple((choice, frozenset(members), choice in demanded) for choice, members in choices.items())
    return _Shape(model.__name__, fields, frozenset(required), options)


def _field(class_names: set[str], name: str, info: Any, extra: Mapping[str, Any]) -> _Field:
    parts = [*_annotated(info.annotation), *info.metadata]
    many = any(get_origin(part) is list for part in parts)
    stated = [text for owner in class_names if (text := _BINDINGS.get((owner, name), "")) != ""]
    codes: frozenset[str] | None = None
    if stated:
        codes = frozenset(stated[0].split()) if stated[0] else None
    elif extra.get("enum_values"):
        codes = frozenset(extra["enum_values"])
    kinds = [part.__visit_name__ for part in parts if isinstance(getattr(part, "__visit_name__", None), str)]
    if kinds:
        return _Field(kinds[0], None, many, codes)
    for part in parts:
        if part is bool:
            return _Field("boolean", None, many, None)
        if getattr(part, "__name__", "") == "UUID":
            return _Field("uuid", None, many, None)
        if hasattr(part, "get_model_klass"):
            is_resource = part.__name__ == "ResourceType"
            return _Field("resource" if is_resource else "complex", part.get_model_klass, many, None)
    raise AssertionError(f"a model declares an element of unknown kind: {name}")


# --- Primitives (datatypes.html) ------------------------------------------------------------------------------------

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CODE = re.compile(r"\S+(\s\S+)*")
_URI = re.compile(r"\S+")
_OID = re.compile(r"urn:oid:[0-2](\.(0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BASE64 = re.compile(r"[0-9A-Za-z+/=\s]+")
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
_ZONE = r"(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_TIME = re.compile(_CLOCK)
_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
_DATE_TIME = re.compile(rf"[0-9]{{4}}(-[0-9]{{2}}(-[0-9]{{2}}(T{_CLOCK}{_ZONE})?)?)?")
_INSTANT = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_CLOCK}{_ZONE}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DATED = (_DATE, _DATE_TIME, _INSTANT)
_FIELD_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9_\-]{0,63}")

_INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    "integer": (-(2**31), 2**31 - 1),
    "integer64": (-(2**63), 2**63 - 1),
    "unsignedInt": (0, 2**31 - 1),
    "positiveInt": (1, 2**31 - 1),
}
_PATTERNS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "id": (_ID, "not an id"),
    "code": (_CODE, "not a code"),
    "uri": (_URI, "not a URI"),
    "url": (_URI, "not a URL"),
    "canonical": (_URI, "not a canonical URL"),
    "oid": (_OID, "not an OID"),
    "uuid": (_UUID, "not a UUID"),
    "time": (_TIME, "not a time"),
    "date": (_DATE, "not a date"),
    "dateTime": (_DATE_TIME, "not a dateTime"),
    "instant": (_INSTANT, "not an instant"),
}


def _primitive_problem(kind: str, value: object) -> str:
    """Why `value` is no `kind`, or the empty string."""
    if kind == "boolean":
        return "" if isinstance(value, bool) else "not a boolean"
    if limits := _INTEGERS.get(kind):
        if isinstance(value, bool) or not isinstance(value, int):
            return "not an integer"
        return "" if limits[0] <= value <= limits[1] else "integer out of range"
    if kind == "decimal":
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            return "not a number"
        number = Decimal(value)
        return "" if number.is_finite() and abs(number.adjusted()) <= DECIMAL_EXPONENT_MAX else "number out of range"
    if not isinstance(value, str):
        return "not a string"
    if not value or "\0" in value:
        return "empty" if not value else "holds a NUL character"
    if kind == "base64Binary":
        digits = sum(1 for _ in re.finditer(r"\S", value)) if re.search(r"\s", value) else len(value)
        return "" if digits % 4 == 0 and _BASE64.fullmatch(value) else "not base64"
    if kind != "xhtml" and len(value) > STRING_CHARS_MAX:
        return "longer than the standard allows"
    pattern, reason = _PATTERNS.get(kind, (None, ""))
    if pattern is None or (pattern.fullmatch(value) and (pattern not in _DATED or _is_calendar(value))):
        return ""
    return reason


def _is_calendar(text: str) -> bool:
    parts = [int(part) for part in text[:10].split("-")]
    try:
        date(*[*parts, 1, 1][:3])
    except ValueError:
        return False
    return True


# --- The walk -------------------------------------------------------------------------------------------------------


class _TooMany(Exception):
    """PROBLEMS_MAX are found; the rest is not looked at."""


class _Checker:
    """One walk over one resource, collecting problems; `_path` is where it stands."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._path: list[str | int] = []

    def _problem(self, reason: str, *tail: str | int) -> None:
        tokens = (str(token).replace("~", "~0").replace("/", "~1") for token in (*self._path, *tail))
        self.problems.append(Problem("".join("/" + token for token in tokens), reason))
        if len(self.problems) >= PROBLEMS_MAX:
            raise _TooMany

    def resource(self, value: object, *, within: bool) -> None:
        """Check a whole resource; `within` says that it is contained in another (which may then not contain more)."""
        if not isinstance(value, dict):
            self._problem("not a resource")
            return
        name = value.get("resourceType")
        if not isinstance(name, str) or name not in _TYPES | _TYPES_WITHOUT_MODEL:
            reason = "not a resource type of FHIR R4" if "resourceType" in value else "required"
            self._problem(reason, "resourceType")
            return
        if within and "contained" in value:
            self._problem("a contained resource contains another", "contained")
        if "id" in value and (problem := _primitive_problem("id", value["id"])):
            self._problem(problem, "id")
            return
        members = {key: item for key, item in value.items() if key != "resourceType"}
        modelled = name in _TYPES
        shape = _shape(_model(name if modelled else "DomainResource"))
        self._members(members, shape, open_ended=not modelled)

    def _complex(self, value: object, shape: _Shape) -> None:
        if not isinstance(value, dict):
            self._problem("not an object")
            return
        if not value:
            self._problem("empty")
            return
        self._members(value, shape, open_ended=False)

    def _members(self, value: Json, shape: _Shape, *, open_ended: bool) -> None:
        for name, item in value.items():
            base = name.removeprefix("_")
            declared = shape.fields.get(base)
            if declared is None or (name != base and declared.target is not None):
                self._unknown(name, item, open_ended)
                continue
            self._path.append(name)
            if name == base:
                self._element(item, declared, value.get("_" + base), within=name == "contained")
            else:
                self._siblings(item, declared, value.get(base))
            self._path.pop()
        for name in sorted(shape.required):
            if name not in value and "_" + name not in value:
                self._problem("required", name)
        for choice, options, demanded in shape.choices:
            present = sum(1 for name in options if name in value or "_" + name in value)
            if present > 1:
                self._problem("more than one of a choice", choice + "[x]")
            if present == 0 and demanded:
                self._problem("required", choice + "[x]")
        self._invariants(value, shape)

    def _invariants(self, value: Json, shape: _Shape) -> None:
        """The rules of the standard about single data types that guard what the chain will rely on."""
        if shape.name == "Extension":
            has_value = any(name.removeprefix("_").startswith("value") for name in value)
            if has_value == ("extension" in value):
                self._problem("an extension has either a value or extensions (ext-1)")
        elif shape.name == "Period" and {"start", "end"} <= value.keys():
            start, end = value["start"], value["end"]
            is_valid = not (_primitive_problem("dateTime", start) or _primitive_problem("dateTime", end))
            if is_valid and epoch_ms(start, end=False) > epoch_ms(end, end=True):
                self._problem("a period ends before it starts (per-1)")
        elif shape.name == "Money":
            currency = value.get("currency")
            if isinstance(currency, str) and not _CURRENCY.fullmatch(currency):
                self._problem("not an ISO 4217 code", "currency")

    def _unknown(self, name: str, item: object, open_ended: bool) -> None:
        # A strange member name may itself be a value, so only ordinary ones are shown.
        if not _FIELD_NAME.fullmatch(name):
            self._problem("a field that the standard does not have")
            return
        if not open_ended:
            self._problem("not a field of this type", name)
            return
        self._path.append(name)
        self._anything(item, nullable=False)
        self._path.pop()

    def _element(self, item: object, declared: _Field, siblings: object, *, within: bool) -> None:
        if not declared.many:
            self._single(item, declared, within)
            return
        if not isinstance(item, list):
            self._problem("not an array")
            return
        if not item:
            self._problem("empty")
            return
        for index, single in enumerate(item):
            self._path.append(index)
            if single is None and declared.target is None:
                partner = siblings[index] if isinstance(siblings, list) and index < len(siblings) else None
                if partner is None:
                    self._problem("null")
            else:
                self._single(single, declared, within)
            self._path.pop()

    def _single(self, item: object, declared: _Field, within: bool) -> None:
        if declared.kind == "resource":
            self.resource(item, within=within)
        elif declared.target is not None:
            self._complex(item, _shape(declared.target()))
        elif problem := "null" if item is None else _primitive_problem(declared.kind, item):
            self._problem(problem)
        elif declared.codes is not None and item not in declared.codes:
            self._problem("not one of the codes that the standard requires")

    def _siblings(self, item: object, declared: _Field, values: object) -> None:
        """The `_name` sibling of a primitive (json.html, 2.6.2.3): id and extensions, in step with an array."""
        shape = _shape(_model("Element"))
        if not declared.many:
            self._complex(item, shape)
            return
        if not isinstance(item, list) or not item:
            self._problem("not an array" if item != [] else "empty")
            return
        for index, single in enumerate(item):
            self._path.append(index)
            if single is not None:
                self._complex(single, shape)
            elif not isinstance(values, list) or index >= len(values) or values[index] is None:
                self._problem("null")
            self._path.pop()

    def _anything(self, item: object, *, nullable: bool) -> None:
        """An element that no model describes: only what json.html demands of every element."""
        if isinstance(item, dict):
            if not item:
                self._problem("empty")
            for name, inner in item.items():
                if name in ("extension", "modifierExtension") and isinstance(inner, list):
                    self._path.append(name)
                    self._element(inner, _shape(_model("Element")).fields["extension"], None, within=False)
                    self._path.pop()
                else:
                    self._unknown(name, inner, open_ended=True)
        elif isinstance(item, list):
            if not item:
                self._problem("empty")
            for index, inner in enumerate(item):
                self._path.append(index)
                self._anything(inner, nullable=True)
                self._path.pop()
        elif item == "":
            self._problem("empty")
        elif item is None and not nullable:
            self._problem("null")


def epoch_ms(text: str, *, end: bool) -> int:
    """A valid dateTime as milliseconds since 1970 (UTC where no zone is given). Of a date, month or year its first
    millisecond, or with `end` the first one after it; a time is the instant itself, to the millisecond."""
    if "T" in text:
        head, zone = re.fullmatch(r"(.*?)(Z|[+-][0-9:]+)", text).groups()  # type: ignore[union-attr]
        whole, _, fraction = head.partition(".")
        leap = whole.endswith(":60")  # a second that datetime cannot hold: the one after :59
        moment = datetime.fromisoformat((whole[:-2] + "59" if leap else whole) + zone.replace("Z", "+00:00"))
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since // timedelta(seconds=1) + leap) * 1000 + int((fraction + "000")[:3])
    parts = [int(part) for part in text.split("-")]
    year, month, day = [*parts, 1, 1][:3]
    days = date(year, month, day).toordinal()
    if end and len(parts) == 3:
        days += 1
    elif end:
        months = year * 12 + month - 1 + (1 if len(parts) == 2 else 12)
        year, month = min(months // 12, 9999), months % 12 + 1  # year 10000 does not exist; a day early harms nobody
        days = date(year, month, 1).toordinal()
    return (days - date(1970, 1, 1).toordinal()) * 86_400_000
