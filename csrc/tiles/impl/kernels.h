// The tile kernels, included once per instruction set by tile_kernels.cpp, which defines
//   HN_ISA     namespace, and the name that backends() reports
//   HN_TARGET  function attribute that turns the instruction set on
//   HN_BYTES   bytes of a vector register
//   HN_ROWS, HN_VECTORS  register block: rows × vectors of accumulators
//   HN_FUSED   whether compilers contract a product and a sum of vectors to one instruction
// (Templates need the attribute on each function: a target pragma does not reach instantiations.)

namespace hnetfast::HN_ISA {

#define HN_INLINE HN_TARGET __attribute__((always_inline)) inline

// Not an alias template with attributes, of which Clang drops `aligned`: every pointer would be one to an aligned
// vector. For the same reason local arrays say their alignment: Clang reads and writes them as if they had it.
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(HN_BYTES), aligned(alignof(T)), may_alias));
};

template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = HN_BYTES / sizeof(T);

// sum + a·b, rounded as in the register blocks.
template <typename T>
HN_INLINE T add_product(T sum, T a, T b) {
  if constexpr (!HN_FUSED) return sum + a * b;
  if constexpr (sizeof(T) == 4) return __builtin_fmaf(a, b, sum);
  return __builtin_fma(a, b, sum);
}

#include "tiles/impl/elementwise.h"
#include "tiles/impl/sine.h"
#include "tiles/impl/transposition.h"

#include "tiles/impl/products.h"
#include "tiles/impl/scattered_products.h"

#define HN_STRING(x) #x
#define HN_NAME(x) HN_STRING(x)

template <typename T>
constexpr TileKernels<T> kTable = [] {
  TileKernels<T> table{};
  table.name = HN_NAME(HN_ISA);
  table.lanes = kLanes<T>;
  table.block_rows = HN_ROWS;
  table.block_columns = HN_VECTORS * kLanes<T>;
  table.gemm = gemm<T>;
  table.gemm_scatter = gemm_scatter<T>;
  table.dot_rows = dot_rows<T>;
  table.pack_transposed = pack_transposed<T>;
  table.unpack_transposed = unpack_transposed<T>;
  table.add_dots = add_dots<T>;
  table.outer = outer<T>;
  table.changed_dots = changed_dots<T>;
  table.multiply_rows = multiply_rows<T>;
  table.multiply_positions = multiply_positions<T>;
  table.write_sum = write_sum<T>;
  table.add = add<T>;
  table.multiply = multiply<T>;
  table.bytes_to_unit = bytes_to_unit<T>;
  table.relu = relu<T>;
  table.relu_backward = relu_backward<T>;
  table.sine = sine<T>;
  table.change = change_of_relu<T>;
  table.fence = fence;
  return table;
}();

#undef HN_NAME
#undef HN_STRING
#undef HN_INLINE

}  // namespace hnetfast::HN_ISA

#undef HN_ISA
#undef HN_TARGET
#undef HN_BYTES
#undef HN_ROWS
#undef HN_VECTORS
#undef HN_FUSED
