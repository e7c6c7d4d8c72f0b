// ktransformers._native.Injection: the operators that a rule file puts into a Transformers model.
// Tensors come as arrays of this process's memory (DLPack), float rows without copies.
#include "session/injection.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <mutex>
#include <set>

#include "module.h"

namespace kt::python {
namespace {

namespace nb = nanobind;
using namespace nb::literals;
using engine::Sequences;
using operators::Module;
using session::Injection;

using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FlatFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

tensor::MatrixF view(const Floats& x) {
  const auto cols = static_cast<std::int64_t>(x.shape(1));
  return {x.data(), static_cast<std::int64_t>(x.shape(0)), cols, cols};
}

tensor::ConstMatrixF view(const ConstFloats& x) {
  const auto cols = static_cast<std::int64_t>(x.shape(1));
  return {x.data(), static_cast<std::int64_t>(x.shape(0)), cols, cols};
}

void want_rows(const Module& module, std::int64_t got, std::int64_t wanted, const char* what) {
  if (got == wanted) return;
  fail(ErrorCode::kUsage, module.path(), "{} is {}, wanted {}", what, got, wanted);
}

// One model, used by one thread at a time; Python's lock is free while it computes. Callbacks into
// Python must not come back here.
class Native {
 public:
  explicit Native(std::unique_ptr<Injection> injection) : injection_(std::move(injection)) {}
  Injection& get() { return *injection_; }

  template <class F>
  auto locked(F&& run) {
    const nb::gil_scoped_release unlock;
    const std::scoped_lock lock(mutex_);
    return run(*injection_);
  }

 private:
  std::unique_ptr<Injection> injection_;
  // Recursive: what Python is called for between steps (a streamer) may read weights.
  std::recursive_mutex mutex_;
};

void want_own(Native& native, const Module& module) {
  if (native.get().find(module.path()) == &module) return;
  fail(ErrorCode::kUsage, module.path(), "it is a module of another model");
}

void want_own(Native& native, const Sequences& sequences) {
  if (&sequences.cpu() == &native.get().cpu()) return;
  fail(ErrorCode::kUsage, "sequences", "they are of another model");
}

void want_valid(const Sequences& sequences, const Sequences::Rows& rows) {
  if (sequences.are_valid(rows)) return;
  fail(ErrorCode::kUsage, "rows", "the sequences have changed since, or are others");
}

struct Tokens {
  std::vector<std::int32_t> ids;
  std::vector<Sequences::Feed> feeds;
};

// The ids of all sequences one after the other, counts[i] of them for sequence indices[i].
Tokens tokens_of(const Injection& injection, const Sequences& sequences,
                 const std::vector<std::int64_t>& indices, const Ids& ids,
                 const std::vector<std::int64_t>& counts) {
  Tokens tokens;
  std::size_t left = ids.size();
  for (const std::int64_t n : counts) {
    if (n < 0 || static_cast<std::size_t>(n) > left)
      fail(ErrorCode::kUsage, "tokens", "the counts of tokens do not fit {} ids", ids.size());
    left -= static_cast<std::size_t>(n);
  }
  if (indices.size() != counts.size() || left != 0)
    fail(ErrorCode::kUsage, "tokens", "the counts of tokens do not fit {} ids", ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t id = ids.data()[i];
    if (id < 0 || id >= injection.vocab_size()) {
      fail(ErrorCode::kUsage, "input_ids", "token id {} is outside the vocabulary of {}", id,
           injection.vocab_size());
    }
    tokens.ids.push_back(static_cast<std::int32_t>(id));
  }
  std::size_t begin = 0;
  std::set<std::int64_t> seen;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (!seen.insert(indices[i]).second)
      fail(ErrorCode::kUsage, "sequences", "sequence {} comes twice", indices[i]);
    if (indices[i] < 0 || indices[i] >= sequences.size()) {
      fail(ErrorCode::kUsage, "sequences", "no sequence {}; there are {}", indices[i],
           sequences.size());
    }
    const auto n = static_cast<std::size_t>(counts[i]);
    tokens.feeds.push_back({indices[i], std::span(tokens.ids).subspan(begin, n)});
    begin += n;
  }
  return tokens;
}

// True when a signal's Python handler raised (Ctrl-C).
bool interrupted() {
  const nb::gil_scoped_acquire lock;
  return PyErr_CheckSignals() != 0;
}

// Runs what may call Python on the way; what Python raised there goes on.
template <class F>
void let_python_raise(F&& run) {
  try {
    run();
  } catch (const Error&) {
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    throw;
  }
}

// One prompt through the generate loop of the engine, with a cache for `context` tokens.
nb::dict generate(Native& native, const std::vector<std::int32_t>& prompt,
                  const engine::SamplingParams& sampling, std::int64_t max_tokens,
                  const std::vector<std::int32_t>& stop_tokens, const nb::callable& on_token) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (max_tokens < 0 || max_tokens > kMost)
    fail(ErrorCode::kUsage, "max_tokens", "{}: 0 to {} are possible", max_tokens, kMost);
  if (prompt.empty()) fail(ErrorCode::kUsage, "prompt", "it has no tokens");
  engine::Request request;
  request.prompt = prompt;
  request.max_tokens = max_tokens;
  request.stop_tokens = stop_tokens;
  request.sampling = sampling;
  request.reuse_prefix = false;  // every prompt is timed as a whole
  bool raised = false;
  request.on_token = [&](const engine::SampledToken& token) {
    const nb::gil_scoped_acquire lock;
    raised = PyErr_CheckSignals() != 0;
    if (raised) return false;
    try {
      on_token(token.id);
    } catch (nb::python_error& e) {
      e.restore();
      raised = true;
    }
    return !raised;
  };
  engine::Result result;
  native.locked([&](Injection& s) {
    const auto n = static_cast<std::int64_t>(prompt.size()) + max_tokens;
    engine::Engine& engine = s.engine(n);
    request.on_prefill = [&](std::int64_t, std::int64_t) {
      if (!raised && interrupted()) {
        raised = true;
        engine.cancel();
      }
    };
    result = engine.generate(std::move(request));
  });
  if (raised) throw nb::python_error();
  nb::dict out;
  out["tokens"] = result.tokens;
  out["n_prompt"] = result.n_prompt;
  out["n_decoded"] = result.n_decoded;
  out["prefill_seconds"] = result.prefill_seconds;
  out["decode_seconds"] = result.decode_seconds;
  return out;
}

