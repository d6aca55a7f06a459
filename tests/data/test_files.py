"""Files of handlers: missing, broken, foreign and dangerous ones, caches, and downloads."""

import copy
import gzip
import io
import multiprocessing
import os
import pickle
import shutil
import stat
import tarfile
import threading
import tracemalloc
from http.client import BadStatusLine, IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torch

from hnetfast._files import write_atomically
from hnetfast._plain_pickle import read_plain_pickle
from hnetfast.data import (
    CIFAR10Data,
    CIFAR100Data,
    FashionMNISTData,
    MNISTData,
    SVHNData,
    _files,
    _idx,
    split_by_class,
)
from hnetfast.data._cache import content_key, kept_arrays
from tests.data.made_data import blobs, write_cifar, write_idx, write_mnist, write_svhn

CACHE = "mnist_hnetfast.npz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(url, timeout=None):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def mnist(tmp_path):
    write_mnist(tmp_path / "MNIST")
    return tmp_path


@pytest.fixture
def cifar(tmp_path):
    write_cifar(tmp_path, 10)
    return tmp_path


def small(root):
    return MNISTData(root, validation_size=10)


def inputs(root):
    return small(root).get_train_inputs()


# --- what is missing or broken ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "page"),
    [
        (MNISTData, "MNIST/train-images-idx3-ubyte.gz", "ossci-datasets"),
        (FashionMNISTData, "FashionMNIST/raw/train-images-idx3-ubyte.gz", "fashion-mnist"),
        (CIFAR10Data, "cifar-10-python.tar.gz", "kriz/cifar.html"),
        (CIFAR100Data, "cifar-100-python.tar.gz", "kriz/cifar.html"),
        (SVHNData, "SVHN/train_32x32.mat", "housenumbers"),
    ],
)
def test_missing_files_are_named_with_where_they_are_from(tmp_path, kind, name, page):
    with pytest.raises(FileNotFoundError, match=r"download failed.*by hand") as raised:
        kind(tmp_path)
    assert str(tmp_path / name) in str(raised.value) and page in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_file_of_cifar_is_named_though_others_are_there(cifar):
    (cifar / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"so that there is \S*/data_batch_3\.$"):
        CIFAR10Data(cifar, validation_size=1)


def broken_idx(path):
    whole = gzip.decompress(path.read_bytes())
    yield path.read_bytes()[:-20], "no complete file of gzip"
    yield b"no gzip", "no complete file of gzip"
    yield gzip.compress(whole[:-1]), "bytes of the shape"
    yield gzip.compress(whole + b"1"), "bytes of the shape"
    yield gzip.compress(b""), "begins with 00000803.*found nothing"
    yield gzip.compress(b"\0\0\x0d\3" + whole[4:]), "begins with 00000803"


def test_broken_files_of_mnist(mnist):
    path = mnist / "MNIST" / "train-images-idx3-ubyte.gz"
    for content, message in list(broken_idx(path)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"train-images.*{message}"):
            small(mnist)


