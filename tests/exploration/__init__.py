"""Small-scope exhaustive exploration of the real engine (docs/exploration.md)."""
