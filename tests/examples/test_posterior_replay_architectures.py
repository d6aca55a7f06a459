"""Posterior replay on images: the documented command lines and architectures."""

import itertools
import math
import re
import shlex
from pathlib import Path

import pytest
import torch

from hnetfast.examples.posterior_replay._images import networks as image_networks
from hnetfast.hnets import StructuredHMLP
from tests.examples.documented_architectures import (
    ABOVE_ONE,
    CIFAR10_TASKS,
    COMMANDS,
    CORRECTED,
    SECTIONS,
    SLIGHTLY_ABOVE_ONE,
    STRUCTURES,
)
from tests.examples.posterior_replay_commands import build, parse

DOCUMENT = Path(__file__).parents[3] / "shared" / "spec" / "chunked_architectures.rst"
ROWS = [(section, *row) for section in SECTIONS for row in section.rows]
EMBEDDING = 32  # size of all embeddings of chunks and tasks, and of the noise, in rows of chunked networks


def section_of(command):
    """The section of the document that a command stands in."""
    options = set(shlex.split(command)[1:])
    (section,) = (
        s
        for s in SECTIONS
        if {*s.tasks.split(), *s.network.split()} <= options and s.gaussian == ("bbb" in command)
    )
    return section


def num_generated(section):
    """The documented number of what is generated for a task, or what it should be."""
    return CORRECTED.get((section.tasks, section.network, section.gaussian), section.documented)


def num_main(section):
    return num_generated(section) // (2 if section.gaussian else 1)


def mlp_size(num_inputs, layers, num_outputs):
    """Number of weights and biases."""
    sizes = [num_inputs, *map(int, filter(None, layers.split(","))), num_outputs]
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def chunked_size(num_targets, layers, chunk_size):
    """Number of parameters of a chunked hypernetwork without embeddings of tasks."""
    num_chunks = math.ceil(num_targets / chunk_size)
    return mlp_size(2 * EMBEDDING, layers, chunk_size) + EMBEDDING * num_chunks


def num_tasks(section):
    return int(re.search(r"--num_tasks=(\d+)", section.tasks)[1])


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="the document is not there")
def test_command_lines_are_those_of_the_document():
    assert re.findall(r"\$ python3 (train_resnet.*)", DOCUMENT.read_text()) == list(COMMANDS)


def test_there_are_13_commands_with_27_options():
    options = {word.split("=")[0] for command in COMMANDS for word in shlex.split(command)[1:]}
    assert len(COMMANDS) == 13 and len(options) == 27  # and two only in rows, on gcd chunking


@pytest.mark.parametrize("command", COMMANDS, ids=range(1, 14))
def test_command_has_the_documented_numbers(command):
    section = section_of(command)
    networks = build(command)
    sizes = networks.sizes()
    assert sizes.main == num_main(section)
    assert sizes.described == num_generated(section)
    lines = sizes.describe()
    assert lines[0] == f"Main network: {num_main(section):,} weights"
    trained = networks.hnet.num_internal_params
    assert f" {trained:,} trained parameters" in lines[-2]
    ratio = trained / num_generated(section)
    assert lines[-1].startswith(f"Compression ratio: {ratio:.3f} = {trained:,} ")
    is_above = "--hmlp_arch='10,10,10,10' --chmlp_chunk_size=90000" in command
    assert ("above 1" in lines[-1]) == (ratio > 1) == is_above


@pytest.mark.parametrize(("section", "layers", "size"), ROWS)
def test_row_of_a_chunked_network(section, layers, size):
    tasks = f"{section.tasks} {section.network}"
    if section.gaussian:
        networks = build(
            f"train_resnet_bbb.py {tasks} --hnet_type=chunked_hmlp --cond_emb_size=32 --chunk_emb_size=32 "
            f"--hmlp_arch='{layers}' --chmlp_chunk_size={size}"
        )
        sizes, hnet = networks.sizes(), networks.hnet
        number = chunked_size(num_generated(section), layers, size)
        assert sizes.trained == number + EMBEDDING * num_tasks(section)
        assert sizes.compression_ratio == sizes.trained / num_generated(section)
        is_above = (section.tasks, section.network, True, layers, size) == ABOVE_ONE
        assert (sizes.compression_ratio > 1) == is_above
        assert sizes.compression_ratio < 1.06
    else:
        networks = check_implicit_row(section, tasks, layers, size)
        sizes, hnet = networks.sizes(), networks.implicit
    assert sizes.main == num_main(section)
    assert hnet.num_outputs == num_generated(section)
    assert hnet.num_chunks == math.ceil(num_generated(section) / size)
    assert sizes.task_embeddings == EMBEDDING * num_tasks(section)
    assert sizes.chunk_embeddings == EMBEDDING * getattr(networks.hnet, "num_chunks", 0)


def check_implicit_row(section, tasks, layers, size):
    """Both the implicit hypernetwork and the one that generates it may be of the row."""
    networks = build(
        f"train_resnet_ssge.py {tasks} --latent_dim=32 --imp_chunk_emb_size=32 --imp_hmlp_arch='{layers}' "
        f"--imp_chmlp_chunk_size={size} --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 "
        f"--hh_chunk_emb_size=32 --hh_hmlp_arch='{layers}' --hh_chmlp_chunk_size={size}"
    )
    sizes = networks.sizes()
    assert sizes.implicit == chunked_size(num_generated(section), layers, size)
    assert sizes.implicit <= sizes.main
    number = chunked_size(sizes.implicit, layers, size)
    assert sizes.trained == number + EMBEDDING * num_tasks(section)
    assert sizes.described == sizes.main
    assert sizes.compression_ratio == sizes.trained / sizes.main <= 1
    return networks


