"""hnetfast.compat: `import hypnettorch…` gives hnetfast's modules. Each case in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("hypnettorch")


def run(*arguments, cwd=None):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def run_code(code):
    done = run("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_every_form_of_import_gives_hnetfasts_own_objects():
    run_code("""
        import hnetfast.compat
        hnetfast.compat.install()
        import hypnettorch, hnetfast.mnets, hnetfast.utils
        import hypnettorch.utils.misc as misc
        from hypnettorch import mnets
        from hypnettorch.mnets.mnet_interface import MainNetInterface
        import hypnettorch.utils
        import sys, importlib
        assert hypnettorch is hnetfast
        assert mnets is hnetfast.mnets and hypnettorch.utils is hnetfast.utils
        assert misc is sys.modules["hnetfast.utils.misc"] is importlib.import_module("hypnettorch.utils.misc")
        assert MainNetInterface.__module__ == "hnetfast.mnets.mnet_interface"
        assert misc.__spec__.name == misc.__name__ == "hnetfast.utils.misc"
    """)


def test_pickles_and_isinstance_agree_across_both_names():
    run_code("""
        import pickle, hnetfast.compat
        from hnetfast.mnets.mlp import MLP
        network = MLP(n_in=2, n_out=1, hidden_layers=[3], verbose=False)
        hnetfast.compat.install()
        from hypnettorch.mnets.mlp import MLP as OldMLP
        assert OldMLP is MLP and isinstance(pickle.loads(pickle.dumps(network)), OldMLP)
        old_pickle = pickle.dumps(MLP, protocol=0).replace(b"hnetfast", b"hypnettorch")
        assert pickle.loads(old_pickle) is MLP
        assert pickle.dumps(OldMLP, protocol=0).count(b"hnetfast.mnets.mlp")
    """)


def test_module_that_hnetfast_lacks_is_named_and_not_taken_from_the_original():
    run_code("""
        import hnetfast.compat, pathlib, sys
        import hypnettorch
        folder = pathlib.Path(hypnettorch.__path__[0])
        del sys.modules["hypnettorch"]
        hnetfast.compat.install()
        for name in ("hypnettorch.no_such_module", "hypnettorch.hnets.no_such_module"):
            try:
                __import__(name)
            except ModuleNotFoundError as error:
                assert error.name == name and name in str(error)
            else:
                raise SystemExit(f"{name} was found")
        lacking = [
            file.relative_to(folder.parent).with_suffix("").as_posix().replace("/", ".")
            for file in sorted(folder.glob("*/*.py"))
            if file.stem != "__init__"
            and not (pathlib.Path(hnetfast.__path__[0]) / file.relative_to(folder)).exists()
        ]
        for name in lacking:
            try:
                __import__(name)
            except ModuleNotFoundError as error:
                assert "hypnettorch" in error.name
            else:
                raise SystemExit(f"{name} came from hypnettorch")
        assert not [n for n, m in sys.modules.items() if str(folder) in str(getattr(m, "__file__", ""))]
    """)


def test_uninstall_restores_the_state_before():
    run_code("""
        import sys, warnings, hnetfast.compat
        import hypnettorch.mnets.mlp
        before = {n: m for n, m in sys.modules.items() if n.startswith("hypnettorch")}
        meta_path, original = list(sys.meta_path), hypnettorch.mnets.mlp
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            hnetfast.compat.install()
            hnetfast.compat.install()
        assert len(caught) == 1 and issubclass(caught[0].category, RuntimeWarning)
        import hypnettorch.mnets.mlp, hypnettorch.utils.misc
        assert hypnettorch is hnetfast
        hnetfast.compat.uninstall()
        hnetfast.compat.uninstall()
        assert before == {n: m for n, m in sys.modules.items() if n.startswith("hypnettorch")}
        assert sys.meta_path == meta_path
        import hypnettorch.mnets.mlp
        assert hypnettorch.mnets.mlp is original and original.__name__ == "hypnettorch.mnets.mlp"
    """)


def test_uninstall_without_an_earlier_import_leaves_no_trace():
    run_code("""
        import sys, hnetfast.compat
        hnetfast.compat.install()
        import hypnettorch.utils.misc
        hnetfast.compat.uninstall()
        assert not [n for n in sys.modules if n.startswith("hypnettorch")]
        import hypnettorch
        assert hypnettorch is not hnetfast
    """)


def test_imports_from_many_threads():
    run_code("""
        import threading, hnetfast.compat
        hnetfast.compat.install()
        seen = []
        def use():
            from hypnettorch.utils import misc
            import hypnettorch.utils.torch_utils as torch_utils
            seen.append((misc, torch_utils))
        threads = [threading.Thread(target=use) for _ in range(16)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert len(set(seen)) == 1 and len(seen) == 16
    """)


def test_without_hypnettorch_installed():
    run_code("""
        import sys, hnetfast.compat
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "hypnettorch":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hide())
        hnetfast.compat.install()
        from hypnettorch.mnets.mlp import MLP
        assert MLP.__module__ == "hnetfast.mnets.mlp"
    """)


SCRIPT = """
import pickle, sys
import helper_beside_the_script
from hypnettorch.mnets.mlp import MLP
class Mine(MLP):
    pass