void run_model(Native& native, Sequences& sequences, const std::vector<std::int64_t>& indices,
               const Ids& ids, const std::vector<std::int64_t>& counts,
               const std::vector<std::int64_t>& logit_rows, const Floats& logits) {
  want_own(native, sequences);
  const Tokens tokens = tokens_of(native.get(), sequences, indices, ids, counts);
  const auto n_out = static_cast<std::int64_t>(logits.shape(0));
  if (logit_rows.size() != tokens.ids.size() ||
      (n_out > 0 && static_cast<std::int64_t>(logits.shape(1)) != native.get().vocab_size())) {
    fail(ErrorCode::kUsage, "logits", "shapes do not fit the tokens and the vocabulary");
  }
  std::vector<float*> outputs;
  for (const std::int64_t row : logit_rows) {
    if (row >= n_out) fail(ErrorCode::kUsage, "logits", "row {} of {}", row, n_out);
    outputs.push_back(row < 0 ? nullptr : logits.data() + row * native.get().vocab_size());
  }
  std::vector<Injection::Feed> feeds;
  std::size_t begin = 0;
  for (const Sequences::Feed& feed : tokens.feeds) {
    feeds.push_back({feed.sequence, feed.tokens,
                     std::span<float* const>(outputs).subspan(begin, feed.tokens.size())});
    begin += feed.tokens.size();
  }
  let_python_raise(
      [&] { native.locked([&](Injection& s) { s.run_model(sequences, feeds, interrupted); }); });
}

