"""The test suite; a package, so that `python -m tests.fuzz` finds it whatever else has this name."""
