// Preloaded by test_buffer_pool.py: a thread that asks for it sleeps before it unlocks a mutex of the extension.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace {
thread_local int pause_us = 0;
std::atomic<bool> holding{false};
}  // namespace

extern "C" {

void hold_next_lock(int microseconds) { pause_us = microseconds; }

bool is_holding() { return holding; }

int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  static const auto unlock = reinterpret_cast<int (*)(pthread_mutex_t*)>(dlsym(RTLD_NEXT, "pthread_mutex_unlock"));
  Dl_info caller;
  if (pause_us > 0 && dladdr(__builtin_return_address(0), &caller) && std::strstr(caller.dli_fname, "/hnetfast/_C")) {
    const int duration = pause_us;
    pause_us = 0;
    holding = true;
    usleep(duration);
  }
  return unlock(mutex);
}

}  // extern "C"
