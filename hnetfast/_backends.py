"""Which implementation serves which op on which device, and with what versions."""

import platform
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec

import torch

from hnetfast import _env, _ext

_NAMESPACE = "hnetfast::"
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


@dataclass(frozen=True)
class Backend:
    """The implementation of one op on one device.

    Attributes:
        name: "C++", "CUDA", "Triton" or "reference".
        reason: Why it isn't a faster one, or that it can't run on this machine; else empty.
    """

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


@dataclass(frozen=True)
class Backends:
    """What :func:`backends` returns; printing it shows a table.

    Attributes:
        versions: Component to version or description.
        ops: Op name to device ("cpu", "cuda") to what serves it.
        extension: "loaded", or why the compiled extension isn't.
    """

    versions: dict[str, str]
    extension: str
    ops: dict[str, dict[str, Backend]] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [*self.versions.items(), ("extension", self.extension)]
        width = max(len(name) for name in [*self.versions, *self.ops, "extension"])
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        for op, devices in self.ops.items():
            lines += [
                f"{op if i == 0 else '':<{width}}  {device:<4}  {backend}"
                for i, (device, backend) in enumerate(devices.items())
            ]
        return "\n".join(lines)

    __repr__ = __str__


def backends() -> Backends:
    """Returns which implementation is active for each op and device, with versions; ``print`` it.

    Raises:
        ImportError: The compiled extension is there but can't be loaded.
        ValueError: HNETFAST_BACKEND holds an unknown value.
    """
    import hnetfast.ops  # noqa: F401  (defines the ops and loads the extension)

    why_not = _ext.why_not_loaded()
    ops = {name: _serving(name, why_not) for name in _op_names()}
    return Backends(versions=_versions(), extension=why_not or "loaded", ops=ops)


def empty_cache() -> None:
    """Returns the memory that hnetfast keeps for later results on the CPU to the system.

    Results that are still referenced are not touched. Without such a pool this does nothing.
    """
    import hnetfast.ops  # noqa: F401

    if f"{_NAMESPACE}empty_cache" in torch._C._dispatch_get_all_op_names():
        torch.ops.hnetfast.empty_cache()


def _op_names() -> list[str]:
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith(_NAMESPACE) and "." not in n]
    takes_tensors = [
        n for n in names if any("Tensor" in str(a.type) for a in torch._C._get_schema(n, "").arguments)
    ]
    return sorted(n.removeprefix(_NAMESPACE) for n in takes_tensors)


def _serving(op: str, why_no_extension: str | None) -> dict[str, Backend]:
    registrations = dict(
        line.split(": ", 1) for line in torch._C._dispatch_dump(_NAMESPACE + op).splitlines() if ": " in line
    )
    anywhere = [
        registrations.get(f"Composite{kind}Autograd[alias]", ".py:") for kind in ("Explicit", "Implicit")
    ]
    serving = {}
    for device, key in _KEYS.items():
        if key in registrations:
            compiled = ".py:" not in registrations[key]
            serving[device] = Backend({"cpu": "C++", "cuda": "CUDA"}[device] if compiled else "Triton")
        elif any(".py:" not in where for where in anywhere):
            serving[device] = Backend("C++")  # it only moves views about and runs on every device
        else:
            missing = why_no_extension if device == "cpu" else _why_no_triton()
            serving[device] = Backend("reference", missing or f"no {key} kernel")
    if not torch.cuda.is_available():
        serving["cuda"] = Backend(serving["cuda"].name, "no GPU here")
    return serving


def _why_no_triton() -> str | None:
    if _env.backend() == "reference":
        return "HNETFAST_BACKEND=reference"
    return None if find_spec("triton") else "triton is not installed"


def _versions() -> dict[str, str]:
    from hnetfast import __version__

    info = _ext.build_info()
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {
        "hnetfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "cuda": torch.version.cuda or "none",
        "gpu": gpu,
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
        f"which wait {_env.wait_policy()}ly",
        "HNETFAST_BACKEND": _env.backend(),
    }
    if info.get("extension"):
        cuda = info["cuda"] or f"left out, {info['cuda_reason']}"
        versions["built with"] = f"torch {info['torch']}, {info['compiler']} {info['flags']}, CUDA {cuda}"
    return versions
