"""Data handlers: the samples of a data set as numpy arrays, batches and PyTorch tensors."""
