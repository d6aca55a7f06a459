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

constexpr int64_t kBlock = 96;    // outputs
constexpr int64_t kRowByRow = 3;  // so many rows at most are not worth laying out matrices for
constexpr int64_t kSlabs = 16;    // sums of as many parts of the outputs are added in order, whoever computed them

// The rows that a layer meets, what they were, and whether they are among the last chunks.
template <typename T>
class Rows {
 public:
  Rows(const ChangedLayer& layer, const Tensor& now, const Tensor& change, const Tensor& factors, int64_t chunks)
      : layer(layer),
        now(now.contiguous()),
        change(change.contiguous()),
        weight(layer.weight.const_data_ptr<T>()),
        previous_weight(layer.previous_weight.const_data_ptr<T>()),
        bias(layer.has_bias() ? layer.bias.const_data_ptr<T>() : nullptr),
        previous_bias(layer.has_bias() ? layer.previous_bias.const_data_ptr<T>() : nullptr),
        factors_(factors.const_data_ptr<T>()),
        chunks_(chunks) {}

  int64_t count() const { return now.size(0); }
  const T* row(int64_t r) const { return now.template const_data_ptr<T>() + r * layer.width(); }
  const T* change_of(int64_t r) const { return change.template const_data_ptr<T>() + r * layer.width(); }
  // A row's result for an output times its factor; 0 where it does not count, whatever it is.
  T scaled(T result, int64_t output, int64_t r) const {
    const bool counts = output < layer.split || r % chunks_ != chunks_ - 1;
    return counts ? factors_[r] * result : T(0);
  }

  const ChangedLayer& layer;
  const Tensor now, change;
  const T *weight, *previous_weight, *bias, *previous_bias;  // of the layer

 private:
  const T* factors_;
  int64_t chunks_;
};

// Results of a block of outputs by products of matrices, d = [D W*] [h̃ Δ]ᵀ.
template <typename T>
class AllAtOnce {
 public:
  AllAtOnce(const Rows<T>& rows, bool for_rows)
      : rows_(rows),
        row_pitch_(round_up(rows.count(), kernels_.lanes)),
        pitch_(round_up(rows.layer.columns() + rows.layer.width(), kernels_.lanes)),
        grad_pitch_(round_up(for_rows ? rows.layer.width() : rows.layer.columns(), kernels_.lanes)) {
    const int64_t R = rows.count(), K = rows.layer.width(), C = rows.layer.columns();
    transposed_ = at::zeros({C + K, row_pitch_}, rows.now.options());
    transposed_.narrow(0, 0, K).narrow(1, 0, R).copy_(rows.now.t());
    if (C > K) transposed_[K].fill_(1);
    transposed_.narrow(0, C, K).narrow(1, 0, R).copy_(rows.change.t());
    if (for_rows) return;
    augmented_ = at::zeros({R, grad_pitch_}, rows.now.options());  // h̃
    augmented_.narrow(1, 0, K).copy_(rows.now);
    if (C > K) augmented_.select(1, K).fill_(1);
  }

  int64_t scratch_size() const { return kBlock * (pitch_ + row_pitch_ + grad_pitch_); }
  int64_t grad_pitch() const { return grad_pitch_; }

  // Results for outputs [begin, end), that of row r for output o at [o − begin, r].
  MatrixView<T> compute(int64_t begin, int64_t end, T* memory) const {
    const int64_t K = rows_.layer.width(), C = rows_.layer.columns();
    const T *w = rows_.weight, *p = rows_.previous_weight, *b = rows_.bias, *pb = rows_.previous_bias;
    T* const results = memory + kBlock * pitch_;
    for (int64_t o = begin; o < end; ++o) {
      T* row = memory + (o - begin) * pitch_;
      for (int64_t k = 0; k < K; ++k) row[k] = w[o * K + k] - p[o * K + k];
      if (b) row[K] = b[o] - pb[o];
      std::copy(p + o * K, p + (o + 1) * K, row + C);
    }
    const MatrixView<const T> all{transposed_.template const_data_ptr<T>(), C + K, row_pitch_, row_pitch_};
    const MatrixView<T> d{results, end - begin, row_pitch_, row_pitch_};
    kernels_.gemm({memory, end - begin, C + K, pitch_}, all, d, nullptr, false);
    return d;
  }

