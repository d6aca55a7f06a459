// The change of a layer's results for few rows: they are computed after all, a block of outputs at a time, and again for the
// gradients of the layer, as that is less work than the layer's matrices. Nothing of the size of the results is stored.
#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "output_reg/output_reg.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr int64_t kBlock = 96;  // outputs
constexpr int64_t kSlabs = 16;  // sums of as many parts of the outputs are added in order, whoever computed them

// Results of a block of outputs: d = [D W*] [h̃ Δ]ᵀ, [outputs, R], times a factor for each row where those count.
template <typename T>
class Results {
 public:
  Results(const ChangedLayer& layer, const Tensor& now, const Tensor& change, int64_t chunks)
      : layer_(layer),
        rows_(now.size(0)),
        chunks_(chunks),
        row_pitch_(round_up(rows_, kernels_.lanes)),
        pitch_(round_up(layer.columns() + layer.width(), kernels_.lanes)) {
    const int64_t K = layer.width(), C = layer.columns();
    transposed_ = at::zeros({C + K, row_pitch_}, now.options());
    transposed_.narrow(0, 0, K).narrow(1, 0, rows_).copy_(now.t());
    if (C > K) transposed_[K].fill_(1);
    transposed_.narrow(0, C, K).narrow(1, 0, rows_).copy_(change.t());
    last_ = std::vector<bool>(rows_);
    for (int64_t r = 0; r < rows_; ++r) last_[r] = r % chunks == chunks - 1;
  }

  int64_t row_pitch() const { return row_pitch_; }
  int64_t scratch_size() const { return kBlock * (pitch_ + row_pitch_); }

  // Outputs [begin, end) to `results`, [outputs, row_pitch]; `memory` has scratch_size elements, and they are its last.
  T* compute(int64_t begin, int64_t end, T* memory) const {
    const int64_t K = layer_.width(), C = layer_.columns();
    const T *w = layer_.weight.template const_data_ptr<T>(), *p = layer_.previous_weight.template const_data_ptr<T>();
    const T* b = layer_.has_bias() ? layer_.bias.template const_data_ptr<T>() : nullptr;
    const T* pb = b ? layer_.previous_bias.template const_data_ptr<T>() : nullptr;
    T* const results = memory + kBlock * pitch_;
    for (int64_t o = begin; o < end; ++o) {
      T* row = memory + (o - begin) * pitch_;
      for (int64_t k = 0; k < K; ++k) row[k] = w[o * K + k] - p[o * K + k];
      if (b) row[K] = b[o] - pb[o];
      std::copy(p + o * K, p + (o + 1) * K, row + C);
    }
    const MatrixView<const T> rows{transposed_.template const_data_ptr<T>(), C + K, row_pitch_, row_pitch_};
    kernels_.gemm({memory, end - begin, C + K, pitch_}, rows, {results, end - begin, row_pitch_, row_pitch_}, nullptr, false);
    return results;
  }

  // Whether a row's result for an output counts.
  bool counts(int64_t output, int64_t row) const { return output < layer_.split || !last_[row]; }

 private:
  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const ChangedLayer& layer_;
  int64_t rows_, chunks_, row_pitch_, pitch_;
  Tensor transposed_;  // [C + K, row_pitch], rows h̃ and Δ as columns
  std::vector<bool> last_;
};

