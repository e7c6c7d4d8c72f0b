#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "base/error.h"
#include "io/atomic_file.h"
#include "module.h"
#include "placement/explain.h"
#include "placement/machine.h"
#include "session/expert_profile.h"
#include "session/plan_json.h"
#include "session/trace_file.h"
#include "session/worker.h"

namespace kt::python {

namespace nb = nanobind;
using namespace nb::literals;
using session::Ticket;
using session::Worker;
using Tokens = std::vector<std::int32_t>;

namespace {

constexpr auto kNoLock = nb::call_guard<nb::gil_scoped_release>();

std::chrono::milliseconds in_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000.0));
}

const char* reason_name(const session::TextResult& result) {
  using engine::FinishReason;
  switch (result.engine.reason) {
    case FinishReason::kMaxTokens: return "length";
    case FinishReason::kContextFull: return "context_full";
    case FinishReason::kCancelled: return "cancelled";
    default: return "stop";
  }
}

nb::dict result_dict(const Ticket& ticket) {
  const session::TextResult result = ticket.result();
  const engine::Result& r = result.engine;
  nb::dict out;
  out["text"] = result.text;
  out["tokens"] = r.tokens;
  out["finish_reason"] = reason_name(result);
  out["n_prompt"] = r.n_prompt;
  out["n_cached"] = r.n_cached;
  out["n_decoded"] = r.n_decoded;
  out["n_drafted"] = r.n_drafted;
  out["n_accepted"] = r.n_accepted;
  out["prefill_seconds"] = r.prefill_seconds;
  out["decode_seconds"] = r.decode_seconds;
  out["speed_report"] = session::speed_report(r);
  return out;
}

// (text, [(token, logprob), …], ended) since the last call.
nb::tuple take(Ticket& ticket) {
  const Ticket::News news = ticket.take();
  nb::list tokens;
  for (const engine::SampledToken& t : news.tokens) tokens.append(nb::make_tuple(t.id, t.logprob));
  return nb::make_tuple(news.text, tokens, news.ended);
}

void add_ticket(nb::module_& m) {
  nb::class_<Ticket>(m, "Ticket", "One request in flight; used by the classes of engine.py.")
      .def(
          "wait", [](Ticket& t, double seconds) { return t.wait(in_milliseconds(seconds)); },
          "seconds"_a, kNoLock, "Whether there are news, for which it waits so long at most.")
      .def("take", &take, nb::sig("def take(self) -> tuple[str, list[tuple[int, float]], bool]"),
           "Text, (token, log probability) pairs, and whether the request has ended.")
      .def("fileno", &Ticket::descriptor, "Readable while there are news.")
      .def("cancel", &Ticket::cancel, "Ends the request at the next step.")
      .def("result", &result_dict, nb::sig("def result(self) -> dict[str, object]"),
           "The outcome once the request has ended; raises what it failed with.");
}

