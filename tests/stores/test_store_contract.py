"""What holds for every backend, type and codec: what is written is what is read, by this reader and by plain ones."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (h5py finds its filters through it)
import numpy as np
import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_stores import tree, write_store

from pipeline.core.errors import StoreError
from pipeline.core.sources import FeatureShape
from pipeline.extraction.compute import row_moments
from pipeline.extraction.moments import Moments
from pipeline.stores.encoding import as_numpy, check_range, decode, encode
from pipeline.stores.format import FORMATS
from pipeline.stores.layout import Layout, shard_rows
from pipeline.stores.opening import open_store

FORMAT_NAMES = FORMATS.names()
PLAIN = ("zarr", "hdf5")  # a library of their own opens them as one array
DTYPES = ("float32", "float16", "bfloat16", "int8")
CODECS = ("none", "lz4", "zstd")
NOT_FINITE = (
    "net.layer gives features that are not finite; use weights that fit the network, or extract.precision: fp32"
)
EVERY, EVERY_PLAIN = ([(f, d, c) for f in names for d in DTYPES for c in CODECS] for names in (FORMAT_NAMES, PLAIN))


def features_like(rows: int = 11, shape: tuple[int, int, int] = (4, 6, 5)) -> torch.Tensor:
    """Post-ReLU features: a good part zeros, and one row that is nothing else."""
    features = torch.relu(torch.randn(rows, *shape, generator=torch.Generator().manual_seed(3)))
    features[rows // 2] = 0
    return features


def rounded(features: torch.Tensor, dtype: str) -> np.ndarray:
    encoded = encode(features, dtype)
    return decode(encoded.values, encoded.scales, dtype).numpy()


def plain(path: Path, array: str = "features") -> np.ndarray:
    """The whole array through nothing but zarr or h5py."""
    if (path / f"{array}.zarr").exists():
        return zarr.open_array(path / f"{array}.zarr", mode="r")[:]
    with h5py.File(path / "features.h5") as file:
        return file[array][:]


def test_both_backends_are_registered() -> None:
    assert {"hdf5", "zarr"} <= set(FORMAT_NAMES)


@pytest.mark.parametrize(("format", "dtype", "codec"), EVERY)
def test_rows_come_back_as_they_were_rounded(tmp_path: Path, format: str, dtype: str, codec: str) -> None:
    features = features_like()
    write_store(tmp_path / "net" / "layer", features, format, dtype, codec, shard_rows=4)
    store = open_store(tmp_path / "net" / "layer")
    rows = np.array([10, 0, 3, 4, 5, 3])
    np.testing.assert_array_equal(store.read(rows), rounded(features[rows], dtype))
    assert (store.rows, str(store.shape), store.dtype) == (11, "4×6×5", dtype)


@pytest.mark.parametrize(("format", "dtype", "codec"), EVERY_PLAIN)
def test_a_plain_reader_needs_nothing_of_this_project(tmp_path: Path, format: str, dtype: str, codec: str) -> None:
    features = features_like()
    path = tmp_path / "net" / "layer"
    write_store(path, features, format, dtype, codec, shard_rows=4)
    values = plain(path)
    if dtype == "bfloat16":  # bits in uint16, as the attribute says: the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "int8":
        step, minimum = np.moveaxis(plain(path, "scales"), 1, 0)[..., None, None]
        values = (values.astype(np.float32) + 128) * step + minimum
    np.testing.assert_array_equal(values.astype(np.float32), rounded(features, dtype))


@pytest.mark.parametrize("format", PLAIN)
def test_attributes_tell_a_plain_reader_what_the_bits_are(tmp_path: Path, format: str) -> None:
    path = tmp_path / "net" / "layer"
    write_store(path, features_like(), format, "bfloat16", "none", shard_rows=4)
    if format == "zarr":
        attributes = dict(zarr.open_array(path / "features.zarr", mode="r").attrs)
    else:
        with h5py.File(path / "features.h5") as file:
            attributes = dict(file["features"].attrs)
    assert attributes == {"stored_dtype": "bfloat16"}


@pytest.mark.parametrize("format", FORMAT_NAMES)
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_the_same_features_make_the_same_bytes(tmp_path: Path, format: str, codec: str) -> None:
    for name in ("once", "again"):
        write_store(tmp_path / name / "net" / "layer", features_like(), format, "int8", codec, shard_rows=4)
        time.sleep(1.01)  # a time of day, in whole seconds, would differ
    assert tree(tmp_path / "once") == tree(tmp_path / "again")


@pytest.mark.parametrize("format", PLAIN)
def test_zarr_and_hdf5_files_written_elsewhere_agree_with_the_library(tmp_path: Path, format: str) -> None:
    """The very bytes of a shard are those that the format's own library writes for the same rows."""
    features = features_like(rows=8).half()
    path = tmp_path / "net" / "layer"
    write_store(path, features.float(), format, "float16", "none", shard_rows=4)
    if format == "zarr":
        ours = zarr.open_array(path / "features.zarr", mode="r")
        copy = zarr.create_array(
            tmp_path / "copy.zarr",
            shape=ours.shape,
            dtype=ours.dtype,
            chunks=ours.chunks,
            shards=ours.shards,
            compressors=None,
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
        )
        copy[:] = features.numpy()
        assert tree(tmp_path / "copy.zarr")["c.1.0.0.0"] == tree(path / "features.zarr")["c.1.0.0.0"]
    else:
        with h5py.File(path / "shards" / "00001.h5") as file:
            np.testing.assert_array_equal(file["features"][:], features[4:].numpy())
            assert file["features"].chunks is None  # contiguous