  // grad [R, grad_pitch] += dᵀ·W.
  void add_gradients_of_rows(const MatrixView<T>& d, int64_t begin, T* memory, T* grad) const {
    const int64_t K = rows_.layer.width(), R = rows_.count();
    T* const block = memory + kBlock * (pitch_ + row_pitch_);
    for (int64_t o = 0; o < d.rows; ++o) {
      const T* const w = rows_.weight + (begin + o) * K;
      T* const copied = block + o * grad_pitch_;
      std::fill(std::copy(w, w + K, copied), copied + grad_pitch_, T(0));
    }
    const MatrixView<const T> of_results{d.data, d.rows, R, d.stride};
    kernels_.gemm(of_results.t(), {block, d.rows, grad_pitch_, grad_pitch_}, {grad, R, grad_pitch_, grad_pitch_}, nullptr, true);
  }

  // Gradients d·h̃ of the outputs' weights and biases, to [outputs, K] and [outputs], if there are any.
  void gradients_of_layer(const MatrixView<T>& d, T* memory, T* weight, T* bias) const {
    const int64_t K = rows_.layer.width(), R = rows_.count();
    T* const grad = memory + kBlock * (pitch_ + row_pitch_);
    kernels_.gemm({d.data, d.rows, R, d.stride}, {augmented_.template const_data_ptr<T>(), R, grad_pitch_, grad_pitch_},
                  {grad, d.rows, grad_pitch_, grad_pitch_}, nullptr, false);
    for (int64_t o = 0; o < d.rows; ++o) {
      const T* values = grad + o * grad_pitch_;
      std::copy(values, values + K, weight + o * K);
      if (bias) bias[o] = values[K];
    }
  }

 private:
  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const Rows<T>& rows_;
  int64_t row_pitch_, pitch_, grad_pitch_;
  Tensor transposed_;  // [C + K, row_pitch], rows h̃ and Δ as columns
  Tensor augmented_;   // [R, grad_pitch]
};

// The same where there are so few rows that each takes the matrices as they lie.
template <typename T>
class RowByRow {
 public:
  RowByRow(const Rows<T>& rows, bool) : rows_(rows) {}

  int64_t scratch_size() const { return kBlock * rows_.count(); }
  int64_t grad_pitch() const { return rows_.layer.width(); }

  MatrixView<T> compute(int64_t begin, int64_t end, T* memory) const {
    const int64_t K = rows_.layer.width(), count = end - begin;
    const T *w = rows_.weight + begin * K, *p = rows_.previous_weight + begin * K;
    for (int64_t r = 0; r < rows_.count(); ++r) {
      T* const d = memory + r * kBlock;
      kernels_.changed_dots(count, K, rows_.row(r), rows_.change_of(r), w, p, K, d);
      if (!rows_.bias) continue;
      const T *b = rows_.bias + begin, *pb = rows_.previous_bias + begin;
      for (int64_t o = 0; o < count; ++o) d[o] += b[o] - pb[o];
    }
    return {memory, count, rows_.count(), 1, kBlock};
  }

  void add_gradients_of_rows(const MatrixView<T>& d, int64_t begin, T*, T* grad) const {
    const int64_t K = rows_.layer.width();
    const T* w = rows_.weight + begin * K;
    for (int64_t r = 0; r < rows_.count(); ++r) kernels_.add_rows(d.rows, K, d.data + r * d.step, w, K, grad + r * K);
  }

  void gradients_of_layer(const MatrixView<T>& d, T*, T* weight, T* bias) const {
    const int64_t K = rows_.layer.width();
    for (int64_t o = 0; o < d.rows; ++o) {
      T* const to = weight + o * K;
      T sum = 0;
      for (int64_t r = 0; r < rows_.count(); ++r) {
        const T factor = d.data[o + r * d.step], *h = rows_.row(r);
        if (r == 0) {
          for (int64_t k = 0; k < K; ++k) to[k] = factor * h[k];
        } else {
          for (int64_t k = 0; k < K; ++k) to[k] += factor * h[k];
        }
        sum += factor;
      }
      if (bias) bias[o] = sum;
    }
  }

 private:
  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const Rows<T>& rows_;
};

