"""Vaccine cold chain as a medchain rule module; see `rules`."""

from vaccines.rules import MODULE, VaccineCode

__all__ = ["MODULE", "VaccineCode"]
