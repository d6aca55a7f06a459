"""Benchmarks of hnetfast: ``pytest bench/`` measures, ``python -m bench.report`` writes it up."""
