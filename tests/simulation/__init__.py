"""Deterministic simulation of whole clusters; `make sim` runs ranges of seeds, pytest a few."""