def structured_command(structure, gaussian, row):
    width, chunk_embs, layers = row
    begin = f"{CIFAR10_TASKS} {structure.network}"
    gcd = "shmlp_gcd_chunking" if structure.gcd else ""
    if gaussian:  # each option twice: for means and for scales
        return (
            f"train_resnet_bbb.py {begin} --hnet_type=structured_hmlp {gcd and '--' + gcd} "
            f'--cond_emb_size={width} --chunk_emb_size="{chunk_embs},{chunk_embs}" '
            f'--hmlp_arch="{layers and f"{layers};{layers}"}"'
        )
    size = 7000 if "--net_type=resnet" in begin else 500000
    return (
        f"train_resnet_ssge.py {begin} --imp_hnet_type=structured_hmlp {gcd and '--imp_' + gcd} "
        f'--latent_dim={width} --imp_chunk_emb_size="{chunk_embs}" --imp_hmlp_arch="{layers}" '
        "--hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 --hh_chunk_emb_size=32 --hh_hmlp_arch='' "
        f"--hh_chmlp_chunk_size={size}"
    )


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(("structure", "row"), [(s, row) for s in STRUCTURES for row in s.rows])
def test_row_of_a_structured_network(structure, row, gaussian, monkeypatch):
    if "--net_type=wrn" in structure.network:
        # How the 36 millions of weights are put together takes seconds to find out, and changes no number; a
        # command does it in another test.
        monkeypatch.setattr(StructuredHMLP, "_find_assembly", lambda self: None)
    networks = build(structured_command(structure, gaussian, row))
    sizes = networks.sizes()
    (section,) = (
        s
        for s in SECTIONS
        if (s.tasks, s.network, s.gaussian) == (CIFAR10_TASKS, structure.network, gaussian)
    )
    assert (sizes.main, sizes.described) == (num_main(section), num_generated(section))
    repeats = 2 if gaussian else 1
    lines = networks.describe_structure()
    assert len(lines) == repeats * len(structure.documented)
    for i, line in enumerate(lines):
        outputs, chunks, percent = structure.documented[i % len(structure.documented)]
        found = re.fullmatch(
            rf"Internal hypernetwork {i + 1}: (\S+) outputs \((\d+) chunks?, (\S+)% of all\)", line
        )
        assert (found[1], int(found[2])) == (f"{outputs:,}", chunks)
        assert float(found[3]) * repeats == pytest.approx(float(percent), abs=0.051 * repeats)
    width, chunk_embs, layers = row
    embs = list(map(int, chunk_embs.split(",")))
    archs = layers.split(";") * (len(embs) // (layers.count(";") + 1))
    generator = repeats * sum(
        mlp_size(width + emb, arch, outputs) + chunks * emb
        for emb, arch, (outputs, chunks, _) in zip(embs, archs, structure.documented, strict=True)
    )
    slightly_above = (structure.network, structure.gcd, row[0]) == SLIGHTLY_ABOVE_ONE
    if gaussian:
        assert sizes.trained == generator + 5 * width
        assert (sizes.compression_ratio > 1) == slightly_above
    else:
        assert sizes.implicit == generator
        assert sizes.compression_ratio < 1
    assert (generator > sizes.described) == slightly_above
    assert generator < 1.001 * sizes.described


SMALL = "train_resnet_bbb.py --net_type=resnet --resnet_block_depth=1 --hnet_type=chunked_hmlp --hmlp_arch=5"


def test_a_chunk_size_that_leaves_the_last_chunk_nearly_empty_is_reported_with_a_better_one():
    def notes(size):
        networks = build(f"{SMALL} --chmlp_chunk_size={size}")
        return networks.warnings(), networks.hnet

    size, used = divmod(build(SMALL).hnet.num_outputs, 50)
    (note,), hnet = notes(size)
    better = int(re.search(r"; ([\d,]+) is enough for 50 chunks", note)[1].replace(",", ""))
    assert hnet.num_chunks == 51
    assert f"chmlp_chunk_size: {size:,} leaves the last of 51 chunks nearly empty ({used} of {size:,}" in note
    fewer = notes(better)
    assert fewer[0] == [] and fewer[1].num_chunks == 50
    assert notes(better - 1)[1].num_chunks == 51  # there is no smaller one that does
    (note,), hnet = notes(100 * hnet.num_outputs)
    assert f"{hnet.num_outputs:,} is enough for 1 chunk" in note


def test_warnings_name_the_option_of_the_network():
    (note,) = build(COMMANDS[0]).warnings()
    assert note.startswith("imp_chmlp_chunk_size: 500 leaves the last of 938 chunks")
    (note,) = build(COMMANDS[5]).warnings()
    assert note.startswith("hh_chmlp_chunk_size: 7,000 leaves the last of 65 chunks")


def test_gaussians_have_their_means_first():
    networks = build(SMALL)
    shapes = networks.mnet.param_shapes
    assert networks.hnet.target_shapes == shapes * 2
    single = build(f"{SMALL} --mean_only --kl_scale=0")
    assert single.hnet.target_shapes == shapes
    assert single.sizes().described == single.sizes().main == networks.sizes().described // 2


def test_means_and_scales_of_structured_networks_come_from_networks_of_their_own():
    config, _ = parse(COMMANDS[7])
    hnet = image_networks.build_gaussian(config, (32, 32, 3), 10, 5, "cpu").hnet
    before = hnet.forward(cond_id=2)
    half = len(before) // 2
    with torch.no_grad():
        for parameter in hnet.internal_hnets[len(hnet.internal_hnets) // 2].parameters():
            parameter += 1
    after = hnet.forward(cond_id=2)
    assert all(torch.equal(a, b) for a, b in zip(before[:half], after[:half], strict=True))
    assert not torch.equal(before[half], after[half])
