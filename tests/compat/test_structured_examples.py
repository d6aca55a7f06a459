"""Chunkings of residual networks against hypnettorch's."""

import copy
import pickle

import pytest
import torch

from hnetfast import mnets
from hnetfast.hnets.structured_hmlp_examples import resnet_chunking, wrn_chunking

oracle = pytest.importorskip("hypnettorch.hnets.structured_hmlp_examples")
oracle_mnets = pytest.importorskip("hypnettorch.mnets")

FLAGS = [False, True]


def numbered_chunks(chunk_shapes, num_per_chunk):
    chunks, start = [], 0
    for shapes, count in zip(chunk_shapes, num_per_chunk, strict=True):
        for _ in range(count):
            chunks.append([])
            for shape in shapes:
                size = int(torch.tensor(shape).prod())
                chunks[-1].append(torch.arange(start, start + size).view(*shape))
                start += size
    return chunks


def assert_same_chunking(ours, theirs, shapes):
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    chunks = numbered_chunks(*ours[:2])
    our_targets, their_targets = ours[2](chunks), theirs[2](chunks)
    assert [list(t.shape) for t in our_targets] == [list(shape) for shape in shapes]
    assert all(map(torch.equal, our_targets, their_targets))
    assert len(our_targets) == len(their_targets)


@pytest.mark.parametrize("gcd_chunking", FLAGS)
@pytest.mark.parametrize("use_bias", FLAGS)
@pytest.mark.parametrize("use_batch_norm", FLAGS)
@pytest.mark.parametrize(("n", "maps"), [(1, (16, 16, 32, 64)), (2, (8, 16, 16, 24)), (3, (4, 6, 10, 10))])
def test_resnet(gcd_chunking, use_bias, use_batch_norm, n, maps):
    kwargs = {"n": n, "num_feature_maps": maps, "use_bias": use_bias, "use_batch_norm": use_batch_norm}
    kwargs |= {"verbose": False, "no_weights": True}
    net = mnets.ResNet(**kwargs)
    theirs = oracle.resnet_chunking(oracle_mnets.ResNet(**kwargs), gcd_chunking=gcd_chunking)
    assert_same_chunking(resnet_chunking(net, gcd_chunking=gcd_chunking), theirs, net.param_shapes)


@pytest.mark.parametrize("gcd_chunking", FLAGS)
@pytest.mark.parametrize("use_bias", FLAGS)
@pytest.mark.parametrize("use_batch_norm", FLAGS)
@pytest.mark.parametrize(("ignore_bn", "ignore_out"), [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize(
    ("n", "k", "maps"),
    [
        (1, 2, (16, 8, 24, 36)),
        (2, 4, (16, 16, 32, 64)),
        (2, 1, (16, 16, 16, 32)),
        (1, 3, (12, 2, 4, 8)),
        (1, 2, (6, 9, 5, 7)),
    ],
)
def test_wrn(gcd_chunking, use_bias, use_batch_norm, ignore_bn, ignore_out, n, k, maps):
    kwargs = {"n": n, "k": k, "num_feature_maps": maps, "use_bias": use_bias, "use_fc_bias": True}
    kwargs |= {"use_batch_norm": use_batch_norm, "verbose": False, "no_weights": True}
    net = mnets.WRN(**kwargs)
    flags = (ignore_bn, ignore_out, gcd_chunking)
    theirs = oracle.wrn_chunking(oracle_mnets.WRN(**kwargs), *flags)
    shapes = net.param_shapes
    if use_batch_norm and ignore_bn:
        shapes = shapes[2 * len(net.batchnorm_layers) :]
    if ignore_out:
        shapes = shapes[:-2]
    assert_same_chunking(wrn_chunking(net, *flags), theirs, shapes)


def test_output_layer_without_biases():
    net = mnets.WRN(n=1, k=2, use_fc_bias=False, verbose=False, no_weights=True, use_batch_norm=False)
    chunk_shapes, num_per_chunk, assembly_fct = wrn_chunking(net, ignore_out_weights=False)
    targets = assembly_fct(numbered_chunks(chunk_shapes, num_per_chunk))
    assert [list(t.shape) for t in targets] == [list(shape) for shape in net.param_shapes]


def test_assembly_functions_are_copied_and_stored():
    chunk_shapes, num_per_chunk, assembly_fct = resnet_chunking(mnets.ResNet(n=1, verbose=False))
    chunks = numbered_chunks(chunk_shapes, num_per_chunk)
    for other in (copy.deepcopy(assembly_fct), pickle.loads(pickle.dumps(assembly_fct))):
        assert all(map(torch.equal, other(chunks), assembly_fct(chunks)))


def test_bad_networks():
    net = mnets.ResNet(n=1, verbose=False, no_weights=True)
    with pytest.raises(TypeError, match="net: expected a WRN, got ResNet"):
        wrn_chunking(net)
    with pytest.raises(TypeError, match="net: expected a ResNet, got Linear"):
        resnet_chunking(torch.nn.Linear(1, 1))
    for name, function in (("ResNet", "resnet_chunking"), ("WRN", "wrn_chunking")):
        kwargs = {"n": 1, "verbose": False, "use_context_mod": True, "no_weights": True}
        with pytest.raises(NotImplementedError):
            getattr(oracle, function)(getattr(oracle_mnets, name)(**kwargs, context_mod_no_weights=True))
        for error in (NotImplementedError, ValueError):
            with pytest.raises(error, match="net: expected one without context modulation"):
                globals()[function](getattr(mnets, name)(**kwargs, context_mod_no_weights=True))