@given(
    values=arrays(
        np.float32,
        st.tuples(*[st.integers(1, 5)] * 4),
        elements=st.floats(-1000, 1000, width=32),
    ),
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(CODECS),
    format=st.sampled_from(FORMAT_NAMES),
    shard=st.integers(1, 6),
    data=st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_of_any_features(tmp_path_factory, values, dtype, codec, format, shard, data) -> None:
    path = tmp_path_factory.mktemp("property") / "net" / "layer"
    features = torch.from_numpy(values)
    write_store(path, features, format, dtype, codec, shard_rows=shard)
    rows = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=8)))
    np.testing.assert_array_equal(open_store(path).read(rows), rounded(features[rows], dtype))
    if format in PLAIN:
        assert plain(path).shape == values.shape


@given(values=arrays(np.float32, (2, 3, 4, 4), elements=st.floats(-100, 100, width=32)))
@settings(max_examples=50, deadline=None)
def test_int8_is_within_half_a_step_and_keeps_the_smallest_value(values: np.ndarray) -> None:
    features = torch.from_numpy(values)
    encoded = encode(features, "int8")
    assert encoded.scales is not None
    found = decode(encoded.values, encoded.scales, "int8")
    step = (features.amax((2, 3)) - features.amin((2, 3)))[..., None, None] / 255
    assert ((found - features).abs() <= step * 0.501 + 1e-5).all()
    torch.testing.assert_close(found.amin((2, 3)), features.amin((2, 3)), rtol=0, atol=0)


def test_int8_keeps_zeros_behind_a_relu() -> None:
    features = features_like()
    encoded = encode(features, "int8")
    found = decode(encoded.values, encoded.scales, "int8")
    assert (found[features == 0] == 0).all()


@pytest.mark.parametrize(("dtype", "bar"), [("float32", 0), ("float16", 3e-4), ("bfloat16", 2e-3), ("int8", 4e-3)])
def test_relative_rms_error(dtype: str, bar: float) -> None:
    features = torch.relu(torch.randn(4, 16, 32, 32, generator=torch.Generator().manual_seed(0)))
    error = rounded(features, dtype) - features.numpy()
    assert np.sqrt((error**2).mean() / (features.numpy() ** 2).mean()) <= bar


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last_features_are_stored_in_row_order(dtype: str) -> None:
    features = features_like()
    turned = features.contiguous(memory_format=torch.channels_last)
    for one, other in zip(encode(features, dtype), encode(turned, dtype), strict=True):
        if one is not None and other is not None:
            np.testing.assert_array_equal(as_numpy(one), as_numpy(other))
            assert as_numpy(other).flags.c_contiguous


