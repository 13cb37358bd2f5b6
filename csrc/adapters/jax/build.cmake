# The XLA foreign function, where the building environment has JAX: its headers are all it takes.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import jax.ffi; print(jax.ffi.include_dir())"
  OUTPUT_VARIABLE jax_include OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE jax_missing)
if(jax_missing AND FASTNN_JAX STREQUAL ON)
  message(FATAL_ERROR "FASTNN_JAX=ON, but JAX is not in the building environment; "
                      "install jax and build with pip install --no-build-isolation")
endif()
if(NOT jax_missing)
  message(STATUS "JAX's foreign function interface: ${jax_include}")
  pybind11_add_module(_jax NO_EXTRAS
    csrc/adapters/jax/ffi.cpp csrc/core/contract.cpp csrc/core/matmul_plan.cpp)
  target_include_directories(_jax SYSTEM PRIVATE ${jax_include})
  target_link_libraries(_jax PRIVATE fastnn_flags)
  install(TARGETS _jax LIBRARY DESTINATION fastnn)
endif()
