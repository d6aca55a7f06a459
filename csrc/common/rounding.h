// Division and rounding upwards.
#pragma once

#include <cstdint>

namespace hnetfast {

inline int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

inline int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

}  // namespace hnetfast
