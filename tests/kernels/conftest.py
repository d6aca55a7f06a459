"""Lets the kernel tests import their shared cases, and Triton's interpreter work with a current NumPy."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))


def pytest_configure():
    if "TRITON_INTERPRET" in os.environ:
        _let_the_interpreter_index()
        _let_the_interpreter_call()


def _let_the_interpreter_index():
    """Triton 3.6 calls int() on loop bounds, arrays of one element; NumPy 2.4 refuses that."""
    import triton.runtime.interpreter as interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def _let_the_interpreter_call():
    """Triton 3.6 prepares its language anew for each call of a function, which takes longer than the call.

    The launch of a kernel has done so for ours, and for those of Triton once is enough.
    """
    import triton.runtime.interpreter as interpreter

    call = interpreter.InterpretedFunction.__call__
    prepared = set()

    def quick_call(self, *args, **kwargs):
        module = self.fn.__module__
        if module.startswith("hnetfast.") or module in prepared:
            return self.rewrite()(*args, **kwargs)
        prepared.add(module)
        return call(self, *args, **kwargs)

    interpreter.InterpretedFunction.__call__ = quick_call
