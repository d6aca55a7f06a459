"""What to run first on a GPU, in order of risk; `tests/gpu_first.sh` passes its options on.

Every part has a limit of its own, together ten minutes. A part that fails, crashes or takes longer is
recorded, and the next one runs. After each part all that is known is in a file for `python -m bench.report`.
With --dry, what can be run without a GPU is: kernels in Triton's interpreter, on the host and through the
compilers.

Nothing but Python's own library is imported here, so that a build that can't be loaded is a result too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "gpu_first"
DRY_LIMIT = 900  # seconds for a part that stands for one on a GPU, which takes much less
TAIL = 3000  # characters of a part's output that are stored; all of it is in WORK


@dataclass(frozen=True)
class Part:
    """Something to run.

    Attributes:
        name: What it is called in the results.
        limit: Seconds that it may take.
        command: The program and its arguments.
        why_not: Why it can't run, None if it can.
        environment: Variables to set for it.
    """

    name: str
    limit: float
    command: Sequence[str] = ()
    why_not: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def pytest(*arguments: str) -> list[str]:
    """The command of a run of pytest."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def program(*statements: str) -> list[str]:
    """The command of a short program."""
    return [sys.executable, "-c", "\n".join(statements)]


def build() -> Part:
    """Compile the extension and install the package editable, where that isn't done yet."""
    if Path(sys.prefix) == ROOT / ".venv":
        return Part("build", 90, ["make", "env"])
    return Part(
        "build",
        90,
        [sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."],
    )


def sanitizer() -> str | None:
    """The path of compute-sanitizer."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{home}/bin")


def sanitized(tool: str) -> Part:
    """A few cases of every kernel under a tool of compute-sanitizer."""
    found = sanitizer()
    if found is None:
        return Part(tool, 45, why_not="compute-sanitizer is neither on PATH nor in CUDA_HOME")
    chosen = "test_forward_and_gradients and (single-many or one-layer-full or cut-hidden or bfloat16-1)"
    files = ["tests/kernels/test_chunked_mlp_gpu.py", "tests/kernels/test_local_conv2d_cuda.py"]
    options = ["-m", "gpu", "-k", f"({chosen}) or (test_on_gpu and groups and float32)"]
    command = [found, "--tool", tool, "--error-exitcode", "99", *pytest(*files, *options)]
    # PyTorch's cache of memory hides reads behind the end.
    return Part(tool, 45, command, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def parts() -> list[Part]:
    """What runs on a GPU."""
    on_gpu = ["-m", "gpu"]
    elsewhere = [
        path
        for path in sorted(ROOT.glob("tests/**/test_*.py"))
        if path.parent.name not in ("compat", "kernels", "ops")
    ]
    marks = ("mark.gpu", ", device)")  # or the fixture
    others = [
        str(path.relative_to(ROOT)) for path in elsewhere if any(mark in path.read_text() for mark in marks)
    ]
    measure = ["bench/test_bench_chunked_mlp.py", "--bench-device=cuda", "--no-memory", "--seconds=0.1"]
    return [
        build(),
        Part(
            "device",
            20,
            program(
                "import torch, hnetfast",
                "print(hnetfast.backends())",
                "assert torch.ones(1000, device='cuda').sum() == 1000",
            ),
        ),
        Part("chunked_mlp", 120, pytest("tests/kernels/test_chunked_mlp_gpu.py", *on_gpu)),
        Part("local_conv2d", 40, pytest("tests/kernels/test_local_conv2d_cuda.py", *on_gpu)),
        Part("ops", 60, pytest("tests/ops", *on_gpu)),
        sanitized("memcheck"),
        sanitized("racecheck"),
        Part(
            "floors",
            80,
            pytest(*measure, "-k", "not Gaussian and not target", f"--store={WORK / 'floors.json'}"),
        ),
        Part("tiles", 80, [sys.executable, "-m", "bench.tiles", f"--store={WORK / 'tiles.json'}"]),
        Part("library", 20, pytest(*others, *on_gpu)),
    ]


def dry_parts() -> list[Part]:
    """What stands for it without a GPU."""
    no_gpu = "needs a GPU"
    return [
        build(),
        Part("device", 60, program("import hnetfast", "print(hnetfast.backends())")),
        Part("chunked_mlp", DRY_LIMIT, pytest("tests/kernels/test_chunked_mlp_interpret.py")),
        Part("local_conv2d", DRY_LIMIT, pytest("tests/kernels/test_local_conv2d_cuda.py", "-k", "on_host")),
        Part("ops", DRY_LIMIT, pytest("tests/kernels/test_grouped_mlp_interpret.py")),
        Part(
            "compile", DRY_LIMIT, pytest("-s", "--every-launch", "tests/kernels/test_chunked_mlp_compile.py")
        ),
        Part("memcheck", 0, why_not=no_gpu),
        Part("racecheck", 0, why_not=no_gpu),
        Part(
            "floors",
            DRY_LIMIT,
            pytest(
                *("bench/test_bench_chunked_mlp.py", "--no-memory", "--seconds=0.01"),
                *("-k", "ResNet-32-linear-B1-forward and not Gaussian and not target"),
                f"--store={WORK / 'floors.json'}",
            ),
        ),
        Part("tiles", 0, why_not=no_gpu),  # its variants are tested with chunked_mlp
        Part("library", 0, why_not=no_gpu),
    ]


def run(part: Part) -> dict:
    """Run a part to its end, or to its limit.

    Returns:
        ``part``, ``status`` ("passed", "failed", "out of time" or "not run"), ``seconds``, ``limit`` and
        ``output``, the last characters of what it printed.
    """
    if part.why_not is not None:
        return {"part": part.name, "status": "not run", "output": part.why_not}
    log = WORK / f"{part.name}.log"
    start = time.monotonic()
    with open(log, "wb") as file:
        try:
            child = subprocess.Popen(
                part.command,
                cwd=ROOT,
                env={**os.environ, **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its own children end with it
            )
        except OSError as error:
            return {"part": part.name, "status": "failed", "output": str(error)}
        try:
            code = child.wait(part.limit)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
    output = log.read_text(errors="replace")
    # Where everything was skipped, nothing has been shown.
    passed = code == 0 and ("pytest" not in part.command or re.search(r"\d+ passed", output) is not None)
    return {
        "part": part.name,
        "status": "out of time" if code is None else "passed" if passed else "failed",
        "seconds": round(time.monotonic() - start, 1),
        "limit": part.limit,
        "output": output[-TAIL:],
    }


def gpu_name() -> str | None:
    """The name of the GPU, None where PyTorch finds none."""
    found = subprocess.run(
        program("import torch", "print(torch.cuda.get_device_name())"), capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else None


def describe_environment(device: str, name: str) -> dict:
    """Where this runs, as `bench.environment` says it; little but the name if that can't be imported."""
    statements = (
        "import json, bench.environment as r",
        f"print(json.dumps(r.describe_environment({device!r})))",
    )
    try:
        found = subprocess.run(program(*statements), cwd=ROOT, capture_output=True, text=True, timeout=60)
        return json.loads(found.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        unknown = ("date", "commit", "threads", "torch", "hypnettorch")
        return {"device": name, "uncommitted_changes": True} | dict.fromkeys(unknown)


def merge(environment: dict, done: Sequence[dict]) -> dict:
    """The content of a file of results: what the parts measured, and how they ended."""
    rows = {}
    for path in (WORK / "floors.json", WORK / "tiles.json"):
        if path.exists():
            rows |= json.loads(path.read_text())["rows"]
    return {"format": 2, "environment": environment, "rows": {**rows, "parts": list(done)}}


def run_all(todo: Sequence[Part], device: str, name: str, folder: Path) -> int:
    """Run parts one after the other; returns how many have not passed though they could run.

    Args:
        todo: The parts.
        device: "cuda" or "cpu".
        name: Its name, after which the file of results is called.
        folder: Where that is written.
    """
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-first.json"
    done: list[dict] = []
    for part in todo:
        print(f"{part.name:<14} …", end="", flush=True)
        done.append(run(part))
        seconds = f"{done[-1]['seconds']:6.1f} of {part.limit:.0f} s" if "seconds" in done[-1] else ""
        print(f"\r{part.name:<14} {done[-1]['status']:<12} {seconds}", flush=True)
        if len(done) == 1:  # after the build
            environment = describe_environment(device, name)
        path.write_text(json.dumps(merge(environment, done), indent=1) + "\n")
    for result in done:
        if result["status"] in ("failed", "out of time"):
            print(f"\n--- {result['part']}: {result['status']}\n{result['output'][-1000:]}")
        elif result["part"] == "tiles" and result["status"] == "passed":
            print(f"\n--- tiles\n{result['output'][-600:]}")
    print(f"\nResults: {path}; whole outputs: {WORK}")
    return sum(result["status"] in ("failed", "out of time") for result in done)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; returns 1 if a part has not passed."""
    parser = argparse.ArgumentParser(
        prog="tests/gpu_first.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="what can be run without a GPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of the parts to run")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder for the file (default: bench/results; with --dry build/gpu_first)",
    )
    options = parser.parse_args(arguments)
    todo = dry_parts() if options.dry else parts()
    if options.only:
        names = [part.name for part in todo]
        if unknown := sorted(set(options.only) - set(names)):
            parser.error(f"--only {' '.join(unknown)}: accepted are {', '.join(names)}")
        todo = [part for part in todo if part.name in options.only]
    if options.dry:
        return int(run_all(todo, "cpu", "dry", options.results or WORK) > 0)
    name = gpu_name()
    if name is None:
        parser.error(f"{sys.executable} finds no GPU; --dry runs what needs none")
    return int(run_all(todo, "cuda", name, options.results or ROOT / "bench" / "results") > 0)


if __name__ == "__main__":
    raise SystemExit(main())
