"""Shapes of the weights of the residual networks that the benchmark architectures generate.

All lists are in the order in which the networks of ``hypnettorch.mnets`` take their weights: gains and
shifts of batch normalisation first, then convolutions, last the fully-connected output layer.
"""

from __future__ import annotations

from itertools import pairwise

Shapes = list[list[int]]

# Hidden layers and chunk size of the chunked hypernetworks for ResNet-32 (SplitCIFAR-10/100).
RESNET32_ROWS = (((), 7000), ((100, 100), 4000), ((10, 10, 10, 10), 40000), ((125, 250, 500), 500))


def _batch_norm(widths: list[int]) -> Shapes:
    return [[width] for width in widths for _ in ("gain", "shift")]


def _output_layer(num_classes: int, features: int, bias: bool) -> Shapes:
    return [[num_classes, features]] + [[num_classes]] * bias


def resnet_shapes(num_classes: int, blocks: int = 5, maps: tuple[int, ...] = (16, 16, 32, 64)) -> Shapes:
    """Weights of a CIFAR ResNet with ``6 * blocks + 2`` layers, biases and identity shortcuts.

    Args:
        num_classes: Number of output neurons.
        blocks: Residual blocks a group.
        maps: Feature maps of the first convolution and of the three groups.

    Returns:
        Shapes of all weights; ResNet-32 by default.
    """
    widths = [maps[0]] + [width for width in maps[1:] for _ in range(2 * blocks)]
    convolutions: Shapes = []
    for fan_in, width in pairwise([3, *widths]):
        convolutions += [[width, fan_in, 3, 3], [width]]
    return _batch_norm(widths) + convolutions + _output_layer(num_classes, maps[-1], bias=True)


def wide_resnet_shapes(num_classes: int, blocks: int = 4, factor: int = 10) -> Shapes:
    """Weights of a wide ResNet without biases in its convolutions.

    Args:
        num_classes: Number of output neurons.
        blocks: Residual blocks a group.
        factor: Multiplies the feature maps (16, 32, 64) of the groups.

    Returns:
        Shapes of all weights; WRN-28-10 by default.
    """
    groups = [16 * factor, 32 * factor, 64 * factor]
    widths = [16] + [width for width in groups for _ in range(2 * blocks)]
    shortcuts = [[out, fan_in, 1, 1] for fan_in, out in pairwise([16, *groups])]
    convolutions = [[out, fan_in, 3, 3] for fan_in, out in pairwise([3, *widths])]
    # Each batch normalisation precedes a convolution; one more precedes the output layer.
    return _batch_norm(widths) + shortcuts + convolutions + _output_layer(num_classes, groups[-1], bias=True)


def imagenet_resnet18_shapes(num_classes: int) -> Shapes:
    """Weights of ResNet-18 with a 3×3 first convolution, projection shortcuts and no biases at all.

    Args:
        num_classes: Number of output neurons.

    Returns:
        Shapes of all weights.
    """
    groups = [64, 128, 256, 512]
    widths = [64] + [width for width in groups for _ in range(4)]
    shortcuts = [[out, fan_in, 1, 1] for fan_in, out in pairwise(groups)]
    convolutions = [[out, fan_in, 3, 3] for fan_in, out in pairwise([3, *widths])]
    return (
        _batch_norm(widths + groups[1:])
        + shortcuts
        + convolutions
        + _output_layer(num_classes, groups[-1], bias=False)
    )
