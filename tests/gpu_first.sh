#!/usr/bin/env bash
# What to run first on a GPU: ten minutes at most, whatever fails; --help says more.
# Before it: make env, or PYTHON=… of an environment with torch, setuptools, wheel, pytest and hypothesis.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=.venv/bin/python
    [[ -x "$PYTHON" ]] || { echo "$0: there is no .venv; make env first, or set PYTHON" >&2; exit 2; }
fi
exec "$PYTHON" tests/gpu_first.py "$@"
