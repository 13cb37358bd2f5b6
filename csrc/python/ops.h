// Every op of the contract as a Python function.
#pragma once
#include <pybind11/pybind11.h>

#include "../plan/plan.h"

namespace fnn {

// While one is set on this thread, ops are recorded into it instead of run: results are
// placeholders in its arena, whose values come with each replay.
struct Recorder {
  std::shared_ptr<Plan> plan;
  pybind11::list keep_alive;  // arrays from outside that the calls point at
};

extern thread_local Recorder* recorder;

void add_ops(pybind11::module_& m);
void add_plan(pybind11::module_& m);
void add_device_plan(pybind11::module_& m);
void add_parameters(pybind11::module_& m);

}  // namespace fnn