void add_sampling(nb::module_& m) {
  using engine::SamplingParams;
  nb::class_<SamplingParams>(m, "SamplingParams", "How tokens are drawn; see Engine.generate.")
      .def(nb::init<>())
      .def_rw("temperature", &SamplingParams::temperature)
      .def_rw("top_k", &SamplingParams::top_k)
      .def_rw("top_p", &SamplingParams::top_p)
      .def_rw("min_p", &SamplingParams::min_p)
      .def_rw("typical_p", &SamplingParams::typical_p)
      .def_rw("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_rw("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_rw("presence_penalty", &SamplingParams::presence_penalty)
      .def_rw("repeat_last_n", &SamplingParams::repeat_last_n)
      .def_rw("logit_bias", &SamplingParams::logit_bias)
      .def_rw("seed", &SamplingParams::seed);
}

nb::dict config_dict(const io::ModelConfig& c) {
  nb::dict out;
  out["architecture"] = c.architecture;
  out["name"] = c.name;
  out["n_layers"] = c.n_layers;
  out["d_model"] = c.d_model;
  out["d_ff"] = c.d_ff;
  out["n_heads"] = c.n_heads;
  out["n_kv_heads"] = c.n_kv_heads;
  out["head_dim"] = c.head_dim;
  out["kv_lora_rank"] = c.mla.kv_lora_rank;
  out["vocab_size"] = c.vocab_size;
  out["max_context"] = c.max_context;
  out["sliding_window"] = c.sliding_window;
  out["n_experts"] = c.moe.n_experts;
  out["n_active_experts"] = c.moe.n_active;
  out["d_ff_expert"] = c.moe.d_ff;
  out["bos_token"] = c.bos_token;
  out["eos_tokens"] = c.eos_tokens;
  return out;
}

// What an opened engine tells about itself; gathered on the worker's thread, since prefill
// operators may be changing there.
struct Opened {
  std::vector<placement::ExplainRow> rows;
  session::LoadReport load;
  std::string path;
  io::ModelConfig config;
  std::int64_t context = 0;
  int n_threads = 0;
  bool has_chat_template = false;
  std::vector<std::uint64_t> gpu_bytes;
};

nb::dict describe(Worker& worker) {
  Opened opened;
  {
    const nb::gil_scoped_release unlocked;
    worker.call([&](session::Session& s) {
      opened.rows = placement::explain_modules(s.model(), s.placement());
      opened.load = s.load_report();
      opened.path = s.source().path();
      opened.config = s.config();
      opened.context = s.engine().options().context;
      opened.n_threads = s.cpu().pool.size();
      opened.has_chat_template = s.chat_template() != nullptr;
      for (const placement::Gpu& gpu : s.gpu_machine().gpus) opened.gpu_bytes.push_back(gpu.bytes);
    });
  }
  nb::list rows;
  for (const placement::ExplainRow& r : opened.rows)
    rows.append(nb::make_tuple(r.path, r.op, r.device, r.format, r.bytes, r.reason));
  nb::dict out;
  out["path"] = opened.path;
  out["context"] = opened.context;
  out["n_threads"] = opened.n_threads;
  out["load_seconds"] = opened.load.seconds;
  out["file_bytes"] = opened.load.file_bytes;
  out["weight_bytes"] = opened.load.packed_bytes;
  out["cache_bytes"] = opened.load.kv_bytes;
  out["has_chat_template"] = opened.has_chat_template;
  out["gpu_bytes"] = nb::cast(opened.gpu_bytes);
  out["config"] = config_dict(opened.config);
  out["placement"] = rows;
  return out;
}

const text::Tokenizer& tokenizer_of(const session::Session& session) {
  if (session.tokenizer() == nullptr) {
    fail(ErrorCode::kUnsupported, session.source().path(),
         "was opened without its tokenizer; it takes and gives token ids only");
  }
  return *session.tokenizer();
}

Tokens encode(const Worker& worker, const std::string& text, bool special, bool parse_special) {
  return worker.read([&](const session::Session& s) {
    return tokenizer_of(s).encode(text, special, parse_special);
  });
}

Tokens prompt_tokens(const Worker& worker, const std::string& text, bool rendered) {
  session::TextRequest request;
  request.prompt = text;
  request.add_special = !rendered;
  request.parse_special = rendered;
  return worker.read([&](const session::Session& s) {
    tokenizer_of(s);
    return session::engine_request(s, request).prompt;
  });
}

std::string decode(const Worker& worker, const Tokens& tokens, bool skip_special) {
  return worker.read(
      [&](const session::Session& s) { return tokenizer_of(s).decode(tokens, skip_special); });
}

std::string render(const Worker& worker, const std::string& messages, const std::string& tools,
                   const std::string& variables, bool add_generation_prompt) {
  text::ChatInput input;
  input.messages_json = messages;
  input.tools_json = tools;
  input.kwargs_json = variables;
  input.add_generation_prompt = add_generation_prompt;
  return worker.read([&](const session::Session& s) { return session::render_chat(s, input); });
}

std::shared_ptr<Ticket> submit(Worker& worker, Tokens tokens,
                               const engine::SamplingParams& sampling, std::int64_t max_tokens,
                               std::vector<std::string> stop, bool ignore_eos, bool reuse_prefix) {
  engine::Request request;
  request.prompt = std::move(tokens);
  request.sampling = sampling;
  request.max_tokens = max_tokens;
  request.ignore_stop_tokens = ignore_eos;
  request.reuse_prefix = reuse_prefix;
  request.stop_tokens = worker.read([](const session::Session& s) { return s.stop_tokens(); });
  return worker.submit(std::move(request), {.stops = std::move(stop)});
}

using LogitsArray = nb::ndarray<float, nb::array_api, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// The array is filled while the request runs; both keep it alive.
nb::tuple submit_logits(Worker& worker, Tokens tokens, bool by_decode) {
  const std::size_t n = tokens.size();
  std::size_t n_vocab = 0;
  std::shared_ptr<float[]> values;
  std::shared_ptr<Ticket> ticket;
  {
    const nb::gil_scoped_release unlocked;
    worker.read([&](const session::Session& s) {
      n_vocab = static_cast<std::size_t>(s.config().vocab_size);
    });
    values = std::shared_ptr<float[]>(new float[n * n_vocab]);
    engine::Request request;
    request.prompt = std::move(tokens);
    request.prompt_by_decode = by_decode;
    request.sampling.temperature = 0.0f;
    request.max_tokens = 0;
    request.on_prompt_logits = [values, n_vocab](std::int64_t row, std::span<const float> logits) {
      std::copy(logits.begin(), logits.end(),
                values.get() + static_cast<std::size_t>(row) * n_vocab);
    };
    ticket = worker.submit(std::move(request));
  }
  const nb::capsule owner(new std::shared_ptr<float[]>(values), [](void* p) noexcept {
    delete static_cast<std::shared_ptr<float[]>*>(p);
  });
  return nb::make_tuple(ticket, LogitsArray(values.get(), {n, n_vocab}, owner).cast());
}

void write_trace(Worker& worker, const std::string& path) {
  worker.call([&](session::Session& s) {
    if (s.trace() == nullptr)
      fail(ErrorCode::kUsage, "trace", "was not recorded; open the engine with trace=True");
    session::write_chrome_trace(*s.trace(), path);
  });
}

void save_expert_profile(Worker& worker, const std::string& path) {
  worker.call([&](session::Session& s) { io::write_file(path, session::expert_uses(s.model())); });
}

// (JSON, rule file)
std::tuple<std::string, std::string> plan(const session::PlanRequest& request) {
  const session::PlannedModel planned = session::plan_model(request);
  return {session::plan_json(planned), session::plan_rules(planned)};
}

void add_options(nb::module_& m) {
  using session::Options;
  using session::PlanRequest;
  using session::RunOptions;
  nb::class_<RunOptions>(m, "RunOptions", "How a model is to run, as far as planning needs it.")
      .def_rw("threads", &RunOptions::n_threads)
      .def_rw("act", &RunOptions::act)
      .def_rw("kv", &RunOptions::kv)
      .def_rw("context", &RunOptions::context)
      .def_rw("chunk_size", &RunOptions::chunk_size)
      .def_rw("stream_experts", &RunOptions::stream_experts)
      .def_rw("expert_cache", &RunOptions::expert_cache)
      .def_rw("rules", &RunOptions::rules)
      .def_rw("plugins", &RunOptions::plugins)
      .def_rw("device", &RunOptions::device)
      .def_rw("gpus", &RunOptions::gpus)
      .def_prop_rw(
          "gpu_memory", [](const RunOptions& o) { return std::to_string(o.gpu_memory); },
          [](RunOptions& o, const std::string& text) {
            o.gpu_memory = text.empty() ? 0 : placement::parse_bytes(text, "gpu_memory");
          })
      .def_rw("gpu_plugin", &RunOptions::gpu_plugin);
  nb::class_<Options, RunOptions>(m, "Options", "How a model is opened; see Engine.")
      .def(nb::init<>())
      .def_rw("model", &Options::model)
      .def_rw("isa", &Options::isa)
      .def_rw("speculate", &Options::speculate)
      .def_prop_rw(
          "gpu_graphs", [](const Options& o) { return o.gpu_graphs == "on"; },
          [](Options& o, bool on) { o.gpu_graphs = on ? "on" : "off"; })
      .def_rw("defer_experts", &Options::defer_experts)
      .def_rw("expert_profile", &Options::expert_profile)
      .def_rw("emulate_gpus", &Options::emulate_gpus)
      .def_rw("emulate_nodes", &Options::emulate_nodes)
      .def_rw("trace", &Options::trace)
      .def_rw("need_text", &Options::need_text);
  nb::class_<PlanRequest, RunOptions>(m, "PlanRequest", "What to plan for which machine; see plan.")
      .def(nb::init<>())
      .def_rw("model", &PlanRequest::model)
      .def_rw("format", &PlanRequest::format)
      .def_rw("given_gpus", &PlanRequest::given_gpus)
      .def_rw("gpu_bytes", &PlanRequest::gpu_bytes)
      .def_rw("ram", &PlanRequest::ram)
      .def_rw("pcie", &PlanRequest::link)
      .def_rw("disk", &PlanRequest::disk)
      .def_rw("cpu_flops", &PlanRequest::cpu_flops)
      .def_rw("remeasure", &PlanRequest::remeasure)
      .def_rw("held", &PlanRequest::held);
}

void add_worker(nb::module_& m) {
  nb::class_<Worker>(m, "Worker", "A thread that runs a model; used by Engine.")
      .def(nb::init<session::Options>(), "options"_a, "Starts opening the model.")
      .def(
          "wait_open",
          [](Worker& w, double seconds) { return w.wait_open(in_milliseconds(seconds)); },
          "seconds"_a, kNoLock, "True once it is open; raises what opening failed with.")
      .def(
          "loading",
          [](const Worker& w) {
            const Worker::Loading l = w.loading();
            return std::tuple(l.done, l.total, l.rate);
          },
          "Bytes done, bytes in all, bytes per second.")
      .def("warnings", &Worker::warnings, "What is odd about the rule file.")
      .def("describe", &describe, nb::sig("def describe(self) -> dict[str, object]"),
           "Configuration, memory and placement.")
      .def(
          "sampling",
          [](const Worker& w) {
            return w.read([](const session::Session& s) {
              return session::advised_sampling(s.config().sampling);
            });
          },
          "The model's own sampling values, defaults where it has none.")
      .def("encode", &encode, "text"_a, "add_special"_a, "parse_special"_a, kNoLock)
      .def("prompt_tokens", &prompt_tokens, "text"_a, "rendered"_a, kNoLock,
           "Token ids of a prompt; rendered: by a chat template.")
      .def("decode", &decode, "tokens"_a, "skip_special"_a, kNoLock)
      .def("render", &render, "messages"_a, "tools"_a, "variables"_a, "add_generation_prompt"_a,
           kNoLock, "The chat template's text; arguments are JSON.")
      .def("submit", &submit, "tokens"_a, "sampling"_a, "max_tokens"_a, "stop"_a, "ignore_eos"_a,
           "reuse_prefix"_a, kNoLock)
      .def("submit_logits", &submit_logits, "tokens"_a, "by_decode"_a,
           nb::sig("def submit_logits(self, tokens: collections.abc.Sequence[int], "
                   "by_decode: bool) -> tuple[Ticket, object]"),
           "The array [n_tokens, n_vocab] float32 is complete when the request has ended.")
      .def("cancel_all", &Worker::cancel_all, kNoLock)
      .def("write_trace", &write_trace, "path"_a, kNoLock)
      .def("save_expert_profile", &save_expert_profile, "path"_a, kNoLock)
      .def("close", &Worker::close, kNoLock, "Ends every request and frees the model.");
}

}  // namespace

void add_engine(nb::module_& m) {
  add_options(m);
  add_sampling(m);
  add_ticket(m);
  add_worker(m);
  m.def("plan", &plan, "request"_a, kNoLock, "(JSON of the plan, the plan as a rule file).");
}

}  // namespace kt::python
