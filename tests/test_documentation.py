"""The documentation: its code runs, it leaves no public module out, and dead links are found."""

import ast
import doctest
import importlib
import pkgutil
import re
import runpy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import hnetfast
from hnetfast.hnets import HMLP
from hnetfast.mnets import MLP
from tests.data.made_data import write_cifar
from tests.documentation import DOCS, ROOT, python_blocks, run_page

PAGES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "README.md", *DOCS.glob("*.md")))
# These tests look at what the code of a page has led to, too.
RUN_BY = {
    "docs/adapters.md": "tests/adapters/test_peft_files.py",
    "docs/any_module.md": "tests/mnets/test_module_target.py",
    "docs/many_weight_sets.md": "tests/mnets/test_batched.py",
    "docs/posteriors.md": "tests/probabilistic/test_implicit_weights.py",
    "docs/subclassing.md": "tests/test_subclassing.py",
}
# A grid, and a call that starts a search; the configuration module and the script are the reader's.
NOT_RUN = {"docs/hyperparameter_search.md": 2}


def of_regulariser():
    mnet = MLP(n_in=3, n_out=2, hidden_layers=[4], no_weights=True, verbose=False)
    hnet = HMLP(mnet.param_shapes, layers=[5], num_cond_embs=2, verbose=False)

    def batches(task):
        yield torch.randn(8, 3), torch.randint(2, (8,))

    return {
        "mnet": mnet,
        "hnet": hnet,
        "num_tasks": 2,
        "batches": batches,
        "cross_entropy": cross_entropy,
        "optimizer": torch.optim.Adam(hnet.parameters()),
    }


def of_data():
    write_cifar("data", 10, sizes=(12_000, 20))
    images, labels = torch.randn(1200, 3), torch.arange(1200) % 4
    return {"train_set": TensorDataset(images, labels), "test_set": TensorDataset(images, labels)}


GIVEN = {"docs/regulariser.md": of_regulariser, "docs/data.md": of_data}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_BY and python_blocks(page)])
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if page in NOT_RUN:
        blocks = python_blocks(page)
        assert len(blocks) == NOT_RUN[page]
        for block in blocks:
            ast.parse(block)
    else:
        run_page(page, **GIVEN.get(page, dict)())


def test_pages_that_others_run():
    for page, test in RUN_BY.items():
        assert f'run_page("{page}"' in (ROOT / test).read_text()


def public_modules():
    names = [info.name for info in pkgutil.walk_packages(hnetfast.__path__, "hnetfast.")]
    return [name for name in names if "._" not in name and not name.startswith("hnetfast.kernels")]


@pytest.mark.parametrize("name", ["hnetfast", *public_modules()])
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(verbose=False)
    for test in finder.find(module, module.__name__):
        output: list[str] = []
        runner.run(test, out=output.append)
        assert runner.failures == 0, "".join(output)


def test_there_are_examples_in_docstrings():
    texts = [path.read_text() for path in (ROOT / "hnetfast").rglob("*.py")]
    assert sum("    Example:\n" in text for text in texts) >= 15


def modules_in_reference():
    """The modules that the pages of the reference name: alone, or in the table of a package."""
    found = []
    for path in (DOCS / "api").glob("*.md"):
        package = ""
        for line in path.read_text().splitlines():
            if match := re.fullmatch(r"\.\. automodule:: (\S+)", line):
                package = match[1]
                found.append(package)
            elif match := re.fullmatch(r"   (\w+)", line):
                found.append(f"{package}.{match[1]}")
    return found


def test_reference_has_every_public_module():
    listed = modules_in_reference()
    assert len(listed) == len(set(listed)), "listed twice"
    assert set(listed) == {"hnetfast", "hnetfast._errors", *public_modules()}, (
        "add a line to docs/api/<package>.md"
    )


dead_links = runpy.run_path(str(DOCS / "check_links.py"))["dead_links"]
main = runpy.run_path(str(DOCS / "check_links.py"))["main"]


def test_dead_links_of_a_site(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.html").write_text('<h1 id="title">A</h1><a href="https://example.org/gone">x</a>')
    (tmp_path / "sub" / "page.html").write_text('<a href="../a%20b.html#title">x</a><a href="#">x</a>')
    index = tmp_path / "index.html"
    index.write_text(
        '<a href="sub/page.html">x</a><p id="here"><a href="#here">x</a><a href="?q=1#here">x</a>'
    )
    assert dead_links(tmp_path) == []
    assert main([str(tmp_path)]) == 0
    index.write_text(
        '<a href="sub/gone.html">x</a><a href="a%20b.html#gone">x</a><a href="#gone">x</a><img src="no.png">'
    )
    assert dead_links(tmp_path) == [
        "index.html: sub/gone.html: no such file",
        "index.html: a%20b.html#gone: no gone there",
        "index.html: #gone: no gone there",
        "index.html: no.png: no such file",
    ]
    assert main([str(tmp_path)]) == 1
    assert "4 dead links" in capsys.readouterr().out
    assert main([str(tmp_path / "sub")]) == 2


def test_pages_have_their_place_on_the_site():
    """Every page is in the contents, and links, which GitHub shows too, name files that are there."""
    contents = set(re.findall(r"^([\w/]+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= contents
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_digest_tells_whether_results_of_the_site_are_current(tmp_path, monkeypatch):
    notebooks = importlib.util.spec_from_file_location("run_notebook", DOCS / "run_notebook.py")
    module = importlib.util.module_from_spec(notebooks)
    notebooks.loader.exec_module(module)
    path = DOCS / "tutorials" / "getting_started.ipynb"
    monkeypatch.setattr(module, "EXECUTED", tmp_path)
    assert module.executed(path) is None
    (tmp_path / "tutorials").mkdir()
    copy = tmp_path / "tutorials" / path.name
    copy.write_text(path.read_text())
    (tmp_path / "sources").write_text(module.digest_of_sources())
    assert module.executed(path) == [cell["outputs"] for cell, _ in module.code_cells(path)]
    copy.write_text(path.read_text().replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    assert module.executed(path) is None
    copy.write_text(path.read_text())
    (tmp_path / "sources").write_text("of another state")
    assert module.executed(path) is None
