"""Judges what both libraries yield for a case."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.compat.hnet_comparison import assert_close, norm
from tests.fuzz._case import Case
from tests.fuzz._prelude import Cast, collect, flat

# Errors that hypnettorch raises by assertion or by accident, where ours are ValueError or TypeError.
ACCIDENTS = (AssertionError, ZeroDivisionError, AttributeError, UnboundLocalError, KeyError, IndexError)


@dataclass
class Finding:
    """Where the two libraries disagree.

    ``kind`` is "raises" (ours alone), "accepts" (hypnettorch raises, ours does not), "error type", "fact",
    "bits", "number", or "residue" (rounding errors where hypnettorch's gradient is 0: Adam would make full
    steps of them).
    """

    kind: str
    label: str
    path: str
    message: str

    @property
    def name(self) -> tuple[str, str]:
        """What stays the same while a case is made smaller."""
        return self.kind, self.label


class _Rounding(TorchDispatchMode):
    """Changes every result of a computation by a unit in the last place, up or down."""

    def __init__(self, seed: int):
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(result.alias_info is not None for result in func._schema.returns):
            return out  # a view, or what was changed in place
        return tree_map(self._changed, out)

    def _changed(self, value):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        signs = torch.randint(0, 2, value.shape, generator=self._generator) * 2 - 1
        return value * (1 + torch.finfo(value.dtype).eps * signs)


class _Runs:
    """hypnettorch's results of a case in float64 and with other rounding, each computed once."""

    def __init__(self, function, library):
        self._function, self._library = function, library
        self._found = {}

    def of(self, noise_seed: int | None) -> dict:
        """Results in float64, or in float32 with inputs and all results of operations changed by rounding."""
        if noise_seed not in self._found:
            cast = Cast(torch.float64) if noise_seed is None else Cast(noise_seed=noise_seed)
            with contextlib.nullcontext() if noise_seed is None else _Rounding(noise_seed):
                found = _silently(lambda: collect(self._function, self._library, cast))
            self._found[noise_seed] = {label: flat(value) for label, value in found.items()}
        return self._found[noise_seed]


def _silently(call):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return call()


def judge(case: Case) -> list[Finding]:
    """Run a case with both libraries.

    Returns:
        What disagrees. Numbers disagree if ours are further from hypnettorch's in float64 than twice its own
        error in float32, also of runs that round otherwise, plus rounding.
    """
    hypnettorch, hnetfast = case.imported()
    function = case.function()
    theirs = _silently(lambda: collect(function, hypnettorch, Cast()))
    ours = _silently(lambda: collect(function, hnetfast, Cast()))
    runs = _Runs(function, hypnettorch)
    findings = []
    for label in dict.fromkeys([*theirs, *ours]):
        if label == "error":
            continue
        their, our = theirs.get(label, theirs.get("error")), ours.get(label, ours.get("error"))
        if label in theirs and label in ours:
            findings += _compare(label, their, our, runs)
            if isinstance(their, Exception) != isinstance(our, Exception):
                return findings  # one of them may have changed something
            continue
        if not (
            label in theirs and "error" in theirs
        ):  # ours is refused here, hypnettorch's a statement later
            findings += _compare(label, their, our, runs)
        return findings
    if "error" in theirs or "error" in ours:
        findings += _compare("error", theirs.get("error"), ours.get("error"), runs)
    return findings


def _compare(label, their, our, runs) -> list[Finding]:
    if isinstance(their, Exception) or isinstance(our, Exception):
        return _compare_errors(label, "", their, our)
    their, our = flat(their), flat(our)
    found, numbers = [], []
    for path in dict.fromkeys([*their, *our]):
        if path not in their or path not in our:
            continue  # the path above tells
        a, b = their[path], our[path]
        if isinstance(a, Exception) or isinstance(b, Exception):
            found += _compare_errors(label, path, a, b)
        elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if a.shape != b.shape or a.dtype != b.dtype:
                message = f"ours {b.dtype} {list(b.shape)}, hypnettorch's {a.dtype} {list(a.shape)}"
                found.append(Finding("fact", label, path, message))
            elif not _equal(a, b):
                if label.startswith("same") or not a.is_floating_point():
                    found.append(Finding("bits", label, path, f"off by {norm(a.double() - b.double())}"))
                else:
                    numbers.append(path)
        elif type(a) is not type(b) or a != b:
            found.append(Finding("fact", label, path, f"ours {_short(b)}, hypnettorch's {_short(a)}"))
    total = norm(torch.tensor([norm(t) for t in their.values() if _is_number(t)]).nan_to_num(0, 0, 0))
    for path in numbers:
        is_gradient = path.startswith("['gradients']")
        size = total if is_gradient else max(total, 1e-3)  # of a sum that may be nothing but cancellation
        message = _disagreement(label, path, their[path], our[path], size, runs)
        if message:
            found.append(Finding("number", label, path, message))
        elif is_gradient and not their[path].any() and _is_zero(label, path, runs):
            found.append(Finding("residue", label, path, f"of norm {norm(our[path])}"))
    return found


