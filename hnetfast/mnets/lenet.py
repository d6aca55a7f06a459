"""LeNet for MNIST and CIFAR-10."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hnetfast._checks import check_dropout_rate
from hnetfast._errors import InputError
from hnetfast.mnets._convnet import ConvNet, ConvStage
from hnetfast.mnets._layer_functions import SINGLE_SET

__all__ = ["LeNet"]

_IN_SHAPE = (28, 28, 1)  # default of in_shape: the images of the architecture


class LeNet(ConvNet):
    """Network of two convolutions with max-pooling, and two linear maps.

    After LeCun et al., "Gradient-based learning applied to document recognition", 1998, in the sizes in use
    today. A convolution (5 x 5, no padding) is followed by max-pooling (2 x 2), dropout, context modulation
    and ReLU; the hidden linear map by context modulation, ReLU and dropout. With
    ``context_mod_post_activation`` the modulation follows the ReLU.

    Args:
        in_shape: Shape of an image, ``(height, width, channels)``; 28 x 28 for "mnist_small" and
            "mnist_large", 32 x 32 for "cifar"; by default with 1 channel and 3 channels.
        num_classes: Number of output units.
        verbose: Print the number of weights.
        arch: "mnist_small" (21,840 weights), "mnist_large" (431,080 weights), or "cifar" (5,747,394 weights;
            as in Gal and Ghahramani, "Bayesian Convolutional Neural Networks with Bernoulli Approximate
            Variational Inference", 2015, https://arxiv.org/abs/1506.02158).
        no_weights: Keep no weights (those of context modulation excepted); they are given to :meth:`forward`.
        init_weights: Initial values of all internal parameters, e.g. made by a hypernetwork.
        dropout_rate: Probability that a feature map, or a unit of the hidden linear map, is dropped; -1 for
            no dropout.
        **kwargs: Options of context modulation as of :class:`~hnetfast.mnets.mlp.MLP`, and
            ``context_mod_apply_pixel_wise``: whether each pixel of a feature map has a gain and a shift of
            its own.

    Raises:
        ValueError: If the architecture is not known or not made for such images, the dropout rate not in [0,
            1], ``init_weights`` of wrong shapes, or options contradict each other.
        TypeError: If a size is not an integer or an argument not known.
    """

    _ARCHITECTURES = {
        "mnist_small": [[10, 1, 5, 5], [10], [20, 10, 5, 5], [20], [50, 320], [50], [10, 50], [10]],
        "mnist_large": [[20, 1, 5, 5], [20], [50, 20, 5, 5], [50], [500, 800], [500], [10, 500], [10]],
        "cifar": [[192, 3, 5, 5], [192], [192, 192, 5, 5], [192], [1000, 4800], [1000], [10, 1000], [10]],
    }

    def __init__(
        self,
        in_shape: Sequence[int] = _IN_SHAPE,
        num_classes: int = 10,
        verbose: bool = True,
        arch: str = "mnist_large",
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = -1,
        **kwargs: Any,
    ) -> None:
        if arch == "cifar" and in_shape is _IN_SHAPE:
            in_shape = (32, 32, 3)
        super().__init__(in_shape, num_classes, verbose)
        check_dropout_rate(dropout_rate)
        shapes = self._adapt_architecture(self._ARCHITECTURES, arch)
        size = 32 if arch == "cifar" else 28
        if (self._height, self._width) != (size, size):
            raise InputError(
                f"in_shape: arch={arch!r} needs images of {size} x {size} pixels, got {in_shape!r}"
            )
        self._set_options(no_weights, **kwargs)
        self._dropout_rate = dropout_rate
        if self._keeps_weights:
            self._internal_params = nn.ParameterList()
        self._layer_weight_tensors, self._layer_bias_vectors = nn.ParameterList(), nn.ParameterList()
        drops = (None, None)
        if dropout_rate != -1:
            self._drop_conv1, self._drop_conv2 = nn.Dropout2d(dropout_rate), nn.Dropout2d(dropout_rate)
            self._drop_fc1 = nn.Dropout(dropout_rate)
            drops, self._fc_dropout = ("_drop_conv1", "_drop_conv2"), "_drop_fc1"
        self._convs = tuple(ConvStage(5, dropout=drop, pools=True) for drop in drops)
        self._build(shapes, init_weights)
        if verbose:
            uses_dropout = " The network uses dropout." if dropout_rate != -1 else ""
            text = f"Creating a LeNet with {self.num_params} weights{self._context_mod_note()}."
            print(text + uses_dropout)

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] | None = None,
        distilled_params: None = None,
        condition: int | Mapping[str, int] | None = None,
    ) -> Tensor:
        """Compute the logits of a batch of images.

        Args:
            x: Images ``[B, H·W·C]`` or ``[B, H, W, C]``.
            weights: The parameters to use instead of the network's own. A list is, by its length, all of
                :attr:`param_shapes`, or those of context modulation, or (if all others are kept by the
                network) :attr:`hyper_shapes_learned`. A dictionary has the keys "internal_weights" (all but
                those of context modulation) or "mod_weights" (those), or both; None stands for the network's
                own. Parameters of context modulation may have a leading dimension of size B: one set a
                sample.
            distilled_params: Must be None.
            condition: Index of stored weights of context modulation, used unless such weights are given;
                without context modulation it is ignored. It may also be the value of "cmod_ckpt_id" in a
                dictionary.

        Returns:
            The logits ``[B, num_classes]``.

        Raises:
            ValueError: If an argument has a wrong length, shape, key or value.
            TypeError: If an argument is of a wrong type, or images and weights differ in dtype.
        """
        return self._evaluate(SINGLE_SET, x, weights, distilled_params, condition)