// [n_rows, n_in] → [n_rows, n_out] of a Linear, Norm, Mlp or Moe.
void run_module(Native& native, Module& module, const ConstFloats& x, const Floats& y) {
  want_own(native, module);
  std::int64_t d_in = native.get().config().d_model, d_out = d_in;
  if (const auto* linear = dynamic_cast<const operators::Linear*>(&module)) {
    d_in = linear->n_in();
    d_out = linear->n_out();
  } else if (dynamic_cast<const operators::Norm*>(&module) != nullptr) {
    const std::vector<operators::WeightSpec> weights = module.weights();
    if (!weights.empty()) d_in = d_out = weights.front().shape.count();
  } else if (dynamic_cast<const operators::Mlp*>(&module) == nullptr) {
    fail(ErrorCode::kUsage, module.path(), "a module of kind {} cannot run alone", module.kind());
  }
  want_rows(module, view(x).n_cols, d_in, "the width of its input");
  want_rows(module, view(y).n_cols, d_out, "the width of its output");
  want_rows(module, view(y).n_rows, view(x).n_rows, "the number of output rows");
  native.locked([&](Injection& s) { s.run_module(module, view(x), view(y)); });
}

void run_experts(Native& native, Module& module, const ConstFloats& x, const Ids& ids,
                 const ConstFloats& weights, const Floats& y) {
  want_own(native, module);
  const io::ModelConfig& config = native.get().config();
  const std::int64_t n_active = view(weights).n_cols;
  want_rows(module, view(x).n_cols, config.d_model, "the width of its input");
  want_rows(module, view(y).n_rows, view(x).n_rows, "the number of output rows");
  want_rows(module, view(y).n_cols, config.d_model, "the width of its output");
  want_rows(module, view(weights).n_rows, view(x).n_rows, "the number of weight rows");
  want_rows(module, static_cast<std::int64_t>(ids.size()), n_active * view(x).n_rows,
            "the number of ids");
  want_rows(module, n_active, native.get().n_active(), "the number of experts per token");
  std::vector<std::int32_t> chosen;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t id = ids.data()[i];
    if (id < 0 || id >= config.moe.n_experts) {
      fail(ErrorCode::kUsage, module.path(), "expert {} of {}", id, config.moe.n_experts);
    }
    chosen.push_back(static_cast<std::int32_t>(id));
  }
  std::vector<float> shares(weights.data(), weights.data() + chosen.size());
  native.locked([&](Injection& s) {
    s.run_experts(module, view(x), {n_active, chosen.data(), shares.data()}, view(y));
  });
}

nb::tuple run_gate(Native& native, Module& module, const ConstFloats& x,
                   const nb::ndarray<std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& ids,
                   const Floats& weights) {
  want_own(native, module);
  want_rows(module, view(x).n_cols, native.get().config().d_model, "the width of its input");
  want_rows(module, static_cast<std::int64_t>(ids.shape(0)), view(x).n_rows, "the rows of ids");
  want_rows(module, static_cast<std::int64_t>(ids.shape(1)), native.get().n_active(), "ids a row");
  want_rows(module, view(weights).n_rows, view(x).n_rows, "the rows of weights");
  want_rows(module, view(weights).n_cols, native.get().n_active(), "weights a row");
  native.locked([&](Injection& s) { s.run_gate(module, view(x), ids.data(), weights.data()); });
  return nb::make_tuple(ids, weights);
}

void run_attention(Native& native, Module& module, std::int64_t layer, Sequences& sequences,
                   const Sequences::Rows& rows, const ConstFloats& x, const Floats& y) {
  want_own(native, module);
  want_own(native, sequences);
  want_valid(sequences, rows);
  want_rows(module, view(x).n_rows, static_cast<std::int64_t>(rows.tokens.size()), "its rows");
  want_rows(module, view(x).n_cols, native.get().config().d_model, "the width of its input");
  want_rows(module, view(y).n_rows, view(x).n_rows, "the number of output rows");
  want_rows(module, view(y).n_cols, view(x).n_cols, "the width of its output");
  if (layer < 0 || layer >= native.get().config().n_layers)
    fail(ErrorCode::kUsage, module.path(), "layer {} of {}", layer, native.get().config().n_layers);
  native.locked(
      [&](Injection& s) { s.run_attention(module, layer, sequences, rows, view(x), view(y)); });
}

void run_embedding(Native& native, Module& module, const Ids& ids, const Floats& y) {
  want_own(native, module);
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t id = ids.data()[i];
    if (id < 0 || id >= native.get().vocab_size())
      fail(ErrorCode::kUsage, module.path(), "token id {} is outside the vocabulary", id);
    tokens.push_back(static_cast<std::int32_t>(id));
  }
  want_rows(module, view(y).n_rows, static_cast<std::int64_t>(tokens.size()), "the output rows");
  want_rows(module, view(y).n_cols, native.get().config().d_model, "the width of its output");
  native.locked([&](Injection& s) { s.run_embedding(module, tokens, view(y)); });
}

