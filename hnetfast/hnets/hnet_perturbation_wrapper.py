"""Wrapper that changes what goes into a hypernetwork and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnetfast._checks import check_integer
from hnetfast._errors import InputError, InputTypeError, UnsupportedError
from hnetfast.hnets._arguments import check_hnet
from hnetfast.hnets._bias_hyperinit import Changes, Wanted
from hnetfast.hnets._call import check_ret_format
from hnetfast.hnets._shared_batchnorm import share_batchnorm_layers
from hnetfast.hnets.hnet_interface import HyperNetInterface, Targets

__all__ = ["HPerturbWrapper"]


class HPerturbWrapper(nn.Module, HyperNetInterface):
    """Hypernetwork with noise on its outputs, or with any other change of its inputs and outputs.

    A hypernetwork ``h`` of a noise ``z`` of few dimensions represents a distribution of weights, but one
    without a density. By default the wrapper generates ``h(z[:n]) + sigma_noise * z`` instead, where ``z``
    has an entry for every weight, so that it has one.

    Args:
        hnet: The hypernetwork to wrap.
        hnet_uncond_in_size: Width ``n`` of the slice of ``uncond_input`` that goes to ``hnet``; not used if
            ``input_handler`` is given.
        sigma_noise: Standard deviation of the noise if ``z`` is standard normal: a number, or a tensor of one
            or of ``num_outputs`` entries, which may be a parameter to be learned; not used if
            ``output_handler`` is given.
        input_handler: Called with the keyword arguments ``uncond_input``, ``cond_input`` and ``cond_id`` of
            :meth:`forward`; returns those to give to ``hnet``.
        output_handler: Called with the flattened output ``[B, num_outputs]`` of ``hnet`` and the same keyword
            arguments; returns the flattened output of the wrapper.
        verbose: Print what was created.

    Raises:
        TypeError, ValueError: If an argument is not accepted; it is named.

    Example:
        >>> from hnetfast.hnets import HMLP
        >>> hnet = HMLP([[4, 3], [4]], uncond_in_size=5, cond_in_size=0, num_cond_embs=0, verbose=False)
        >>> wrapper = HPerturbWrapper(hnet, hnet_uncond_in_size=5, sigma_noise=0.1, verbose=False)
        >>> noise = torch.randn(7, wrapper.num_outputs)
        >>> wrapper(uncond_input=noise, ret_format="flattened").shape
        torch.Size([7, 16])
    """

    def __init__(
        self,
        hnet: HyperNetInterface,
        hnet_uncond_in_size: int | None = None,
        sigma_noise: float | Tensor = 0.02,
        input_handler: Callable[..., tuple[Any, Any, Any]] | None = None,
        output_handler: Callable[..., Tensor] | None = None,
        verbose: bool = True,
    ) -> None:
        check_hnet(hnet)
        if input_handler is None:
            if hnet_uncond_in_size is None:
                raise InputError("hnet_uncond_in_size, input_handler: one of them is needed, got none")
            hnet_uncond_in_size = check_integer("hnet_uncond_in_size", hnet_uncond_in_size, 0)
            if hnet_uncond_in_size > hnet.num_outputs:
                raise InputError(
                    f"hnet_uncond_in_size: expected at most the number of weights, {hnet.num_outputs}, "
                    f"got {hnet_uncond_in_size}"
                )
        for name, handler in (("input_handler", input_handler), ("output_handler", output_handler)):
            if handler is not None and not callable(handler):
                raise InputTypeError(f"{name}: expected a function, got {handler!r}")
        _check_sigma(sigma_noise, hnet.num_outputs)
        nn.Module.__init__(self)
        HyperNetInterface.__init__(self)

        self._hnet = hnet
        self._hnet_uncond_in_size = hnet_uncond_in_size
        self._sigma_noise = sigma_noise if isinstance(sigma_noise, Tensor) else float(sigma_noise)
        self._input_handler = input_handler
        self._output_handler = output_handler
        self._target_shapes = hnet.target_shapes
        self._has_bias = hnet.has_bias
        self._has_fc_out = False  # what comes out may be anything
        self._mask_fc_out = hnet.mask_fc_out
        self._has_linear_out = False
        self._take_over()
        share_batchnorm_layers(self, hnet)
        self._is_properly_setup()
        if verbose:
            print("Created a wrapper of a hypernetwork that changes its inputs and outputs.")
            print(self)

    def _take_over(self) -> None:
        """Describe the hypernetwork's parameters as the wrapper's own."""
        hnet = self._hnet
        for name in ("_internal_params", "_layer_weight_tensors", "_layer_bias_vectors"):
            tensors = getattr(hnet, name)
            setattr(self, name, None if tensors is None else nn.ParameterList(tensors))
        self._param_shapes = hnet.param_shapes
        self._param_shapes_meta = hnet.param_shapes_meta
        for name in ("hyper_shapes_learned", "hyper_shapes_learned_ref", "hyper_shapes_distilled"):
            setattr(self, f"_{name}", getattr(hnet, name))
        self._unconditional_params_ref = hnet.unconditional_params_ref
        self._unconditional_param_shapes_ref = hnet.unconditional_param_shapes_ref
        self._num_known_conds = hnet.num_known_conds

    @property
    def internal_hnet(self) -> HyperNetInterface:
        """The wrapped hypernetwork."""
        return self._hnet

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | Tensor | None = None,
        weights: list[Tensor] | dict[str, Any] | None = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Tensor | Targets:
        """Generate the weights of the target network.

        Args:
            uncond_input: Without an ``input_handler`` or an ``output_handler`` the noise ``z``,
                ``[B, num_outputs]``.
            cond_input: Conditional input ``[B or 1, width]``, instead of the embeddings of ``cond_id``.
            cond_id: One condition or several ones; each from 0 to :attr:`num_known_conds` - 1.
            weights: Parameters to use instead of the internal ones, passed to the wrapped hypernetwork.
            distilled_params: Passed to it.
            condition: Passed to it.
            ret_format: "flattened": a tensor ``[B, num_outputs]``. "sequential": ``B`` lists of tensors of
                shapes :attr:`target_shapes`. "squeezed": the same, but for ``B = 1`` the one list itself.

        Returns:
            As ``ret_format`` says.

        Raises:
            TypeError, ValueError: If an argument is not accepted, or a handler returns something else than it
                should.
        """
        check_ret_format(ret_format)
        given: dict[str, Any] = {"uncond_input": uncond_input, "cond_input": cond_input, "cond_id": cond_id}
        if self._input_handler is None or self._output_handler is None:
            self._check_noise(uncond_input)
        if self._input_handler is not None:
            passed = self._input_handler(**given)
            if not isinstance(passed, (tuple, list)) or len(passed) != 3:
                raise InputTypeError(
                    "input_handler: must return uncond_input, cond_input and cond_id, got "
                    f"{type(passed).__name__}"
                )
        else:
            width = self._hnet_uncond_in_size or 0
            passed = (given["uncond_input"][:, :width] if width > 0 else None, cond_input, cond_id)
        out = self._hnet.forward(
            uncond_input=passed[0],
            cond_input=passed[1],
            cond_id=passed[2],
            weights=weights,
            distilled_params=distilled_params,
            condition=condition,
            ret_format="flattened",
        )
        out = cast("Tensor", out)
        if self._output_handler is not None:
            flat = self._output_handler(out, **given)
        elif isinstance(self._sigma_noise, Tensor):
            flat = torch.addcmul(out, given["uncond_input"], self._sigma_noise)
        else:
            flat = torch.add(out, given["uncond_input"], alpha=self._sigma_noise)
        if not isinstance(flat, Tensor) or flat.dim() != 2 or flat.shape[1] != self.num_outputs:
            found = list(flat.shape) if isinstance(flat, Tensor) else type(flat).__name__
            raise InputError(
                f"output_handler: must return a tensor [batch size, {self.num_outputs}], got {found}"
            )
        if self._output_handler is not None and flat is not out:
            flat = flat.clone(memory_format=torch.contiguous_format)  # it may be a buffer that is used again
        return self._flat_to_ret_format(flat.contiguous(), ret_format)

    def _check_noise(self, uncond_input: Any) -> None:
        """Check the input where it is the noise, or some of it is."""
        if not isinstance(uncond_input, Tensor):
            raise InputError(
                f"uncond_input: needed, a tensor of shape [batch size, {self.num_outputs}], got "
                f"{type(uncond_input).__name__}"
            )
        exact = self._output_handler is None
        width = self.num_outputs if exact else self._hnet_uncond_in_size or 0
        shape = uncond_input.shape
        if uncond_input.dim() != 2 or (shape[1] != width if exact else shape[1] < width):
            least = "" if exact else "at least "
            raise InputError(f"uncond_input: expected shape [batch size, {least}{width}], got {list(shape)}")

    def distillation_targets(self) -> Any:
        """Return what the wrapped hypernetwork does: targets for distillation, or None."""
        return self._hnet.distillation_targets()

    def add_conditions(self, num_conditions: int) -> list[nn.Parameter]:
        """Make further conditions known to the wrapped hypernetwork.

        Args:
            num_conditions: Number of conditions to add.

        Returns:
            The new parameters.
        """
        new_params = self._hnet.add_conditions(num_conditions)
        self._take_over()
        return new_params

    def _changes_to_start_at(self, wanted: Wanted, weight_scale: float) -> Changes:
        if self._output_handler is not None:
            raise UnsupportedError(
                "apply_bias_hyperinit: it is not known what output_handler makes of the initial values"
            )
        return self._hnet._changes_to_start_at(wanted, weight_scale)

    def _kept_cond_embs(self) -> list[tuple[nn.Parameter, int]]:
        return self._hnet._kept_cond_embs()

    def _kept_chunk_embs(self) -> list[tuple[Tensor, int, int | None]]:
        return self._hnet._kept_chunk_embs()

    def _kept_params_of(self, cond_id: int) -> list[nn.Parameter]:
        return self._hnet._kept_params_of(cond_id)

    def _target_sources(self) -> tuple[list[tuple[str, int | None]], Tensor]:
        return self._hnet._target_sources()


def _check_sigma(sigma_noise: Any, num_outputs: int) -> None:
    if isinstance(sigma_noise, Tensor):
        if list(sigma_noise.shape) not in ([], [1], [num_outputs], [1, num_outputs]):
            raise InputError(
                f"sigma_noise: expected a number or a tensor of {num_outputs} entries, got one of shape "
                f"{list(sigma_noise.shape)}"
            )
        return
    try:
        float(sigma_noise)
    except (TypeError, ValueError):
        raise InputTypeError(f"sigma_noise: expected a number, got {sigma_noise!r}") from None
