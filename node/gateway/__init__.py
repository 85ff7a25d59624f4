"""Doors for documents of other standards: strict JSON, GS1 identifiers, EPCIS events, FHIR resources."""
