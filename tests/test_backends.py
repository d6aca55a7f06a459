"""What is loaded, from where, and what `hnetfast.backends()` says about it."""

import json
import os
import subprocess
import sys
import textwrap

import hnetfast


def run_code(code, check=True, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_import_is_light():
    loaded = run_code("""
        import sys, torch, numpy
        before = set(sys.modules)
        import hnetfast, hnetfast.hnets, hnetfast.mnets, hnetfast.utils, hnetfast.ops
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """).stdout.split()
    heavy = {
        "triton",
        "matplotlib",
        "sklearn",
        "scipy",
        "torchvision",
        "pandas",
        "tensorboard",
        "hypnettorch",
    }
    assert not heavy & set(loaded)
    assert "hnetfast" in loaded


def test_subpackages_are_reachable_from_the_top():
    run_code("""
        import hnetfast
        for name in hnetfast.__all__:
            assert getattr(hnetfast, name) is not None and name in dir(hnetfast)
        try:
            hnetfast.no_such_name
        except AttributeError as error:
            assert "no_such_name" in str(error)
        else:
            raise SystemExit("found")
    """)


def test_backends_lists_every_op_with_what_serves_it():
    info = hnetfast.backends()
    assert {"hnetfast", "torch", "triton", "cuda", "cpu"} <= set(info.versions)
    assert info.versions["hnetfast"] == hnetfast.__version__
    devices = info.ops["chunked_mlp"]
    assert set(devices) == {"cpu", "cuda"}
    assert devices["cpu"].name == ("C++" if info.extension == "loaded" else "reference")
    text = str(info)
    assert repr(info) == text
    for word in ("chunked_mlp", info.versions["torch"], info.extension, str(devices["cpu"])):
        assert word in text


def test_reference_backend_leaves_the_extension_out():
    out = run_code(
        """
        import hnetfast, torch
        print(hnetfast.backends())
        assert {b.name for op in hnetfast.backends().ops.values() for b in op.values()} == {"reference"}
        assert "hnetfast/_C" not in open("/proc/self/maps").read()
        hnetfast.empty_cache()
        x = [torch.randn(2, 1, 3), torch.randn(1, 4, 2)]
        w = [torch.randn(6, 5), torch.randn(7, 6)]
        assert hnetfast.ops.chunked_mlp(x, w, [], "relu", 25).shape == (2, 25)
        """,
        HNETFAST_BACKEND="reference",
    )
    assert "HNETFAST_BACKEND=reference" in out.stdout
    assert "RuntimeWarning" not in out.stderr


def test_unknown_backend_is_refused_by_name():
    done = run_code("import hnetfast; hnetfast.backends()", check=False, HNETFAST_BACKEND="fastest")
    assert done.returncode == 1
    assert "ValueError: HNETFAST_BACKEND is 'fastest'; accepted are 'auto', 'reference'." in done.stderr


EXTENSION_IN = """
    import pathlib
    import hnetfast._ext
    hnetfast._ext._FOLDER = pathlib.Path({folder!r})
    print(hnetfast.backends())
"""


def test_missing_extension_warns_once_and_works(tmp_path):
    done = run_code(EXTENSION_IN.format(folder=str(tmp_path)) + "    hnetfast.backends()\n")
    assert done.stderr.count("RuntimeWarning: hnetfast runs on its PyTorch reference") == 1
    assert "pure Python build" in done.stdout


def test_broken_extension_raises_with_the_reason(tmp_path):
    (tmp_path / "_C.abi3.so").write_text("this is no library")
    done = run_code(EXTENSION_IN.format(folder=str(tmp_path)), check=False)
    assert done.returncode == 1 and "ImportError" in done.stderr
    assert "_C.abi3.so can't be loaded" in done.stderr and "HNETFAST_BACKEND=reference" in done.stderr


def test_extension_for_another_torch_is_not_even_opened(tmp_path):
    (tmp_path / "_C.abi3.so").write_text("this is no library")
    (tmp_path / "_build_info.json").write_text(json.dumps({"extension": True, "torch": "1.13.0"}))
    done = run_code(EXTENSION_IN.format(folder=str(tmp_path)), check=False)
    assert done.returncode == 1
    assert "was built with torch 1.13.0 and can't be used with torch" in done.stderr


def test_process_has_one_openmp_runtime():
    out = run_code("""
        import hnetfast, torch
        torch.ones(300, 300) @ torch.ones(300, 300)
        x = [torch.randn(8, 1, 3), torch.randn(1, 400, 2)]
        hnetfast.ops.chunked_mlp(x, [torch.randn(64, 5), torch.randn(100, 64)], [], "relu", 39999)
        libraries = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
        print(*[name for name in libraries if "omp" in name.rsplit("/")[-1]])
    """).stdout.split()
    assert len(out) <= 1, out


def test_how_threads_wait_is_shown(monkeypatch):
    for value, shown in ((None, "actively"), ("PASSIVE", "passively")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if value:
            monkeypatch.setenv("OMP_WAIT_POLICY", value)
        assert hnetfast.backends().versions["cpu"].endswith(f"threads, which wait {shown}")
