// Keeps PyTorch and its mathematical library on the calling thread.
#pragma once

namespace hnetfast {

// While one of these lives, what this thread asks for is not shared out: the library would do so from some hundred elements
// on, and wait for other threads longer than it takes to compute them.
class SerialLibrary {
 public:
  SerialLibrary();
  ~SerialLibrary();
  SerialLibrary(const SerialLibrary&) = delete;
  SerialLibrary& operator=(const SerialLibrary&) = delete;

 private:
  int threads_, library_threads_;
};

}  // namespace hnetfast
