"""Benchmarks of a whole cluster: open-loop load from separate processes against real nodes. See README.md."""
