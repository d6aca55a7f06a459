"""The Triton kernels of chunked_mlp compute the right numbers, under Triton's interpreter on the CPU."""

import pytest

from tests.kernels.interpreter import check_under_the_interpreter

pytest.importorskip("triton")


def test_kernels_under_the_interpreter():
    check_under_the_interpreter("interpreted_chunked_mlp.py")
