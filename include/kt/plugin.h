// The C table through which a shared object brings operators of its own ("kt run --plugin FILE").
// Plain C: no C++ type and no exception crosses it; include/kt/operator.h makes a class into one.
//
//   kt_plugin_entry() -> kt_plugin -> kt_operator rows
//   per module: create (shapes, keyword arguments) -> load (reads its tensors) -> run* -> destroy
//
// Growth: every struct opens with its size as its maker knows it; new members go to the end, and a
// reader touches only what the size covers. KT_PLUGIN_VERSION changes when that is not enough.
// Strings are UTF-8, end with a zero and live as long as the call that passes them; those of the
// tables live as long as the library. Errors: a text of one line in `error`, cut at error_size.
//
// Threads: create, load and destroy are called one at a time. run is called by one thread for one
// module, except norms: on vectors inside a parallel region several threads run one at once.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define KT_NOEXCEPT noexcept
#else
#define KT_NOEXCEPT
#endif

#define KT_PLUGIN_MAGIC 0x4c50544bu  // "KTPL"
#define KT_PLUGIN_VERSION 1u
#define KT_PLUGIN_ENTRY "kt_plugin_entry"
#define KT_PLUGIN_EXPORT __attribute__((visibility("default")))

// What an operator stands for.
enum {
  KT_KIND_LINEAR = 1,  // out = x . W^T + b       W [n_out, n_in]
  KT_KIND_NORM = 2,    // out = norm(x)           weight [n_out]
  KT_KIND_MLP = 3      // out = mlp(x)            n_in = n_out = d_model, inner width d_ff
};

// Type of a keyword argument.
enum { KT_KWARG_FLAG = 1, KT_KWARG_WHOLE = 2, KT_KWARG_REAL = 3, KT_KWARG_TEXT = 4 };

// A keyword argument that an operator takes.
typedef struct kt_kwarg_type {
  const char* name;
  int32_t type;  // KT_KWARG_...
  int32_t reserved;
} kt_kwarg_type;

// A keyword argument that a rule gives; of its declared type.
typedef struct kt_kwarg {
  const char* name;
  int32_t type;
  int32_t flag;  // 0 or 1
  int64_t whole;
  double real;
  const char* text;
} kt_kwarg;

// The module that an operator is made for.
typedef struct kt_site {
  size_t size;
  const char* path;    // "model.layers.3.mlp.down_proj"
  const char* device;  // "cpu"
  int32_t kind;
  int32_t n_threads;  // most tasks that run at once
  int64_t n_in;       // width of x
  int64_t n_out;      // width of out
  int64_t d_ff;       // MLP: inner width; else 0
  double eps;         // norm: added to the mean square; else 0
  int32_t has_bias;   // linear: has one; MLP: its linears have one
  int32_t n_kwargs;
  const kt_kwarg* kwargs;  // only those that the rule gives
  const char* weight;      // tensor name of a linear or norm; null for an MLP
  const char* bias;        // tensor name of a linear's bias, or null
} kt_site;

// A tensor of the file.
typedef struct kt_tensor {
  size_t size;
  int64_t n_rows;      // product of all dimensions but the last
  int64_t n_cols;      // last dimension
  size_t row_bytes;    // of a row as stored
  const char* format;  // "F32", "BF16", "Q4_K" ...: GGUF's names; valid during load
} kt_tensor;

// Reads the tensors of the module during load: its weight and bias, and all below its path. A
// tensor that is not read counts as left over, which is an error of the load.
typedef struct kt_reader {
  size_t size;
  void* host;
  // Fills *tensor, whose size is set; 0, or 1 when there is no such tensor.
  int32_t (*find)(void* host, const char* name, kt_tensor* tensor) KT_NOEXCEPT;
  // Rows [row, row + n_rows) as floats, n_cols each; 0, or 1 and an error text.
  int32_t (*read_floats)(void* host, const char* name, int64_t row, int64_t n_rows, float* out,
                         char* error, size_t error_size) KT_NOEXCEPT;
  // The same rows as stored, row_bytes each.
  int32_t (*read_blocks)(void* host, const char* name, int64_t row, int64_t n_rows, void* out,
                         char* error, size_t error_size) KT_NOEXCEPT;
} kt_reader;

// One call of run.
typedef struct kt_run {
  size_t size;
  const float* x;    // [n_rows, n_in]
  int64_t x_stride;  // floats from row to row
  float* out;        // [n_rows, n_out]; a norm may be given out == x
  int64_t out_stride;
  int64_t n_rows;
  void* host;
  // Calls task(argument, i, worker) for i < n_tasks on all threads; worker < n_threads of the site.
  // Inside a norm's vectors it runs them one after another. Tasks must not call it.
  void (*parallel)(void* host, int64_t n_tasks,
                   void (*task)(void* argument, int64_t i, int32_t worker) KT_NOEXCEPT,
                   void* argument) KT_NOEXCEPT;
  // Memory until run returns, 64-byte aligned, not filled; not in tasks. Null for norms.
  void* (*scratch)(void* host, size_t bytes)KT_NOEXCEPT;
} kt_run;

// One operator.
typedef struct kt_operator {
  size_t size;
  const char* name;  // "TernaryLinear": a rule names it <plug-in>.TernaryLinear
  int32_t kind;      // KT_KIND_...
  int32_t n_kwargs;
  const kt_kwarg_type* kwargs;
  const char* devices;  // "cpu"
  // A new operator, or null and an error text. Weights are not there yet.
  void* (*create)(const kt_site* site, char* error, size_t error_size);
  // Reads and packs the weights; 0, or 1 and an error text. Called once.
  int32_t (*load)(void* self, const kt_reader* reader, char* error, size_t error_size);
  // Must not throw and should not allocate.
  void (*run)(void* self, const kt_run* run);
  // Bytes that the loaded weights take.
  uint64_t (*weight_bytes)(const void* self);
  void (*destroy)(void* self);
  // Format of the loaded weights for people ("ternary"); the function or its result may be null.
  const char* (*weight_format)(const void* self);
} kt_operator;

typedef struct kt_plugin {
  uint32_t magic;    // KT_PLUGIN_MAGIC
  uint32_t version;  // KT_PLUGIN_VERSION
  size_t size;
  const char* name;  // "mine"
  int64_t n_operators;
  const kt_operator* const* operators;
} kt_plugin;

// The one symbol that is looked up. `host_version` is the loading program's KT_PLUGIN_VERSION.
typedef const kt_plugin* (*kt_plugin_entry_function)(uint32_t host_version);
KT_PLUGIN_EXPORT const kt_plugin* kt_plugin_entry(uint32_t host_version);

#ifdef __cplusplus
}
#endif