void read(Native& native, const std::string& name, const FlatFloats& out) {
  const io::TensorInfo* info = native.get().source().find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, name, "the weights have no such tensor");
  if (info->shape.count() != static_cast<std::int64_t>(out.size()))
    fail(ErrorCode::kUsage, name, "{} values, room for {}", info->shape.count(), out.size());
  native.locked([&](Injection& s) { s.read(name, out.data()); });
}

// name → (shape, format, name in the file) of every tensor.
nb::dict tensors(Native& native) {
  nb::dict all;
  for (const io::TensorInfo& info : native.get().source().tensors()) {
    nb::list shape;
    for (int i = 0; i < info.shape.rank(); ++i) shape.append(info.shape[i]);
    const std::string_view format = formats::traits(info.format).name;
    all[info.name.c_str()] =
        nb::make_tuple(nb::tuple(shape), nb::str(format.data(), format.size()), info.stored_name);
  }
  return all;
}

// Class paths of a rule file: (what it matches, what it replaces by), and each rule's line.
nb::tuple rule_classes(const std::string& text, const std::string& path) {
  const operators::Catalogue catalogue;
  const placement::RuleFile file = placement::parse_rules(text, path, &catalogue);
  nb::list matched, replaced, lines;
  for (const placement::Rule& rule : file.rules) {
    matched.append(rule.match_class ? nb::cast(rule.match_class->value) : nb::none());
    replaced.append(rule.replace_class.value);
    lines.append(rule.at.line);
  }
  return nb::make_tuple(matched, replaced, lines);
}

std::unique_ptr<Native> open_injection(
    const std::string& weights, const std::string& config, const std::string& rules_text,
    const std::string& rules_path,
    const std::vector<std::tuple<std::string, std::vector<std::string>, bool>>& modules,
    const std::map<std::string, std::string>& missing,
    const std::map<std::string, std::string>& foreign, const std::string& device, int emulate_gpus,
    int threads, const std::string& act, const std::string& kv, std::int64_t chunk_size,
    const std::string& isa) {
  const nb::gil_scoped_release unlock;
  session::Options options;
  options.model = weights;
  options.device = device;
  options.emulate_gpus = emulate_gpus;
  options.n_threads = threads;
  options.act = act;
  options.kv = kv;
  options.chunk_size = chunk_size;
  options.isa = isa;
  options.on_load = [](std::uint64_t, std::uint64_t, double) {
    if (interrupted()) fail(ErrorCode::kCancelled, {}, "stopped");
  };
  const operators::Catalogue catalogue;
  session::InjectionRules rules;
  rules.file = placement::parse_rules(rules_text, rules_path, &catalogue);
  for (const auto& [path, classes, has_weights] : modules)
    rules.modules.push_back({path, classes, has_weights});
  rules.missing = missing;
  rules.operators = foreign;
  return std::make_unique<Native>(Injection::open(options, config, rules));
}

void add_sequences(nb::module_& m) {
  nb::class_<Sequences::Rows>(m, "Rows");
  nb::class_<Sequences>(m, "Sequences")
      .def("__len__", &Sequences::size)
      .def("length",
           [](const Sequences& s, std::int64_t i) {
             if (i < 0 || i >= s.size())
               fail(ErrorCode::kUsage, "sequence", "{} of {}", i, s.size());
             return s.length(i);
           })
      .def("select",
           [](Sequences& s, const std::vector<std::int64_t>& parents) {
             for (const std::int64_t p : parents) {
               if (p < -1 || p >= s.size())
                 fail(ErrorCode::kUsage, "parent", "{} of {}", p, s.size());
             }
             s.select(parents);
           })
      .def("truncate", [](Sequences& s, std::int64_t i, std::int64_t n) {
        if (i < 0 || i >= s.size() || n < 0)
          fail(ErrorCode::kUsage, "sequence", "{} of {}, to {} tokens", i, s.size(), n);
        s.truncate(i, n);
      });
}