template <typename T, typename Products>
RowSums forward(const Rows<T>& rows, bool gradients) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const Products products(rows, true);
  const int64_t R = rows.count(), K = rows.layer.width(), outputs = rows.layer.outputs(), pitch = products.grad_pitch();
  const int64_t blocks = ceil_div(outputs, kBlock), slabs = std::clamp<int64_t>(blocks, 1, kSlabs);
  const Tensor sums = empty_pooled({slabs, R, pitch}, rows.now.options()).zero_();
  T* const all = sums.mutable_data_ptr<T>();
  std::vector<double> losses(slabs);
  parallel(slabs, 3 * outputs * R * K, [&](int64_t first, int64_t last) {
    T* const memory = scratch<T>(products.scratch_size());
    for (int64_t slab = first; slab < last; ++slab) {
      for (int64_t i = blocks * slab / slabs; i < blocks * (slab + 1) / slabs; ++i) {
        const int64_t begin = i * kBlock;
        const MatrixView<T> d = products.compute(begin, std::min(begin + kBlock, outputs), memory);
        for (int64_t o = 0; o < d.rows; ++o) {
          double sum = 0;
          for (int64_t r = 0; r < R; ++r) {
            T& result = d.row(o)[r * d.step];
            const T scaled = rows.scaled(result, begin + o, r);
            sum += static_cast<double>(scaled) * result;
            result = 2 * scaled;
          }
          losses[slab] += sum;
        }
        if (gradients) products.add_gradients_of_rows(d, begin, memory, all + slab * R * pitch);
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

template <typename T, typename Products>
std::array<Tensor, 2> backward(const Rows<T>& rows) {
  const Products products(rows, false);
  const ChangedLayer& layer = rows.layer;
  const int64_t R = rows.count(), K = layer.width(), blocks = ceil_div(layer.outputs(), kBlock);
  const Tensor weight = empty_pooled(layer.weight.sizes(), layer.weight.options());
  const Tensor bias = at::empty({layer.has_bias() ? layer.outputs() : 0}, layer.weight.options());
  T *w = weight.mutable_data_ptr<T>(), *b = layer.has_bias() ? bias.mutable_data_ptr<T>() : nullptr;
  parallel(blocks, 3 * layer.outputs() * R * K, [&](int64_t first, int64_t last) {
    T* const memory = scratch<T>(products.scratch_size());
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * kBlock;
      const MatrixView<T> d = products.compute(begin, std::min(begin + kBlock, layer.outputs()), memory);
      for (int64_t o = 0; o < d.rows; ++o) {
        for (int64_t r = 0; r < R; ++r) {
          T& result = d.row(o)[r * d.step];
          result = 2 * rows.scaled(result, begin + o, r);
        }
      }
      products.gradients_of_layer(d, memory, w + begin * K, b ? b + begin : nullptr);
    }
  });
  return {weight, bias};
}

template <typename T>
RowSums forward_in(const Rows<T>& rows, bool gradients) {
  return rows.count() <= kRowByRow ? forward<T, RowByRow<T>>(rows, gradients) : forward<T, AllAtOnce<T>>(rows, gradients);
}

template <typename T>
std::array<Tensor, 2> backward_in(const Rows<T>& rows) {
  return rows.count() <= kRowByRow ? backward<T, RowByRow<T>>(rows) : backward<T, AllAtOnce<T>>(rows);
}

}  // namespace

bool has_few_rows(const ChangedLayer& layer, int64_t rows) {
  // In multiply-adds for each output: 6 rows · K (but rows fill vectors) against 5 K².
  return 6 * round_up(rows, 16) <= 5 * layer.columns();
}

RowSums change_of_few_rows(const ChangedLayer& layer, const Tensor& now, const Tensor& change, const Tensor& factors,
                           int64_t chunks, bool gradients) {
  return now.scalar_type() == at::kFloat ? forward_in<float>({layer, now, change, factors, chunks}, gradients)
                                         : forward_in<double>({layer, now, change, factors, chunks}, gradients);
}

std::array<Tensor, 2> layer_gradients_of_few_rows(const ChangedLayer& layer, const Tensor& now, const Tensor& change,
                                                  const Tensor& factors, int64_t chunks) {
  return now.scalar_type() == at::kFloat ? backward_in<float>({layer, now, change, factors, chunks})
                                         : backward_in<double>({layer, now, change, factors, chunks});
}

}  // namespace hnetfast
