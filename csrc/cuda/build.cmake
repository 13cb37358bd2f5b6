# The module _cuda: kernels for GPUs from sm_80 on. Neither a GPU nor a driver is needed to build
# or to import it; the CUDA runtime is linked statically.
set(CMAKE_CUDA_ARCHITECTURES OFF)  # written out below
include(CheckLanguage)
check_language(CUDA)
set(oldest_nvcc 12.8)  # the first that knows sm_120
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD_DEFAULT "")  # no -std of CMake's: before 3.26 it knows no CUDA20
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(reason "there is no nvcc; put it on PATH or set CUDACXX")
elseif(NOT CMAKE_CUDA_COMPILER_ID STREQUAL NVIDIA)
  set(reason "${CMAKE_CUDA_COMPILER} is not NVIDIA's compiler")
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS oldest_nvcc)
  set(reason "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old, ${oldest_nvcc} is needed")
endif()
if(reason AND FASTNN_CUDA STREQUAL ON)
  message(FATAL_ERROR "FASTNN_CUDA=ON: ${reason}")
elseif(reason)
  message(STATUS "No CUDA kernels: ${reason}")
  return()
endif()

# Code for each generation, and for later ones what a driver can compile: of the oldest and newest.
set(architectures
  -gencode=arch=compute_80,code=[sm_80,compute_80]
  -gencode=arch=compute_90a,code=sm_90a
  -gencode=arch=compute_100,code=sm_100
  -gencode=arch=compute_120,code=[sm_120,compute_120])
set(architectures_sm90a -gencode=arch=compute_90a,code=sm_90a)

# Nothing is contracted, as on the CPU. Warnings include those of spilled registers.
set(cuda_flags
  -std=c++20 --fmad=false --expt-relaxed-constexpr --threads=2
  -Xcompiler=-Wall,-Wextra,-Wno-unused-function,-fvisibility=hidden
  -Xptxas=--warn-on-spills,--warn-on-local-memory-usage
  $<$<BOOL:${FASTNN_WERROR}>:-Werror=all-warnings> $<$<BOOL:${FASTNN_WERROR}>:-Xptxas=-Werror>)

file(GLOB cuda_kernels CONFIGURE_DEPENDS csrc/cuda/*.cu csrc/cuda/device/*.cu)
set(cuda_kernels_sm90a ${cuda_kernels})
list(FILTER cuda_kernels EXCLUDE REGEX "_sm90a\\.cu$")
list(FILTER cuda_kernels_sm90a INCLUDE REGEX "_sm90a\\.cu$")

function(fastnn_cuda name files gencode)
  add_library(${name} OBJECT ${files})
  target_include_directories(${name} PRIVATE csrc csrc/cuda)
  target_compile_options(${name} PRIVATE ${cuda_flags} ${gencode})
  target_link_libraries(fastnn_cuda_kernels INTERFACE $<TARGET_OBJECTS:${name}>)
endfunction()
add_library(fastnn_cuda_kernels INTERFACE)
fastnn_cuda(fastnn_cuda "${cuda_kernels}" "${architectures}")
if(cuda_kernels_sm90a)
  fastnn_cuda(fastnn_cuda_sm90a "${cuda_kernels_sm90a}" "${architectures_sm90a}")
endif()

find_package(CUDAToolkit REQUIRED)
file(GLOB cuda_device CONFIGURE_DEPENDS csrc/cuda/device/*.cpp csrc/python/cuda/*.cpp)
pybind11_add_module(_cuda NO_EXTRAS ${cuda_device})
target_compile_definitions(_cuda PRIVATE
  FASTNN_CUDA_ARCHITECTURES="sm_80, sm_90a, sm_100, sm_120, PTX of compute_80 and compute_120")
target_link_libraries(_cuda PRIVATE
  fastnn_cuda_kernels fastnn_flags CUDA::cudart_static Threads::Threads)
target_link_options(_cuda PRIVATE LINKER:--exclude-libs,ALL)
install(TARGETS _cuda LIBRARY DESTINATION fastnn)