void add_module_class(nb::module_& m) {
  nb::class_<Module>(m, "Module")
      .def_prop_ro("path", &Module::path)
      .def_prop_ro("kind", [](const Module& x) { return std::string(x.kind()); })
      .def_prop_ro("op", [](const Module& x) { return std::string(x.op()); })
      .def_prop_ro("device", [](const Module& x) { return x.site().device; })
      .def_prop_ro("weight_bytes", &Module::weight_bytes)
      .def_prop_ro("weight_format", &Module::weight_format)
      .def_prop_ro("kernel", &Module::kernel_name)
      .def_prop_ro("n_out", [](const Module& x) {
        const auto* linear = dynamic_cast<const operators::Linear*>(&x);
        return linear == nullptr ? std::int64_t{0} : linear->n_out();
      });
}

}  // namespace

void add_injection(nb::module_& m) {
  add_module_class(m);
  add_sequences(m);
  m.def("rule_classes", &rule_classes, "text"_a, "path"_a);
  m.def("catalogue", [] {
    const operators::Catalogue catalogue;
    std::vector<std::tuple<std::string, std::string>> rows;
    for (const operators::OperatorRow& row : catalogue.rows())
      rows.emplace_back(row.class_path(), row.kind);
    return rows;
  });
  nb::class_<Native>(m, "Injection")
      .def_static("open", &open_injection, "weights"_a, "config"_a, "rules_text"_a, "rules_path"_a,
                  "modules"_a, "missing"_a, "foreign"_a, "device"_a, "emulate_gpus"_a, "threads"_a,
                  "act"_a, "kv"_a, "chunk_size"_a, "isa"_a)
      .def_prop_ro("warnings", [](Native& n) { return n.get().warnings(); })
      .def_prop_ro("decided_by", [](Native& n) { return n.get().decided_by(); })
      .def_prop_ro("nodes",
                   [](Native& n) {
                     std::vector<std::tuple<std::string, std::string, bool>> nodes;
                     for (const placement::ModuleNode& node : n.get().nodes())
                       nodes.emplace_back(std::string(node.kind), node.stands_for, node.is_native);
                     return nodes;
                   })
      .def_prop_ro("vocab_size", [](Native& n) { return n.get().vocab_size(); })
      .def_prop_ro("n_active", [](Native& n) { return n.get().n_active(); })
      .def_prop_ro("n_layers", [](Native& n) { return n.get().config().n_layers; })
      .def_prop_ro("eos_tokens", [](Native& n) { return n.get().config().eos_tokens; })
      .def("tensors", &tensors)
      .def(
          "module", [](Native& n, const std::string& path) { return n.get().find(path); },
          nb::rv_policy::reference_internal)
      .def("load_all",
           [](Native& n) {
             let_python_raise([&] { n.locked([](Injection& s) { s.load_all(); }); });
           })
      .def("load",
           [](Native& n, const std::vector<std::string>& paths) {
             let_python_raise([&] { n.locked([&](Injection& s) { s.load(paths); }); });
           })
      .def("unload",
           [](Native& n, const std::string& path) {
             n.locked([&](Injection& s) { s.unload(path); });
           })
      .def("read", &read)
      .def(
          "make_sequences",
          [](Native& n, std::int64_t n_tokens) {
            if (n_tokens < 0) fail(ErrorCode::kUsage, "n_tokens", "{} tokens", n_tokens);
            return n.locked([&](Injection& s) { return s.make_sequences(n_tokens); });
          },
          nb::keep_alive<0, 1>())
      .def(
          "append",
          [](Native& n, Sequences& s, const std::vector<std::int64_t>& indices, const Ids& ids,
             const std::vector<std::int64_t>& counts) {
            want_own(n, s);
            // The span of ids is only read while the rows are listed.
            return s.append(tokens_of(n.get(), s, indices, ids, counts).feeds);
          },
          nb::keep_alive<0, 2>())
      .def("commit",
           [](Native&, Sequences& s, const Sequences::Rows& rows) {
             want_valid(s, rows);
             s.commit(rows);
           })
      .def("run_model", &run_model)
      .def("generate", &generate, "prompt"_a, "sampling"_a, "max_tokens"_a, "stop_tokens"_a,
           "on_token"_a)
      .def("run_module", &run_module)
      .def("run_experts", &run_experts)
      .def("run_gate", &run_gate)
      .def("run_attention", &run_attention)
      .def("run_embedding", &run_embedding);
}

}  // namespace kt::python
