// The interpreter's lock, given up while kernels run.
//
// A daemon thread that asks for the lock while the interpreter shuts down is ended by pthread_exit
// (before Python 3.14): its stack is unwound, destructors run without the lock, and the first
// noexcept frame aborts the process. Such a thread sleeps here instead until the process is gone.
#pragma once
#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

namespace fnn {

template <class Take> auto take_lock(Take take) {
  try {
    return take();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
}

// The lock is released for the lifetime of one.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    take_lock([this] { PyEval_RestoreThread(state_); });
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

// The lock is held for the lifetime of one, on a thread that gave it up.
class Locked {
 public:
  Locked() : state_(take_lock([] { return PyGILState_Ensure(); })) {}
  ~Locked() { PyGILState_Release(state_); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace fnn
