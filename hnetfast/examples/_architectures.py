"""Shapes of the weights of the residual networks that the benchmark architectures generate."""

from __future__ import annotations

from hnetfast.mnets import WRN, ResNet, ResNetIN

Shapes = list[list[int]]

# Hidden layers and chunk size of the chunked hypernetworks for ResNet-32 (SplitCIFAR-10/100).
RESNET32_ROWS = (((), 7000), ((100, 100), 4000), ((10, 10, 10, 10), 40000), ((125, 250, 500), 500))


def resnet_shapes(num_classes: int) -> Shapes:
    """Weights of ResNet-32.

    Args:
        num_classes: Number of output neurons.

    Returns:
        Shapes of all weights.
    """
    return ResNet(num_classes=num_classes, no_weights=True, verbose=False).param_shapes


def wide_resnet_shapes(num_classes: int) -> Shapes:
    """Weights of WRN-28-10 without biases in its convolutions.

    Args:
        num_classes: Number of output neurons.

    Returns:
        Shapes of all weights.
    """
    network = WRN(num_classes=num_classes, use_bias=False, use_fc_bias=True, no_weights=True, verbose=False)
    return network.param_shapes


def imagenet_resnet18_shapes(num_classes: int) -> Shapes:
    """Weights of ResNet-18 with a 3×3 first convolution, projection shortcuts and no biases at all.

    Args:
        num_classes: Number of output neurons.

    Returns:
        Shapes of all weights.
    """
    network = ResNetIN(
        in_shape=(32, 32, 3),
        num_classes=num_classes,
        use_bias=False,
        projection_shortcut=True,
        cutout_mod=True,
        no_weights=True,
        verbose=False,
    )
    return network.param_shapes
