"""A small data handler with the methods that continual-learning code calls."""

import numpy as np
import torch


class Samples:
    """``count`` random samples; draws are counted."""

    def __init__(self, count=7, classes=3, features=4, one_hot=True, classification=True, steps=None):
        generator = np.random.RandomState(0)
        self.num_train_samples = count
        self.classification, self.is_one_hot, self.num_classes = classification, one_hot, classes
        self.in_shape, self.out_shape = [features], [classes]
        self._steps = steps
        shape = (count,) if steps is None else (count, steps)
        self._inputs = generator.randn(*shape, features).astype("float32")
        labels = generator.randint(0, classes, shape)
        self._targets = np.eye(classes, dtype="float32")[labels] if one_hot else labels[..., None]
        self.draws = 0

    def reset_batch_generator(self, train=True, test=True, val=True):
        self.draws = 0

    def next_train_batch(self, batch_size, use_one_hot=None, return_ids=False):
        ids = np.arange(self.draws, self.draws + batch_size)
        self.draws += batch_size
        batch = self._inputs[ids].reshape(batch_size, -1), self._targets[ids].reshape(batch_size, -1)
        return (*batch, ids) if return_ids else batch

    def _to_tensor(self, values):
        values = torch.from_numpy(values)
        if self._steps is None:
            return values
        return values.view(len(values), self._steps, -1).transpose(0, 1)

    def input_to_torch_tensor(self, x, device, mode="inference", force_no_preprocessing=False):
        return self._to_tensor(x)

    def output_to_torch_tensor(self, y, device, mode="inference", force_no_preprocessing=False):
        return self._to_tensor(y)
