"""Small files of random images, laid out as those of MNIST and CIFAR."""

import gzip
import pickle

import numpy as np


def write_mnist(folder, num_train=100, num_test=40):
    folder.mkdir()
    random = np.random.RandomState(0)
    for name, number in (("train", num_train), ("t10k", num_test)):
        labels = random.permutation(np.arange(number) % 10).astype(np.uint8)
        images = random.randint(256, size=(number, 28, 28), dtype=np.uint8)
        for kind, magic, array in (("labels-idx1", 2049, labels), ("images-idx3", 2051, images)):
            header = np.array([magic, *array.shape], dtype=">i4").tobytes()
            with gzip.open(folder / f"{name}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + array.tobytes())


def write_cifar(folder, classes, num_train, num_test):
    folder.mkdir()
    random = np.random.RandomState(classes)
    names = [f"class {i}" for i in range(classes)]
    key = b"labels" if classes == 10 else b"fine_labels"

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))

    def batch(labels):
        pixels = random.randint(256, size=(len(labels), 3072), dtype=np.uint8)
        return {key: [int(label) for label in labels], b"data": pixels}

    train = random.permutation(np.arange(num_train) % classes)
    test = batch(random.permutation(np.arange(num_test) % classes))
    if classes == 10:
        for i in range(5):
            dump(f"data_batch_{i + 1}", batch(train[i::5]))
        dump("test_batch", test)
        dump("batches.meta", {"num_vis": 3072, "label_names": names, "num_cases_per_batch": num_train // 5})
    else:
        dump("train", batch(train))
        dump("test", test)
        dump("meta", {"fine_label_names": names, "coarse_label_names": names[:20]})
