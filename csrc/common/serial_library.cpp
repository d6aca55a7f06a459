#include "common/serial_library.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace hnetfast {
namespace {

// Both change what the calling thread alone asks for. The one of MKL returns what was there before, 0 for the default.
void set_threads(int count) {
#ifdef _OPENMP
  omp_set_num_threads(count);
#endif
}

int set_library_threads(int count) {
  static const auto set = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "MKL_Set_Num_Threads_Local"));
  return set ? set(count) : 0;  // PyTorch may come with another library
}

}  // namespace

SerialLibrary::SerialLibrary() : threads_(at::get_num_threads()), library_threads_(set_library_threads(1)) { set_threads(1); }

SerialLibrary::~SerialLibrary() {
  set_library_threads(library_threads_);
  set_threads(threads_);
}

}  // namespace hnetfast
