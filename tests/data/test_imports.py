"""Imports that are put off."""

import subprocess
import sys

import pytest


def test_late_imports_draw_no_random_numbers():
    pytest.importorskip("sklearn")
    program = (
        "import random; from hnetfast.data.digits_data import DigitsData\n"
        "random.seed(3); before = random.getstate(); DigitsData(use_one_hot=True)\n"
        "assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