def test_no_more_is_decompressed_than_a_file_says_it_holds(tmp_path):
    path = tmp_path / "bomb.gz"
    head = bytes([0, 0, 8, 1, 0, 0, 0, 3])
    path.write_bytes(gzip.compress(head + bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"3 bytes of the shape \[3\] are expected, found 4"):
        _idx.read_idx(path, 1)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_labels_that_do_not_fit(mnist):
    path = mnist / "MNIST" / "t10k-labels-idx1-ubyte.gz"
    write_idx(path, np.full(30, 10))
    with pytest.raises(ValueError, match=r"t10k-labels.*: classes from 0 to 9 are expected, found 10"):
        small(mnist)
    write_idx(path, np.zeros(29))
    with pytest.raises(ValueError, match=r"29 images .* in t10k-labels.*, found \[30, 28, 28\]"):
        small(mnist)


@pytest.mark.parametrize("kind", [MNISTData, CIFAR10Data])
def test_validation_sets_that_are_too_large(tmp_path, kind):
    write_mnist(tmp_path / "MNIST")
    write_cifar(tmp_path, 10, sizes=(60, 20))
    for size in (60, 61, -1, 2.5):
        with pytest.raises((ValueError, TypeError), match=f"validation_size: .*got {size}"):
            kind(tmp_path, validation_size=size)


def test_files_of_cifar_that_hold_something_else(cifar):
    folder = cifar / "cifar-10-batches-py"
    path = folder / "data_batch_2"
    whole = pickle.loads(path.read_bytes())
    for change, message in (
        (
            {b"data": whole[b"data"][:, :-1]},
            r"'data' with bytes \[n, 3072\] is expected, found uint8 \[10, 3071\]",
        ),
        ({b"data": whole[b"data"].astype(float)}, "'data' with bytes"),
        ({b"labels": whole[b"labels"][:-1]}, "as many classes as images"),
        ({b"labels": ["a"] * 10}, "list of integers"),
        ({b"labels": [11] * 10}, "data_batch_2: classes from 0 to 9 are expected, found 11"),
    ):
        path.write_bytes(pickle.dumps(whole | change, protocol=2))
        with pytest.raises(ValueError, match=message):
            CIFAR10Data(cifar, validation_size=1)
    path.write_bytes(pickle.dumps(whole, protocol=2)[:-100])
    with pytest.raises(ValueError, match=r"data_batch_2: .*broken one"):
        CIFAR10Data(cifar, validation_size=1)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="dictionary is expected, found list"):
        CIFAR10Data(cifar, validation_size=1)
    path.write_bytes(pickle.dumps(whole, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": []}))
    with pytest.raises(ValueError, match="'num_cases_per_batch' is expected"):
        CIFAR10Data(cifar, validation_size=1)


@pytest.mark.parametrize("wrong", [11, 3.5, -1])
def test_classes_that_svhn_does_not_have(tmp_path, wrong):
    from scipy.io import loadmat, savemat

    write_svhn(tmp_path / "SVHN", {"train": 30, "test": 20})
    path = tmp_path / "SVHN" / "test_32x32.mat"
    matrices = loadmat(path)
    labels = matrices["y"].astype(type(wrong))
    labels[4] = wrong
    savemat(path, {"X": matrices["X"], "y": labels})
    with pytest.raises(ValueError, match=rf"test_32x32\.mat: classes y from 1 to 10 .*found {wrong}"):
        SVHNData(tmp_path)


def test_broken_files_of_svhn(tmp_path):
    from scipy.io import loadmat, savemat

    write_svhn(tmp_path / "SVHN", {"train": 30, "test": 20})
    path = tmp_path / "SVHN" / "test_32x32.mat"
    whole = path.read_bytes()
    compressed = io.BytesIO()
    matrices = loadmat(path)
    savemat(compressed, {"X": matrices["X"], "y": matrices["y"]}, do_compression=True)
    compressed = compressed.getvalue()
    for content in (whole[:200], b"", b"no matrix" * 100, compressed[:-90], compressed[:127] + b"X"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"test_32x32\.mat"):
            SVHNData(tmp_path)


# --- pickles ---------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["whole", "data", "names"])
def test_a_pickle_that_runs_code_is_refused(cifar, place):
    folder, bomb = cifar / "cifar-10-batches-py", Bomb(cifar / "exploded")
    if place == "names":
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": bomb}))
    else:
        content = bomb if place == "whole" else {b"labels": [0], b"data": bomb}
        (folder / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"nothing else is read.*mkdir"):
        CIFAR10Data(cifar, validation_size=1)
    assert not bomb.path.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.zeros(2).view(np.recarray),
        torch.zeros(2),
        complex,
        np.random.RandomState,
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_plain_values_are_read(tmp_path, value):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"value": value}))
    with pytest.raises(ValueError, match="nothing else is read"):
        read_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values_of_any_protocol(tmp_path, protocol):
    content = {b"key": np.arange(6, dtype=np.uint8).reshape(2, 3), "names": ["é", b"b"], "n": 3, "x": 1.5}
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_plain_pickle(path)
    assert np.array_equal(found.pop("key"), content[b"key"])
    assert found == {"names": ["é", "b"], "n": 3, "x": 1.5}


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fbytes.",  # more bytes than there can be
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a list with a name for which there is no memory
        # numpy.ndarray(shape=(2**45,))
        b"\x80\x02}X\x04\0\0\0datacnumpy\nndarray\n\x8a\x06\0\0\0\0\0\x20\x85\x85Rs.",
        b"\x80\x02}X\x04\0\0\0datacnumpy\ndtype\nX\x01\0\0\0O\x85Rs.",
    ],
    ids=["bytes", "memo", "ndarray", "objects"],
)
def test_a_pickle_that_asks_for_too_much(cifar, content):
    (cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_1: a file of arrays"):
        CIFAR10Data(cifar, validation_size=1)


def test_arrays_do_not_reach_beyond_their_memory(tmp_path):
    # A type of eight bytes whose only field begins after two gigabytes, which numpy believes.
    dtype = np.dtype({"names": ["a"], "formats": ["f8"], "offsets": [0], "itemsize": 8})
    content = pickle.dumps({"data": np.zeros(4, dtype)}, protocol=2)
    end = content.index(b"f8") + content[content.index(b"f8") :].index(b"K\x00\x86")
    (tmp_path / "file").write_bytes(content[:end] + b"J\xff\xff\xff\x7f" + content[end + 2 :])
    with pytest.raises(ValueError, match="nothing else is read"):
        read_plain_pickle(tmp_path / "file")


def test_a_cache_that_is_a_pickle_is_not_read(mnist):
    bomb = Bomb(mnist / "exploded")
    arrays = {"key": np.array([bomb], dtype=object), "images": np.array([bomb], dtype=object)}
    np.savez(mnist / "MNIST" / CACHE, **arrays)
    (mnist / "MNIST" / "mnist_dataset.pickle").write_bytes(pickle.dumps(bomb))
    assert small(mnist).num_train_samples == 50
    assert not bomb.path.exists()


# --- the cache -------------------------------------------------------------------------------------


def test_the_cache_is_read_and_made_anew_where_it_does_not_fit(mnist, monkeypatch):
    path = mnist / "MNIST" / CACHE
    expected = inputs(mnist)
    made, older = path.read_bytes(), io.BytesIO()
    np.savez(older, key=np.array("hnetfast 0"), images=np.zeros(3))
    reads = []
    read_idx = _idx.read_idx
    monkeypatch.setattr(_idx, "read_idx", lambda *a: reads.append(a) or read_idx(*a))
    assert np.array_equal(inputs(mnist), expected) and not reads
    for broken in (
        b"",
        made[: len(made) // 2],
        made[:-1],
        b"no archive",
        older.getvalue(),
    ):
        path.write_bytes(broken)
        assert np.array_equal(inputs(mnist), expected)
        assert len(reads) == 4 and path.read_bytes() != broken
        reads.clear()
    flipped = bytearray(made)
    flipped[len(made) // 2] ^= 1
    path.write_bytes(flipped)
    assert np.array_equal(inputs(mnist), expected) and reads
    write_mnist(mnist / "MNIST", sizes=(70, 30))
    assert small(mnist).num_train_samples == 60


def test_any_damage_to_a_cache_makes_it_anew(mnist):
    expected = inputs(mnist)
    cache = mnist / "MNIST" / CACHE
    whole = cache.read_bytes()
    flags = whole.rindex(b"PK\x01\x02") + 8  # of the last entry, which then counts as encrypted
    for damage in (whole[:flags] + b"\x01" + whole[flags + 1 :], whole[:-40], whole[: len(whole) // 2]):
        cache.write_bytes(damage)
        assert np.array_equal(inputs(mnist), expected) and cache.read_bytes() == whole


def test_a_folder_that_can_not_be_written_needs_no_cache(mnist, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr("hnetfast.data._cache.replacing", refuse)
    assert small(mnist).num_train_samples == 50
    assert not (mnist / "MNIST" / CACHE).exists()


def _build(root, start, results):
    start.wait()
    handler = small(root)
    results.put(handler.get_train_inputs().sum())


def test_two_processes_build_the_cache_at_once(mnist):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_build, args=(mnist, start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sums[0] == sums[1] == small(mnist).get_train_inputs().sum()
    left = {path.name for path in (mnist / "MNIST").iterdir()}
    assert left == {
        CACHE,
        *(f"{p}-{k}-ubyte.gz" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")),
    }


def test_the_key_follows_the_content(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"12", mtime=0))
    first, state = content_key([path]), path.stat()
    path.write_bytes(gzip.compress(b"13", mtime=0))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content_key([path]) != first
    found = kept_arrays(tmp_path / "cache.npz", "k", lambda: {"a": np.arange(3)})
    again = kept_arrays(tmp_path / "cache.npz", "k", lambda: pytest.fail("the cache was not read"))
    assert np.array_equal(found["a"], again["a"])
    assert stat.S_IMODE((tmp_path / "cache.npz").stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- sharing ---------------------------------------------------------------------------------------


def test_handlers_share_their_images(mnist):
    first, second = small(mnist), MNISTData(mnist, use_one_hot=True, validation_size=0)
    pixels = [handler._data.lazily("in_data").pixels for handler in (first, second)]
    assert pixels[0] is pixels[1] and not pixels[0].flags.writeable
    copied = copy.deepcopy(first)
    assert copied._data.lazily("in_data").pixels is pixels[0]
    restored = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 1.5 * pixels[0].nbytes
    assert np.array_equal(restored.get_test_inputs(), first.get_test_inputs())
    first._data["in_data"][:] = 0.5
    first._data["out_data"][:] = 0
    assert (first.get_train_inputs() == 0.5).all()
    assert second.get_train_inputs().std() > 0 and second.get_train_outputs().argmax(1).std() > 0
    assert small(mnist).get_train_outputs().std() > 0
    del first, second, copied, pixels, restored
    write_mnist(mnist / "MNIST", sizes=(40, 30))
    assert small(mnist).num_train_samples == 30


def test_what_a_handler_shows_of_shared_images_is_its_own(mnist):
    first, second = small(mnist), small(mnist)
    first.in_shape.append(5)
    first.get_train_inputs()[:] = 2
    first.get_train_ids()[:] = 0
    assert second.in_shape == small(mnist).in_shape == [28, 28, 1]
    assert first.get_train_inputs().max() <= 1 and first.get_train_ids()[0] == 10


def test_other_labels_of_the_same_files_are_read_anew(tmp_path):
    class Coarse(CIFAR100Data):
        _label_entry = "coarse_labels"

    write_cifar(tmp_path, 100)
    for path in (tmp_path / "cifar-100-python" / name for name in ("train", "test")):
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({**content, b"coarse_labels": [7] * len(content[b"data"])}, 2))
    fine, coarse = CIFAR100Data(tmp_path, validation_size=1), Coarse(tmp_path, validation_size=1)
    assert set(coarse.get_train_outputs()[:, 0]) == {7} < set(fine.get_train_outputs()[:, 0])


def test_files_that_are_replaced_are_read_again(tmp_path):
    write_mnist(tmp_path / "MNIST", suffix="")
    path = tmp_path / "MNIST" / "train-images-idx3-ubyte"
    before, state = small(tmp_path), path.stat()
    write_atomically(path, path.read_bytes()[:16] + bytes(60 * 784))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert before.get_train_inputs().any() and not inputs(tmp_path).any()


def test_threads_load_images_once(mnist):
    handlers = []
    threads = [threading.Thread(target=lambda: handlers.append(small(mnist))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(handler._images) for handler in handlers}) == 1


# --- other places and forms ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_layouts_of_torchvision(tmp_path, suffix):
    for folder in ("MNIST/raw", "FashionMNIST/raw"):
        write_mnist(tmp_path / folder, suffix=suffix)
    write_mnist(tmp_path / "other" / "MNIST")
    expected = small(tmp_path / "other").get_train_inputs()
    assert np.array_equal(small(tmp_path).get_train_inputs(), expected)
    fashion = FashionMNISTData(tmp_path, validation_size=10)
    assert np.array_equal(fashion.get_train_inputs(), expected)
    assert fashion.num_val_samples == 10 and fashion._data["fmnist"]["classes"][9] == "Ankle boot"
    (task,) = split_by_class(fashion, [[9, 4]])
    assert task._data["fmnist"]["classes"] == ["Ankle boot", "Coat"]


def test_svhn(tmp_path):
    write_svhn(tmp_path / "SVHN", {"train": 30, "test": 20, "extra": 25})
    plain, more = SVHNData(tmp_path, validation_size=4), SVHNData(tmp_path, include_train_extra=True)
    assert str(plain) == "SVHN Dataset with 26 training, 4 validation and 20 test samples"
    assert more.num_train_samples == 55 and plain.get_identifier() == "SVHN"
    images, labels = blobs(30, 10, seed=0)
    assert np.array_equal(np.rint(plain._data["in_data"][:30] * 255), images.reshape(30, -1))
    assert np.array_equal(plain._data["out_data"][:30, 0], labels)
    assert np.array_equal(more.get_test_inputs(), plain.get_test_inputs())
    assert [more._data["svhn"]["type"].tolist().count(kind) for kind in (0, 1, 2)] == [30, 25, 20]
    augmented = SVHNData(tmp_path, use_torch_augmentation=True, use_cutout=True)
    batch = augmented.next_train_batch(3)[0]
    torch.manual_seed(0)
    np.random.seed(0)
    found = augmented.input_to_torch_tensor(batch, "cpu", mode="train")
    torch.manual_seed(0)
    np.random.seed(0)
    bytes_ = torch.from_numpy(np.rint(batch * 255).astype(np.uint8)).view(3, 32, 32, 3)
    expected = [augmented._train_transform(image.numpy()).permute(1, 2, 0).flatten() for image in bytes_]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    handler = FashionMNISTData(DEBIAN)
    assert (handler.num_train_samples, handler.num_test_samples) == (60000, 10000)
    assert np.array_equal(np.bincount(handler.get_train_outputs()[:, 0]), np.full(10, 6000))
    assert handler.get_train_outputs()[:5, 0].tolist() == [9, 0, 0, 3, 0]
    assert round(float(handler.get_test_inputs()[:1000].mean()), 3) == pytest.approx(0.287, abs=0.005)


# --- downloads and archives ------------------------------------------------------------------------


class Response(io.BytesIO):
    def __init__(self, content, length=None):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content) if length is None else length)}


def serve(monkeypatch, contents):
    asked = []

    def open_url(url, timeout=None):
        asked.append(url)
        name = url.rsplit("/", 1)[1]
        if name not in contents:
            raise OSError("404")
        return contents[name] if isinstance(contents[name], Response) else Response(contents[name])

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    return asked


def test_mnist_is_downloaded(tmp_path, monkeypatch):
    from torchvision import datasets

    write_mnist(tmp_path / "there")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    serve(monkeypatch, contents)
    with pytest.raises(FileNotFoundError, match="has not the check sum"):
        small(tmp_path)
    assert not list((tmp_path / "MNIST").iterdir())
    monkeypatch.setattr(datasets.MNIST, "resources", [])
    asked = serve(monkeypatch, contents)
    assert small(tmp_path).num_train_samples == 50
    assert len(asked) == 4 and small(tmp_path).num_test_samples == 30


def test_a_download_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    serve(monkeypatch, {"file": Response(b"half", length=8)})
    with pytest.raises(OSError, match="ended after 4 of 8 bytes"):
        _files.download("http://there/file", tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [IncompleteRead(b"half"), BadStatusLine("?")])
def test_answers_that_are_no_http_are_errors_of_the_download(tmp_path, monkeypatch, broken):
    def open_url(url, timeout=None):
        if url.endswith("file"):
            raise broken
        return Response(b"whole")

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    with pytest.raises(OSError, match=type(broken).__name__):
        _files.download("http://there/file", tmp_path / "file")
    assert not list(tmp_path.iterdir())
    _files.fetch(["http://there/file", "http://there/other"], tmp_path / "file", None, "there")
    assert (tmp_path / "file").read_bytes() == b"whole"
    (tmp_path / "own").touch()  # others may read what was fetched as they may read any new file
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "own").stat().st_mode


def archive(folder, names):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name in names:
            content = b"x" if folder is None else (folder / name).read_bytes()
            info = tarfile.TarInfo(name if folder is None else f"{folder.name}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def test_cifar_is_downloaded_and_extracted(cifar, monkeypatch):
    from torchvision import datasets

    folder = cifar / "cifar-10-batches-py"
    whole = archive(folder, sorted(path.name for path in folder.iterdir()))
    expected = CIFAR10Data(cifar, validation_size=1).get_train_inputs()
    shutil.rmtree(folder)
    serve(monkeypatch, {"cifar-10-python.tar.gz": whole})
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", None)
    assert np.array_equal(CIFAR10Data(cifar, validation_size=1).get_train_inputs(), expected)
    (folder / "data_batch_3").unlink()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["own"], "num_cases_per_batch": 1}))
    again = CIFAR10Data(cifar, validation_size=1)  # only what is missing comes from the archive
    assert np.array_equal(again.get_train_inputs(), expected)
    assert again._data["cifar10"]["label_names"] == ["own"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-hnetfast", "a/../../outside"])
def test_archives_that_leave_the_folder_are_refused(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(archive(None, ["cifar-10-batches-py/a", name]))
    with pytest.raises(ValueError, match="not safe"):
        CIFAR10Data(root)
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]
    assert not (tmp_path / "outside").exists() and not Path("/tmp/outside-of-hnetfast").exists()
    (root / "cifar-10-python.tar.gz").write_bytes(archive(None, ["a"])[:-30])
    with pytest.raises(ValueError, match="no complete archive"):
        CIFAR10Data(root)
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]