template <typename T>
RowSums forward(const ChangedLayer& layer, const Tensor& now, const Tensor& change, const Tensor& factors, int64_t chunks,
                bool gradients) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const Results<T> changed(layer, now, change, chunks);
  const int64_t R = now.size(0), K = layer.width(), pitch = round_up(K, kernels.lanes), row_pitch = changed.row_pitch();
  const int64_t blocks = (layer.outputs() + kBlock - 1) / kBlock, slabs = std::clamp<int64_t>(blocks, 1, kSlabs);
  const T *s = factors.const_data_ptr<T>(), *w = layer.weight.const_data_ptr<T>();
  const Tensor sums = empty_pooled({slabs, R, pitch}, now.options()).zero_();
  T* const all = sums.mutable_data_ptr<T>();
  std::vector<double> losses(slabs);
  parallel(slabs, 3 * layer.outputs() * R * K, [&](int64_t first, int64_t last) {
    T* const memory = scratch<T>(changed.scratch_size() + kBlock * pitch);
    T* const block = memory + changed.scratch_size();
    for (int64_t slab = first; slab < last; ++slab) {
      for (int64_t i = blocks * slab / slabs; i < blocks * (slab + 1) / slabs; ++i) {
        const int64_t begin = i * kBlock, end = std::min(begin + kBlock, layer.outputs());
        T* const d = changed.compute(begin, end, memory);
        for (int64_t o = begin; o < end; ++o) {
          T* row = d + (o - begin) * row_pitch;
          double sum = 0;
          for (int64_t r = 0; r < R; ++r) {
            const T scaled = changed.counts(o, r) ? s[r] * row[r] : T(0);
            sum += static_cast<double>(scaled) * row[r];
            row[r] = 2 * scaled;
          }
          losses[slab] += sum;
          if (!gradients) continue;
          T* const copied = block + (o - begin) * pitch;
          std::fill(std::copy(w + o * K, w + (o + 1) * K, copied), copied + pitch, T(0));
        }
        if (!gradients) continue;
        const MatrixView<const T> of_results{d, end - begin, R, row_pitch};
        kernels.gemm(of_results.t(), {block, end - begin, pitch, pitch}, {all + slab * R * pitch, R, pitch, pitch}, nullptr,
                     true);
      }
    }
  });
  RowSums result;
  result.loss = 0;
  for (const double loss : losses) result.loss += loss;
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(all, all + slab * R * pitch, R * pitch);
  if (gradients) result.rows = sums[0].narrow(1, 0, K).contiguous();
  return result;
}

template <typename T>
std::array<Tensor, 2> backward(const ChangedLayer& layer, const Tensor& now, const Tensor& change, const Tensor& factors,
                               int64_t chunks) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const Results<T> changed(layer, now, change, chunks);
  const int64_t R = now.size(0), K = layer.width(), C = layer.columns(), pitch = round_up(C, kernels.lanes),
                row_pitch = changed.row_pitch();
  const int64_t blocks = (layer.outputs() + kBlock - 1) / kBlock;
  const Tensor weight = empty_pooled(layer.weight.sizes(), layer.weight.options());
  const Tensor bias = at::empty({layer.has_bias() ? layer.outputs() : 0}, layer.weight.options());
  const Tensor rows = at::zeros({R, pitch}, now.options());  // h̃
  rows.narrow(1, 0, K).copy_(now);
  if (C > K) rows.select(1, K).fill_(1);
  const T *s = factors.const_data_ptr<T>(), *h = rows.const_data_ptr<T>();
  T *w = weight.mutable_data_ptr<T>(), *b = bias.mutable_data_ptr<T>();
  parallel(blocks, 3 * layer.outputs() * R * K, [&](int64_t first, int64_t last) {
    T* const memory = scratch<T>(changed.scratch_size() + kBlock * pitch);
    T* const grad = memory + changed.scratch_size();
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * kBlock, end = std::min(begin + kBlock, layer.outputs());
      T* const d = changed.compute(begin, end, memory);
      for (int64_t o = begin; o < end; ++o) {
        T* row = d + (o - begin) * row_pitch;
        for (int64_t r = 0; r < R; ++r) row[r] = changed.counts(o, r) ? 2 * s[r] * row[r] : T(0);
      }
      kernels.gemm({d, end - begin, R, row_pitch}, {h, R, pitch, pitch}, {grad, end - begin, pitch, pitch}, nullptr, false);
      for (int64_t o = begin; o < end; ++o) {
        const T* values = grad + (o - begin) * pitch;
        std::copy(values, values + K, w + o * K);
        if (C > K) b[o] = values[K];
      }
    }
  });
  return {weight, bias};
}

}  // namespace

bool has_few_rows(const ChangedLayer& layer, int64_t rows) {
  // In multiply-adds for each output: 6 rows · K (but rows fill vectors) against 5 K².
  return 6 * round_up(rows, 16) <= 5 * layer.columns();
}

RowSums change_of_few_rows(const ChangedLayer& layer, const Tensor& now, const Tensor& change, const Tensor& factors,
                           int64_t chunks, bool gradients) {
  return now.scalar_type() == at::kFloat ? forward<float>(layer, now, change, factors, chunks, gradients)
                                         : forward<double>(layer, now, change, factors, chunks, gradients);
}

std::array<Tensor, 2> layer_gradients_of_few_rows(const ChangedLayer& layer, const Tensor& now, const Tensor& change,
                                                  const Tensor& factors, int64_t chunks) {
  return now.scalar_type() == at::kFloat ? backward<float>(layer, now, change, factors, chunks)
                                         : backward<double>(layer, now, change, factors, chunks);
}

}  // namespace hnetfast
