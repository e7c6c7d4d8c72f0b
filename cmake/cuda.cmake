# The CUDA language, when KT_CUDA=ON: nvcc and libraries below KT_CUDA_ROOT (a tool chain of wheels, or of the
# system), for the architectures of KT_CUDA_ARCHITECTURES. The runtime is linked statically; cuBLASLt is looked up
# when a program runs. The target kt_gpu builds everything that needs a GPU to run.
set(KT_CUDA_ROOT "" CACHE PATH "Folder with bin/nvcc, include and lib of CUDA 13")
set(KT_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING
  "Architectures of the CUDA kernels, as CMake's CUDA_ARCHITECTURES; a virtual one is compiled by the driver")

find_program(KT_NVCC nvcc HINTS ${KT_CUDA_ROOT}/bin NO_CACHE)
if(NOT KT_NVCC)
  message(FATAL_ERROR "KT_CUDA needs nvcc: run ./dev gpu-build, or set -DKT_CUDA_ROOT=<folder of CUDA 13>")
endif()
set(CMAKE_CUDA_COMPILER ${KT_NVCC})
set(CMAKE_CUDA_ARCHITECTURES ${KT_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(KT_CUDA_ROOT)
  # The wheels keep libraries in lib, where nvcc itself does not look.
  string(APPEND CMAKE_CUDA_FLAGS_INIT " -L${KT_CUDA_ROOT}/lib")
  link_directories(${KT_CUDA_ROOT}/lib)
endif()
if(KT_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${KT_CCACHE})
endif()
enable_language(CUDA)
# CMake before 3.26 does not know that nvcc speaks C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
add_custom_target(kt_gpu)
