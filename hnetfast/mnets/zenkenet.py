"""The convolutional network of Zenke et al. for CIFAR-10 and CIFAR-100."""

from collections.abc import Sequence

from torch import Tensor, nn

from hnetfast._checks import check_dropout_rate
from hnetfast._errors import InputError
from hnetfast.mnets._convnet import ConvNet, ConvStage
from hnetfast.mnets._layer_functions import SINGLE_SET, LayerFunctions

__all__ = ["ZenkeNet"]


class ZenkeNet(ConvNet):
    """Network of four convolutions and two linear maps.

    Zenke et al., "Continual Learning Through Synaptic Intelligence", 2017, https://arxiv.org/abs/1703.04200.
    The convolutions (3 x 3) have 32, 32, 64 and 64 feature maps and ReLUs; after the second and the fourth,
    which are those without padding, come dropout and max-pooling (2 x 2). The hidden linear map has 512
    units, ReLU and dropout.

    Args:
        in_shape: Shape of an image, ``(32, 32, channels)``.
        num_classes: Number of output units.
        verbose: Print the number of weights.
        arch: "cifar", the only one.
        no_weights: Keep no weights; they are given to :meth:`forward`.
        init_weights: Initial values of all parameters, e.g. made by a hypernetwork.
        dropout_rate: Probability that a feature map is dropped, at most 0.5, and half the probability that a
            unit of the hidden linear map is dropped; -1 for no dropout.

    Raises:
        ValueError: If the architecture is not known or not made for such images, the dropout rate not in [0,
            0.5], or ``init_weights`` of wrong shapes.
        TypeError: If a size is not an integer.
    """

    _architectures = {
        "cifar": [
            *([32, 3, 3, 3], [32], [32, 32, 3, 3], [32], [64, 32, 3, 3], [64], [64, 64, 3, 3], [64]),
            *([512, 2304], [512], [10, 512], [10]),
        ]
    }

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        verbose: bool = True,
        arch: str = "cifar",
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = 0.25,
    ) -> None:
        super().__init__(in_shape, num_classes, verbose)
        shapes = self._adapt_architecture(self._architectures, arch)
        if (self._height, self._width) != (32, 32):
            raise InputError(f"in_shape: arch={arch!r} needs images of 32 x 32 pixels, got {in_shape!r}")
        check_dropout_rate(dropout_rate, maximum=0.5)
        self._set_options(no_weights)
        drop = None
        if dropout_rate != -1:
            self._drop_conv, self._drop_fc1 = nn.Dropout2d(dropout_rate), nn.Dropout(2 * dropout_rate)
            drop, self._fc_dropout = "_drop_conv", "_drop_fc1"
        padded, pooled = ConvStage(3, padding=1), ConvStage(3, dropout=drop, pools=True)
        self._convs = (padded, pooled, padded, pooled)
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        if not no_weights:
            self._weights = nn.ParameterList()
        self._build(shapes, init_weights)
        if verbose:
            uses_dropout = ", that uses dropout" if drop is not None else ""
            print(f"Creating a ZenkeNet with {self.num_params} weights{uses_dropout}.")

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | None = None,
        distilled_params: None = None,
        condition: None = None,
    ) -> Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: Images ``[B, H·W·C]`` or ``[B, H, W, C]``.
            weights: Tensors of the shapes :attr:`param_shapes` to use instead of the network's own, as a list
                or as the entry "internal_weights" of a dictionary.
            distilled_params: Must be None.
            condition: Must be None.

        Returns:
            The logits ``[B, num_classes]``.

        Raises:
            ValueError: If an argument has a wrong length, shape or value.
            TypeError: If an argument is of a wrong type, or images and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition)

    def _evaluate(
        self,
        layers: LayerFunctions,
        x: Tensor,
        weights: Sequence[Tensor] | None = None,
        distilled_params: None = None,
        condition: None = None,
    ) -> Tensor:
        if condition is not None:
            raise InputError(f"condition: the network has nothing that depends on it, got {condition!r}")
        return super()._evaluate(layers, x, weights, distilled_params)
