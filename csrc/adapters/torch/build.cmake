# fastnn/_torch.so, where the Python of this build has PyTorch: not in pip's isolated builds, but with
# --no-build-isolation. One built with 2.13 also serves 2.10 and later: the stable ABI.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "
from importlib.metadata import version
from importlib.util import find_spec
assert tuple(map(int, version('torch').split('.')[:2])) >= (2, 10)
print(find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(torch)
  file(GLOB operators CONFIGURE_DEPENDS csrc/adapters/torch/*.cpp)
  add_library(_torch MODULE ${operators})
  set_target_properties(_torch PROPERTIES PREFIX "" SUFFIX .so)
  target_include_directories(_torch SYSTEM PRIVATE ${torch}/include)
  target_compile_definitions(_torch PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)  # 2.10
  target_compile_options(_torch PRIVATE -Wno-missing-field-initializers)
  # Found by its name among the libraries that PyTorch has loaded: no path to it is kept.
  target_link_libraries(_torch PRIVATE fastnn_flags ${torch}/lib/libtorch_cpu.so)
  set_target_properties(_torch PROPERTIES SKIP_BUILD_RPATH ON)
  install(TARGETS _torch LIBRARY DESTINATION fastnn)
elseif(FASTNN_TORCH STREQUAL ON)
  message(FATAL_ERROR "FASTNN_TORCH=ON needs PyTorch 2.10 or later in ${Python_EXECUTABLE}; "
    "build with pip's --no-build-isolation")
endif()