def _is_zero(label, path, runs) -> bool:
    """Whether hypnettorch's gradient is 0 whatever the rounding."""
    others = [runs.of(seed).get(label, {}).get(path) for seed in (None, 1, 2, 3)]
    return all(isinstance(other, torch.Tensor) and not other.any() for other in others)


def _equal(a, b):
    return torch.equal(a, b) or (
        a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    )


def _is_number(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _short(value):
    text = f"{value.dtype} tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) < 200 else text[:200] + "…"


def _compare_errors(label, path, their, our) -> list[Finding]:
    if not isinstance(their, Exception):
        return [Finding("raises", label, path, f"ours {type(our).__name__}: {our}")]
    if not isinstance(our, Exception):
        return [Finding("accepts", label, path, f"hypnettorch's {type(their).__name__}: {their}")]
    is_accident = isinstance(their, ACCIDENTS) or "'NoneType' object" in str(their)
    accepted = (ValueError, TypeError) if is_accident else ()
    if "not implemented for" in str(their) and isinstance(our, RuntimeError):
        return []  # a kernel that PyTorch lacks
    known = next(kind for kind in type(their).__mro__ if kind.__module__ == "builtins")
    if isinstance(our, (known, *accepted)):
        return []
    message = f"ours {type(our).__name__}: {our}\n    hypnettorch's {type(their).__name__}: {their}"
    return [Finding("error type", label, path, message)]


def _disagreement(label, path, their, our, total, runs) -> str | None:
    """What is wrong with a tensor of ours, None if it is as good as hypnettorch's."""
    eps = torch.finfo(their.dtype).eps
    finite = torch.isfinite(their)
    if not torch.equal(finite, torch.isfinite(our)):
        return (
            f"{int((~torch.isfinite(our)).sum())} values are not finite, hypnettorch's {int((~finite).sum())}"
        )
    their, our = torch.where(finite, their, 0), torch.where(finite, our, 0)
    if norm(our.double() - their.double()) <= 8 * eps * total:
        return None  # whatever float64 says, ours is off by no more than hypnettorch's and rounding
    exact = runs.of(None).get(label, {}).get(path)
    is_reference = isinstance(exact, torch.Tensor) and exact.shape == their.shape
    exact = torch.where(finite, exact, 0) if is_reference else None
    is_reference = is_reference and norm(their - exact) <= 0.05 * max(total, 1e-3)
    if is_reference:
        try:
            return assert_close(our, their, exact, total, "")
        except AssertionError:
            pass
    # Rounding may be magnified, and may switch a unit on or off: hypnettorch's own results show how much.
    reference = exact if is_reference else their.double()
    error, worst = norm(our - reference), norm(their - reference)
    for seed in range(1, 41):
        changed = runs.of(seed).get(label, {}).get(path)
        if isinstance(changed, torch.Tensor) and changed.shape == their.shape:
            worst = max(worst, norm(torch.where(finite, changed, 0) - reference))
        if error <= 2 * worst + 8 * eps * total:
            return None
    kind = "float64" if is_reference else "hypnettorch's float32, as float64 is no reference"
    return f"off by {error:.3g} from {kind}, hypnettorch's by at most {worst:.3g}, of {total:.3g}"


def smaller(case: Case, finding: Finding, known) -> tuple[Case, Finding]:
    """The case with as many arguments at their defaults as leave the finding."""
    changed = True
    while changed:
        changed = False
        for name, values in case.arguments.items():
            for key in list(values):
                if key not in case.arguments[name] or key == "verbose":
                    continue
                candidate = case.without(name, key)
                match = [f for f in judge(candidate) if f.name == finding.name and not known(candidate, f)]
                if match:
                    case, finding, changed = candidate, match[0], True

    return case, finding
