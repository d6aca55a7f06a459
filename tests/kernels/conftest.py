"""Lets the kernel tests import their shared cases, and Triton's interpreter work with a current NumPy."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))


def pytest_configure():
    if "TRITON_INTERPRET" in os.environ:
        _let_the_interpreter_index()


def _let_the_interpreter_index():
    """Triton 3.6 calls int() on loop bounds, arrays of one element; NumPy 2.4 refuses that."""
    import triton.runtime.interpreter as interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched
