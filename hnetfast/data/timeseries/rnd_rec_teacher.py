"""Sequences that random recurrent networks, the teachers, make of random inputs.

A teacher is an Elman network ``r_t = sigma(A r_{t-1} + x_t)``, ``s_t = sigma(B r_t)``, ``y_t = C s_t``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hnetfast._errors import InputError, UnsupportedError
from hnetfast.data._arguments import check_choice, check_count, check_finite, random_source
from hnetfast.data.sequential_dataset import SequentialDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec

    from hnetfast.mnets.simple_rnn import SimpleRNN

__all__ = ["RndRecTeacher"]


def _linear(x: np.ndarray) -> np.ndarray:
    return x


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # without overflow for large negative numbers


_SIGMAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": _linear,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}


class RndRecTeacher(SequentialDataset):
    """Random inputs, and what a random recurrent network answers to them.

    Args:
        num_train: Number of training samples.
        num_test: Number of test samples.
        num_val: Number of validation samples, if there is a validation set.
        n_in: Number of features of inputs, and of units of the network.
        n_out: Number of features of outputs.
        sigma: "linear", "sigmoid" or "tanh".
        mat_A: Matrix ``A [n_in, n_in]``, by default a random one.
        mat_B: Matrix ``B [n_in, n_in]``, likewise.
        mat_C: Matrix ``C [n_out, n_in]``, likewise.
        orth_A: Whether a random ``A`` is orthogonal; not together with ``rank_A`` and ``max_sv_A``.
        rank_A: Rank of a random ``A``, from 1 to ``n_in``; -1: ``n_in`` in all likelihood.
        max_sv_A: Largest singular value of a random ``A``; -1: as it comes.
        no_extra_fc: Whether ``y_t = C r_t``, without ``B``.
        inputs: Inputs ``[n_ts_in, N, n_in]`` of training, test and validation samples, in this order; by
            default random ones.
        input_range: Bounds between which random inputs are distributed uniformly.
        n_ts_in: Number of time steps of inputs.
        n_ts_out: Number of time steps of outputs, at least ``n_ts_in``; -1: the same. Inputs are zero in the
            additional ones.
        rseed: Seed of what is random; by default it is drawn from numpy's global generator.

    Raises:
        ValueError: If a number or a matrix is not accepted, or arguments exclude each other.
    """

    def __init__(
        self,
        num_train: int = 1000,
        num_test: int = 100,
        num_val: int | None = None,
        n_in: int = 7,
        n_out: int = 7,
        sigma: str = "tanh",
        mat_A: np.ndarray | None = None,
        mat_B: np.ndarray | None = None,
        mat_C: np.ndarray | None = None,
        orth_A: bool = False,
        rank_A: int = -1,
        max_sv_A: float = -1.0,
        no_extra_fc: bool = False,
        inputs: np.ndarray | None = None,
        input_range: Sequence[float] = (-1, 1),
        n_ts_in: int = 10,
        n_ts_out: int = -1,
        rseed: int | None = None,
    ) -> None:
        super().__init__()
        counts = [check_count("num_train", num_train), check_count("num_test", num_test)]
        if num_val is not None:
            counts.append(check_count("num_val", num_val))
        total = sum(counts)
        self._n_in = check_count("n_in", n_in, 1)
        self._n_out = check_count("n_out", n_out, 1)
        check_choice("sigma", sigma, tuple(_SIGMAS))
        steps_in = check_count("n_ts_in", n_ts_in, 1)
        steps_out = steps_in if n_ts_out == -1 else check_count("n_ts_out", n_ts_out, steps_in)
        shape = (steps_in, total, self._n_in)
        if inputs is not None:
            inputs = _checked("inputs", inputs, shape)
        elif len(input_range) != 2:
            raise InputError(f"input_range: expected a lower and an upper bound, got {input_range!r}")
        else:
            check_finite("input_range", np.asarray(input_range, dtype=np.float64))
        # The module numpy.random, which draws from the global generator, can't be pickled.
        self._source = None if rseed is None else random_source("rseed", rseed)
        self._sigma_fct = _SIGMAS[sigma]

        self._mat_A, self._mat_B, self._mat_C = self._generate_teacher_matrices(
            self._n_in, self._n_out, mat_A, mat_B, mat_C, orth_A, rank_A, max_sv_A
        )
        if no_extra_fc:
            self._mat_B = None
        samples = np.zeros((total, steps_out, self._n_in), dtype=None if inputs is None else inputs.dtype)
        for i in range(steps_in):
            if inputs is None:
                step = self._rstate.uniform(low=input_range[0], high=input_range[1], size=shape[1:])
            else:
                step = inputs[i]
            samples[:, i] = step

        data = self._data
        data["classification"] = False
        data["is_one_hot"] = False
        data["in_shape"] = [self._n_in]
        data["out_shape"] = [self._n_out]
        data["in_data"] = self._flatten_array(samples)
        data["out_data"] = self._flatten_array(self._answers(samples))
        data["in_seq_lengths"] = np.full(total, float(steps_in))
        data["out_seq_lengths"] = np.full(total, float(steps_out))
        bounds = np.cumsum([0, *counts])
        for name, first, last in zip(("train", "test", "val"), bounds, bounds[1:], strict=False):
            data[f"{name}_inds"] = np.arange(first, last)

    @property
    def _rstate(self) -> Any:
        """What is drawn from: a ``RandomState``, or the module ``numpy.random``."""
        return np.random if self._source is None else self._source

    @_rstate.setter
    def _rstate(self, source: Any) -> None:
        self._source = None if source is np.random else source

    @property
    def mat_A(self) -> np.ndarray:
        """Matrix ``A``, from the teacher's state to its next one, ``[n_in, n_in]``."""
        return self._mat_A

    @property
    def mat_B(self) -> np.ndarray | None:
        """Matrix ``B``, from the state to the layer before the output, ``[n_in, n_in]``, if there is one."""
        return self._mat_B

    @property
    def mat_C(self) -> np.ndarray:
        """Matrix ``C``, to the output, ``[n_out, n_in]``."""
        return self._mat_C

    def get_identifier(self) -> str:
        """Return the name of the data set."""
        return "Random Recurrent Teacher Dataset"

    @staticmethod
    def construct_ideal_student(net: SimpleRNN, dhandlers: Sequence[RndRecTeacher]) -> None:
        """Give a recurrent network the weights by which it does what all teachers do.

        The state of the network holds the states of all teachers, and its output their outputs. The network
        does so exactly if its activation is their ``sigma`` and if they all have the matrix ``B``.

        Args:
            net: Elman network with biases, one recurrent layer of at least the sum of all ``n_in`` units and
                one linear output layer of at least the sum of all ``n_out``. Its weights are overwritten.
            dhandlers: Data sets of the teachers.

        Raises:
            ValueError: If the network has other layers or is too small, or a teacher has no ``B``.
        """
        if len(dhandlers) == 0:
            raise InputError("dhandlers: at least one teacher is needed, got none")
        if any(handler.mat_B is None for handler in dhandlers):
            raise UnsupportedError("dhandlers: expected teachers that were made with no_extra_fc=False")
        n_in = dhandlers[0].in_shape[0]
        if any(handler.in_shape[0] != n_in for handler in dhandlers):
            all_n_in = [handler.in_shape[0] for handler in dhandlers]
            raise InputError(f"dhandlers: expected teachers with the same n_in, got {all_n_in}")
        weights = list(net.internal_params or ())
        shapes = [list(weight.shape) for weight in weights]
        num_hidden, num_out = len(dhandlers) * n_in, sum(handler.out_shape[0] for handler in dhandlers)
        hidden, out = (shapes[0][0], shapes[-1][0]) if shapes else (0, 0)
        wanted = [[hidden, n_in], [hidden], [hidden, hidden], [hidden], [hidden, hidden], [hidden]]
        if shapes != [*wanted, [out, hidden], [out]] or hidden < num_hidden or out < num_out:
            raise InputError(
                f"net: expected an Elman network with biases, n_in={n_in}, a recurrent layer of at least "
                f"{num_hidden} units and one output layer of at least {num_out}, got parameters {shapes}"
            )
        first_out = 0
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
            to_hidden, _, to_state, _, to_last, _, to_out, _ = weights
            for i, handler in enumerate(dhandlers):
                units = slice(i * n_in, (i + 1) * n_in)
                to_hidden[units] = torch.eye(n_in)
                to_state[units, units] = torch.as_tensor(handler.mat_A)
                to_last[units, units] = torch.as_tensor(handler.mat_B)
                last_out = first_out + handler.out_shape[0]
                to_out[first_out:last_out, units] = torch.as_tensor(handler.mat_C)
                first_out = last_out

    def _generate_teacher_matrices(
        self,
        n_in: int,
        n_out: int,
        mat_A: np.ndarray | None,
        mat_B: np.ndarray | None,
        mat_C: np.ndarray | None,
        orth_A: bool,
        rank_A: int,
        max_sv_A: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw those matrices of the teacher that are not given; for the arguments see the class.

        Returns:
            ``A``, ``B`` and ``C``.
        """
        if orth_A and (rank_A != -1 or max_sv_A != -1):
            raise InputError(f"orth_A excludes rank_A and max_sv_A, got rank_A={rank_A}, max_sv_A={max_sv_A}")
        rank = None if rank_A == -1 else check_count("rank_A", rank_A, 1, n_in)
        if max_sv_A != -1 and not 0 < max_sv_A < math.inf:
            raise InputError(f"max_sv_A: expected a positive number or -1, got {max_sv_A!r}")
        given = {
            "mat_A": (mat_A, (n_in, n_in)),
            "mat_B": (mat_B, (n_in, n_in)),
            "mat_C": (mat_C, (n_out, n_in)),
        }
        matrix_a, matrix_b, matrix_c = (
            None if matrix is None else _checked(name, matrix, shape)
            for name, (matrix, shape) in given.items()
        )
        std = 1 / np.sqrt(n_in)
        bound = np.sqrt(3) * std

        def draw(num_rows: int) -> np.ndarray:
            return self._rstate.uniform(low=-bound, high=bound, size=(num_rows, n_in))

        if matrix_a is None:
            if orth_A:
                from scipy.stats import ortho_group

                matrix_a = np.reshape(ortho_group.rvs(n_in, random_state=self._rstate), (n_in, n_in))
            elif rank is not None:
                left, right = draw(n_in), draw(n_in)
                left[:, rank:] = 0
                matrix_a = left @ right / std
            else:
                matrix_a = draw(n_in)
            if max_sv_A != -1:
                matrix_a = matrix_a / np.linalg.norm(matrix_a, 2) * max_sv_A
        if matrix_b is None:
            matrix_b = draw(n_in)
        if matrix_c is None:
            matrix_c = draw(n_out)
        return matrix_a, matrix_b, matrix_c

    def _answers(self, inputs: np.ndarray) -> np.ndarray:
        """Return what the teacher answers to inputs ``[N, T, n_in]``: float64 ``[N, T, n_out]``."""
        total, num_steps, n_in = inputs.shape
        answers = np.empty((total, num_steps, self._n_out))
        state = np.zeros((n_in, total))
        for i in range(num_steps):
            # In this order of memory, and of all samples at once, products have hypnettorch's rounding.
            state = self._sigma_fct(np.add(self._mat_A @ state, inputs[:, i].T, order="C"))
            last = state if self._mat_B is None else self._sigma_fct(self._mat_B @ state)
            answers[:, i] = (self._mat_C @ last).T
        return answers

    def _plot_sample(
        self,
        fig: Figure,
        inner_grid: GridSpecFromSubplotSpec,
        num_inner_plots: int,
        ind: int,
        inputs: np.ndarray,
        outputs: np.ndarray | None = None,
        predictions: np.ndarray | None = None,
    ) -> None:
        """Not drawn; see :meth:`Dataset._plot_sample`."""
        raise NotImplementedError("Samples of random recurrent teachers are not drawn.")


def _checked(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(values)
    if array.shape != shape or array.dtype.kind not in "buif":
        raise InputError(
            f"{name}: expected an array of numbers {list(shape)}, got {list(array.shape)} of {array.dtype}"
        )
    check_finite(name, array)
    return array
