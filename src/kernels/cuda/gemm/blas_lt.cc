#include "kernels/cuda/gemm/blas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <array>

#include "kernels/cuda/device/errors.h"

namespace kt::kernels::cuda {
namespace {

/// What an algorithm was asked for.
struct Shape {
  std::int64_t m = 0, n = 0, k = 0, x_stride = 0, y_stride = 0;
  Type y_type = Type::kF32;
  std::uint32_t x_align = 0, y_align = 0;  // bytes
  bool operator==(const Shape&) const = default;
};

/// The largest power of two up to 256 that divides an address.
std::uint32_t alignment(const void* p) {
  const auto bits = reinterpret_cast<std::uintptr_t>(p) | 256;
  return static_cast<std::uint32_t>(bits & -bits);
}

struct Known {
  Shape shape;
  cublasLtMatmulAlgo_t algo{};
};

}  // namespace

struct BlasLt::Library {
  void* handle = nullptr;
  cublasLtHandle_t lt = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescInit_internal) init_desc = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_desc = nullptr;
  decltype(&cublasLtMatrixLayoutInit_internal) init_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceInit_internal) init_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  std::array<Known, 64> known{};
  std::size_t n_asked = 0;

  ~Library() {
    if (lt != nullptr) destroy(lt);
    if (handle != nullptr) dlclose(handle);
  }

  template <class F>
  bool find(F& f, const char* name) {
    f = reinterpret_cast<F>(dlsym(handle, name));
    return f != nullptr;
  }
  bool find_all() {
    return find(create, "cublasLtCreate") && find(destroy, "cublasLtDestroy") &&
           find(matmul, "cublasLtMatmul") && find(heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
           find(init_desc, "cublasLtMatmulDescInit_internal") &&
           find(set_desc, "cublasLtMatmulDescSetAttribute") &&
           find(init_layout, "cublasLtMatrixLayoutInit_internal") &&
           find(init_preference, "cublasLtMatmulPreferenceInit_internal") &&
           find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
  }

  /// Column-major, as cuBLAS counts.
  bool layout(cublasLtMatrixLayoutOpaque_t* out, cudaDataType type, std::int64_t rows,
              std::int64_t cols, std::int64_t stride) {
    return init_layout(out, sizeof *out, type, static_cast<std::uint64_t>(rows),
                       static_cast<std::uint64_t>(cols), stride) == CUBLAS_STATUS_SUCCESS;
  }
};

BlasLt::BlasLt(std::unique_ptr<Library> library) : library_(std::move(library)) {}
BlasLt::~BlasLt() = default;

std::unique_ptr<BlasLt> BlasLt::open(Status* status) {
  auto library = std::make_unique<Library>();
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.14", "libcublasLt.so.12"}) {
    library->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library->handle != nullptr) break;
  }
  *status = Status::kNoLibrary;
  if (library->handle == nullptr || !library->find_all()) return nullptr;
  *status = Status::kDeviceFailed;
  if (const cublasStatus_t made = library->create(&library->lt); made != CUBLAS_STATUS_SUCCESS) {
    remember_error("cublasLtCreate: status %d", static_cast<int>(made));
    return nullptr;
  }
  *status = Status::kOk;
  return std::unique_ptr<BlasLt>(new BlasLt(std::move(library)));
}

Status BlasLt::multiply(const BlasLtArgs& args, Stream stream) noexcept {
  Library& lib = *library_;
  const cudaDataType out = args.y_type == Type::kF32 ? CUDA_R_32F : CUDA_R_16BF;
  // In columns: y[n, m] = w[k, n]ᵀ · x[k, m].
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t w, x, y;
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const bool described =
      lib.init_desc(&desc, sizeof desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
      lib.set_desc(&desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose) ==
          CUBLAS_STATUS_SUCCESS &&
      lib.layout(&w, CUDA_R_16BF, args.k, args.n, args.k) &&
      lib.layout(&x, CUDA_R_16BF, args.k, args.m, args.x_stride) &&
      lib.layout(&y, out, args.n, args.m, args.y_stride);
  if (!described) return Status::kBadArgument;

  const Shape shape{args.m,
                    args.n,
                    args.k,
                    args.x_stride,
                    args.y_stride,
                    args.y_type,
                    alignment(args.x),
                    alignment(args.y)};
  Known* found = nullptr;
  for (Known& known : lib.known) {
    if (known.shape == shape) found = &known;
  }
  if (found == nullptr) {
    cublasLtMatmulPreferenceOpaque_t preference;
    const std::size_t bytes = kBlasWorkspaceBytes;
    cublasLtMatmulHeuristicResult_t result;
    int n_results = 0;
    const bool asked =
        lib.init_preference(&preference, sizeof preference) == CUBLAS_STATUS_SUCCESS &&
        lib.set_preference(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                           sizeof bytes) == CUBLAS_STATUS_SUCCESS &&
        lib.set_preference(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &shape.x_align,
                           sizeof shape.x_align) == CUBLAS_STATUS_SUCCESS &&
        lib.set_preference(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &shape.y_align,
                           sizeof shape.y_align) == CUBLAS_STATUS_SUCCESS &&
        lib.set_preference(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &shape.y_align,
                           sizeof shape.y_align) == CUBLAS_STATUS_SUCCESS &&
        lib.heuristic(lib.lt, &desc, &w, &x, &y, &y, &preference, 1, &result, &n_results) ==
            CUBLAS_STATUS_SUCCESS;
    if (!asked || n_results == 0) return Status::kUnsupported;
    found = &lib.known[lib.n_asked++ % lib.known.size()];
    *found = {shape, result.algo};
  }
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t status =
      lib.matmul(lib.lt, &desc, &one, args.w, &w, args.x, &x, &zero, args.y, &y, args.y, &y,
                 &found->algo, args.workspace, kBlasWorkspaceBytes, stream);
  if (status == CUBLAS_STATUS_SUCCESS) return Status::kOk;
  remember_error("cublasLtMatmul: status %d", static_cast<int>(status));
  return Status::kDeviceFailed;
}

}  // namespace kt::kernels::cuda