if __name__ == "__main__":
    assert type(pickle.loads(pickle.dumps(Mine(n_in=1, n_out=1, hidden_layers=[2], verbose=False)))) is Mine
    print(MLP.__module__, sys.argv)
    sys.exit(3)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_unmodified_script_from_the_command_line(tmp_path, as_module):
    (tmp_path / "helper_beside_the_script.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    program = ["-m", "script"] if as_module else [script]
    done = run("-m", "hnetfast.compat", *program, "--rate", "-m", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.split(" ", 1)[0] == "hnetfast.mnets.mlp"
    assert "'--rate', '-m'" in done.stdout and "script.py" in done.stdout


SCRIPT_THAT_LOOKS_AT_ITSELF = """
import atexit, os, pickle, sys
class Mine:
    pass
atexit.register(lambda: print(type(pickle.loads(pickle.dumps(Mine()))) is Mine))
print([__file__, sys.argv, sys.path[0], __name__, __package__, __spec__, sys.modules["__main__"].__file__])
"""


def test_script_sees_itself_as_without_compat(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT_THAT_LOOKS_AT_ITSELF)
    plain = run("script.py", "--rate", cwd=tmp_path)
    done = run("-m", "hnetfast.compat", "script.py", "--rate", cwd=tmp_path)
    assert done.stdout == plain.stdout != "", done.stderr
    assert done.stdout.endswith("True\n")


SCRIPT_WITH_WORKERS = """
import multiprocessing
from hypnettorch.mnets.mlp import MLP
class Mine(MLP):
    pass
def bases(network):
    return [base.__module__ for base in (MLP, type(network).__mro__[1])]
if __name__ == "__main__":
    # Both at once, to wait for one start only.
    pools = [multiprocessing.get_context(method).Pool(1) for method in ("spawn", "forkserver")]
    results = [pool.apply_async(bases, [Mine(verbose=False)]) for pool in pools]
    print(*(module for result in results for module in result.get(60)))
"""


def test_processes_that_a_script_starts_see_hnetfast_too(tmp_path):
    (tmp_path / "hypnettorch.py").write_text("raise ImportError('the original')")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_WITH_WORKERS)
    done = run("-m", "hnetfast.compat", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hnetfast.mnets.mlp"] * 4


def test_processes_started_after_uninstall_are_left_alone():
    run_code("""
        import multiprocessing.spawn, hnetfast.compat
        before = multiprocessing.spawn.get_preparation_data("worker").keys()
        hnetfast.compat.install()
        assert multiprocessing.spawn.get_preparation_data("worker").keys() == before | {"hnetfast.compat"}
        hnetfast.compat.uninstall()
        assert multiprocessing.spawn.get_preparation_data("worker").keys() == before
    """)


@pytest.mark.parametrize("arguments", [[], ["-m"], ["no_such_file.py"], ["--fast"]])
def test_command_line_without_a_program_explains_itself(arguments):
    done = run("-m", "hnetfast.compat", *arguments)
    assert done.returncode == 1 and "usage: python -m hnetfast.compat" in done.stderr
