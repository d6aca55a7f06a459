"""Pictures of chunkings, and the sources that they show."""

import pytest
import torch

from hnetfast import viz
from hnetfast.hnets import HMLP, ChunkedHMLP, HContainer, HPerturbWrapper, StructuredHMLP

TARGETS = [[4, 3], [4], [2, 6]]


def joined(c):
    return [torch.cat([c[0][0], c[1][0][:, :1]], dim=1), c[0][1], c[2][0].view(2, 6)]


def structured(assembly_fct=joined, target_shapes=TARGETS):
    chunk_shapes = [[[4, 2], [4]], [[12]]]
    return StructuredHMLP(target_shapes, chunk_shapes, [2, 1], 2, {"layers": []}, assembly_fct, verbose=False)


def test_sources_of_a_structured_hypernetwork():
    sources, targets = viz.sources_of_targets(structured())
    assert sources == [("hypernetwork 0", 0), ("hypernetwork 0", 1), ("hypernetwork 1", 0)]
    assert targets[0].tolist() == [[0, 0, 1]] * 4
    assert targets[1].tolist() == [0] * 4
    assert targets[2].tolist() == [[2] * 6] * 2


def test_sources_of_equal_chunks():
    sources, targets = viz.sources_of_targets(ChunkedHMLP(TARGETS, 10, verbose=False))
    assert [s.chunk for s in sources] == [0, 1, 2]
    flat = torch.cat([t.flatten() for t in targets])
    assert flat.tolist() == [0] * 10 + [1] * 10 + [2] * 8


def test_sources_in_a_container_and_a_wrapper():
    wrapped = HPerturbWrapper(ChunkedHMLP([[4, 3]], 6, verbose=False), 0, verbose=False)
    hnet = HContainer(
        [[3, 4], [5], [2], [4]],
        lambda h, u, c: [h[0][0].t(), h[1][0], *u, *c],
        [wrapped, HMLP([[5]], verbose=False)],
        uncond_param_shapes=[[2]],
        cond_param_shapes=[[4]],
        verbose=False,
    )
    sources, targets = viz.sources_of_targets(hnet)
    names = [s.name for s in sources]
    assert names == ["hnets[0] hypernetwork"] * 2 + ["hnets[1] hypernetwork", "shared", "condition"]
    assert targets[0].tolist() == [[0, 0, 1, 1]] * 3
    assert [t.unique().item() for t in targets[1:]] == [2, 3, 4]


@pytest.mark.parametrize("make", [structured, lambda: ChunkedHMLP([[300, 200], [7]], 999, verbose=False)])
def test_picture(make, tmp_path):
    pytest.importorskip("matplotlib")
    hnet = make()
    figure = viz.plot_chunking(hnet, columns=2)
    images = [image for axis in figure.axes for image in axis.get_images()]
    assert len(images) == len(hnet.target_shapes)
    assert all(max(image.get_array().shape[:2]) <= 96 for image in images)
    figure.savefig(tmp_path / "chunking.png")
    assert (tmp_path / "chunking.png").stat().st_size > 1000


def test_bad_input():
    with pytest.raises(TypeError, match=r"hnet: .*a hypernetwork.*, got Linear"):
        viz.sources_of_targets(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="computes the targets"):
        viz.plot_chunking(structured(lambda c: [2 * c[2][0]], [[12]]))
    with pytest.raises(ValueError, match="columns"):
        viz.plot_chunking(structured(), columns=0)