def test_decoding_never_returns_the_memory_it_was_given() -> None:
    values = torch.zeros(1, 1, 1, 1)
    decode(values, None, "float32").add_(1)
    assert values.item() == 0


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (
            70000.0,
            "float16",
            "net.layer gives features up to 7e+04, more than float16 can hold (65504); "
            "set store.dtype to bfloat16 or float32",
        ),
        (
            float("nan"),
            "float32",
            NOT_FINITE,
        ),
        (
            float("inf"),
            "int8",
            NOT_FINITE,
        ),
    ],
)
def test_what_a_type_cannot_hold_is_refused(value: float, dtype: str, message: str) -> None:
    features = torch.zeros(2, 3, 4, 4)
    features[1, 2, 3, 3] = value
    with pytest.raises(StoreError) as error:
        check_range(features, features.abs().sum((2, 3)), dtype, "net.layer")
    assert str(error.value) == message


def test_large_but_representable_features_are_not_refused() -> None:
    features = torch.full((1, 1, 64, 64), 60000.0)  # the sum of squares alone would not tell
    check_range(features, features.abs().sum((2, 3)), "float16", "net.layer")


@pytest.mark.parametrize("format", FORMAT_NAMES)
def test_expected_bytes_are_within_one_percent(tmp_path: Path, format: str) -> None:
    features = features_like(rows=20, shape=(16, 64, 64))
    layout = write_store(tmp_path / "net" / "layer", features, format, "float16", "none", shard_rows=6)
    assert open_store(tmp_path / "net" / "layer").bytes == pytest.approx(layout.expected_bytes, rel=0.01)


def test_read_into_takes_only_memory_of_the_right_kind(tmp_path: Path) -> None:
    write_store(tmp_path / "net" / "layer", features_like(), "zarr", "float16", "none", shard_rows=4)
    store = open_store(tmp_path / "net" / "layer")
    with pytest.raises(ValueError, match="rows are float16"):
        store.read_into(np.array([0]), np.empty((1, 4, 6, 5), np.float32))
    with pytest.raises(ValueError, match="C-contiguous"):
        store.read_into(np.array([0, 1]), np.empty((4, 4, 6, 5), np.float16)[::2])
    with pytest.raises(IndexError, match="row 11 of a store of 11 rows"):
        store.read(np.array([11]))
    with pytest.raises(IndexError, match="row -1"):
        store.read(np.array([-1]))


def test_shards_hold_whole_batches_of_about_the_wanted_size() -> None:
    row = 64 * 112 * 112 * 2
    assert shard_rows(row, megabytes=128, batch_size=16) == 64
    assert shard_rows(row, megabytes=1, batch_size=16) == 1
    assert shard_rows(50_000, megabytes=128, batch_size=16) == 2560


def test_layout_survives_its_facts() -> None:
    layout = Layout("zarr", "int8", "lz4", FeatureShape(2, 3, 4), rows=7, shard_rows=3)
    assert Layout.from_facts(layout.facts()) == layout
    assert [list(layout.rows_of(shard)) for shard in range(layout.shards)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_moments_are_those_of_float64_whatever_the_offset_and_the_split(
    offset: float, memory: torch.memory_format
) -> None:
    features = (
        torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([5, 1, 0])[:, None, None]
    )
    features = (features + offset).contiguous(memory_format=memory)
    means, squares = (values.numpy() for values in row_moments(features))
    parts = []
    for rows in (slice(0, 4), slice(4, 4), slice(4, 10)):
        part = Moments.empty(3)
        part.add(64, means[rows], squares[rows])
        parts.append(Moments.from_plain(part.plain()))
    whole, exact = Moments.merged(parts, 3), features.double().numpy()
    assert whole.count == 640
    np.testing.assert_allclose(whole.mean, exact.mean((0, 2, 3)), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(whole.std, exact.std((0, 2, 3)), rtol=1e-5, atol=1e-10 * offset)


def test_moments_of_nothing_are_zero() -> None:
    empty = Moments.merged([Moments.empty(2)], 2)
    np.testing.assert_array_equal([empty.mean, empty.std], np.zeros((2, 2)))
