"""Every launch of chunked_mlp compiles for A100, H100 and B200 within their registers and shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SHARES = 2
MOST = 4  # launches of a kernel on a GPU, the heavy ones first, without --every-launch
KERNELS = {
    *(f"chunked_mlp_{name}" for name in ("hidden", "hidden_bwd", "hidden_sums", "inputs_bwd")),
    *("chunked_mlp_fwd", "chunked_mlp_bwd", "chunked_mlp_reduce"),
    *("grouped_mlp_fwd", "grouped_mlp_weights_bwd", "grouped_mlp_features_bwd"),
    *("batched_lora_down", "batched_lora_up", "batched_lora_sums"),
    *("hidden_change", "layer_change", "layer_gradients"),
}
# What one thread block may have, in bytes.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def check_heavy(rows):
    """The launch with the most registers of each kernel on each GPU is one that is always compiled."""
    groups = {}
    for row in rows:
        groups.setdefault((row["arch"], row["kernel"]), []).append(row)
    missing = []
    for group in groups.values():
        heaviest = [row for row in group if row["reg"] == max(each["reg"] for each in group)]
        if not any(row["heavy"] for row in heaviest):
            missing += heaviest[:1]
    assert not missing, f"HEAVY in compile_launches.py should name {missing}"


def test_launches_compile_without_spills(tmp_path, pytestconfig):
    """A crash of the compiler ends a child process, not the test run; nothing is found in an old cache."""
    every = pytestconfig.getoption("--every-launch")
    script = Path(__file__).with_name("compile_launches.py")
    children = []
    for share in range(SHARES):
        environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / str(share)), "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)
        command = [sys.executable, str(script), str(share), str(SHARES), "0" if every else str(MOST)]
        children.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    results = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, results, strict=True):
        assert child.returncode == 0, errors[-3000:]
    rows = [json.loads(line) for output, _ in results for line in output.splitlines()]

    rows.sort(key=lambda row: (row["arch"], row["kernel"], row["case"], row["tile"]))
    for row in rows:
        kernel = row["kernel"].removeprefix("_chunked_mlp").removeprefix("_grouped_mlp")[1:-7]
        print(
            f"sm_{row['arch']:<4}{kernel:<13} {row['case']:<38} {row['tile']:<62} "
            f"{row['reg']:>4} registers {row['shared']:>7} B shared"
        )
    assert {row["arch"] for row in rows} == set(SHARED_MEMORY)
    assert {row["kernel"] for row in rows} == {f"_{name}_kernel" for name in KERNELS}
    if every:
        check_heavy(rows)
        assert {"forward_stages", "repeat_rows", "repeat_stages"} <= {row["case"].split()[0] for row in rows}
    spilled = [row for row in rows if row["stack"] or row["local"]]
    assert not spilled, spilled
    assert all(row["reg"] <= 255 for row in rows)
    assert all(row["shared"] <= SHARED_MEMORY[row["arch"]] for row in rows)
