// hnetfast::pixel_rows: some rows of bytes as numbers from 0 to 1.
//
// On the calling thread: the result is written as fast as memory allows, and handlers take batches in forked processes,
// where OpenMP has lost its threads and would wait for them.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {
namespace {

using at::Tensor;

Tensor pixel_rows(const Tensor& pixels, const Tensor& rows) {
  check_dense("pixel_rows", "pixels", pixels);
  check_dense("pixel_rows", "rows", rows);
  TORCH_CHECK_VALUE(pixels.dim() == 2 && pixels.scalar_type() == at::kByte && pixels.is_contiguous(), "pixel_rows: pixels is ",
                    pixels.scalar_type(), " ", pixels.sizes(), ", expected contiguous Byte [N, D]");
  TORCH_CHECK_VALUE(rows.dim() == 1 && rows.scalar_type() == at::kLong, "pixel_rows: rows is ", rows.scalar_type(), " ",
                    rows.sizes(), ", expected Long [n]");
  const int64_t total = pixels.size(0), width = pixels.size(1), count = rows.size(0);
  const Tensor indices = rows.contiguous();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_INDEX(index[i] >= -total && index[i] < total, "pixel_rows: rows holds ", index[i], ", there are ", total);
  }
  const Tensor out = empty_pooled({count, width}, pixels.options().dtype(at::kDouble));
  const uint8_t* from = pixels.const_data_ptr<uint8_t>();
  double* to = out.mutable_data_ptr<double>();
  const TileKernels<double>& kernels = tile_kernels<double>();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = index[i] < 0 ? index[i] + total : index[i];
    kernels.bytes_to_unit(to + i * width, from + row * width, width);
  }
  return out;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) { m.impl("pixel_rows", &pixel_rows); }

}  // namespace
}  // namespace hnetfast
