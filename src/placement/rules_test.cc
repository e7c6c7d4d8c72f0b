// Rule files: what the grammar reads, what rules decide on small models, where problems are said to
// be, and that hostile files end quickly.
#include "placement/rules.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "io/hf_config.h"
#include "placement/regex.h"

namespace kt::placement {
namespace {

using operators::Placement;
using operators::Value;

io::ModelConfig config_of(const std::string& name) {
  return io::read_hf_config(std::string(KT_SOURCE_DIR) + "/tests/data/golden_configs/" + name +
                            ".json");
}

RuleResult apply(const std::string& text, const std::string& model = "deepseek_v3",
                 int n_gpus = 2) {
  const io::ModelConfig config = config_of(model);
  return apply_rules(
      parse_rules(text, "r.yaml"),
      {config, std::make_shared<const operators::Catalogue>(), {n_gpus, true}, "cpu"});
}

std::string message_of(const std::string& text, const std::string& model = "deepseek_v3") {
  try {
    apply(text, model);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadFile);
    return e.what();
  }
  ADD_FAILURE() << "no error from: " << text.substr(0, 400);
  return "";
}

Value kwarg(const std::string& written) {
  const RuleFile file =
      parse_rules("- match: {name: x}\n  replace: {kwargs: {num_bits: " + written + "}}", "r.yaml");
  return file.rules.at(0).kwargs.at(0).value;
}

std::string rule(const std::string& match, const std::string& replace,
                 const std::string& more = "") {
  return "- match: {" + match + "}\n  replace: {" + replace + "}\n" + more;
}

TEST(RuleWarnings, SlotsOfExpertsWhoseBlockIsOnTheCpu) {
  const io::ModelConfig config = config_of("qwen3_moe");
  const auto warnings = [&](const std::string& first) {
    const std::string text =
        first + rule("name: '\\.mlp\\.experts$'",
                     "class: ktransformers.operators.experts.KTransformersExperts, kwargs: "
                     "{generate_device: cpu, generate_op: KExpertsCPU, gpu_experts: 3}");
    return apply_rules(parse_rules(text, "r.yaml"),
                       {config, std::make_shared<const operators::Catalogue>(), {1, false}, "cpu"})
        .warnings;
  };
  const auto on_cpu = warnings("");
  ASSERT_EQ(on_cpu.size(), 1u);  // for all layers
  EXPECT_NE(on_cpu[0].find("gpu_experts has no effect on 'model.layers.0.mlp.experts': "
                           "'model.layers.0.mlp' is on the CPU"),
            std::string::npos)
      << on_cpu[0];
  const std::string on_gpu =
      rule("name: '\\.mlp$'", "class: default, kwargs: {generate_device: 'cuda:0'}");
  EXPECT_TRUE(warnings(on_gpu).empty());
}

TEST(RuleErrors, ShowNothingThatATerminalWouldObey) {
  const std::string text =
      message_of("- match: {name: x}\n  replace: {\"\\e[2J\": größe, '\xe2\x80\xae': 1}\n");
  EXPECT_NE(text.find("unknown key '\\x1b[2J'"), std::string::npos) << text;
  EXPECT_NE(text.find("größe"), std::string::npos) << text;
  EXPECT_NE(text.find("\\xe2\\x80\\xae"), std::string::npos) << text;
  for (const char c : text) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 32) << text;
}

TEST(RuleErrors, PointAtTheRightCharacterBehindOthersOfSeveralBytes) {
  const std::string text = message_of("- {match: {name: größe}, replace: {clas: x}}\n");
  EXPECT_NE(text.find("    1 | - {match: {name: größe}, replace: {clas: x}}\n"
                      "      |                                    ^ did you mean 'class'?"),
            std::string::npos)
      << text;
}

// ---- grammar

TEST(ParseRules, ReadsEveryPartWithItsPosition) {
  const RuleFile file = parse_rules(
      "# a comment\n"
      "- match:\n"
      "    name: '^model\\.x$'\n"
      "    class: torch.nn.Linear\n"
      "  replace:\n"
      "    class: a.B\n"
      "    kwargs:\n"
      "      generate_device: cuda:1\n"
      "  recursive: False\n"
      "- match: {class: c}\n"
      "  replace: {}\n",
      "r.yaml");
  ASSERT_EQ(file.rules.size(), 2u);
  const Rule& first = file.rules[0];
  EXPECT_EQ(first.at.line, 2);
  EXPECT_EQ(first.name->value, "^model\\.x$");
  EXPECT_EQ(first.name->at.line, 3);
  EXPECT_EQ(first.name->at.column, 11);
  EXPECT_EQ(first.match_class->value, "torch.nn.Linear");
  EXPECT_EQ(first.replace_class.value, "a.B");
  EXPECT_EQ(first.replace_class.at.line, 6);
  ASSERT_EQ(first.kwargs.size(), 1u);
  EXPECT_EQ(first.kwargs[0].name.value, "generate_device");
  EXPECT_EQ(std::get<std::string>(first.kwargs[0].value), "cuda:1");
  EXPECT_EQ(first.kwargs[0].at.column, 24);
  EXPECT_FALSE(first.recursive);
  EXPECT_FALSE(file.rules[1].name);
  EXPECT_EQ(file.rules[1].replace_class.value, "default");
  EXPECT_TRUE(file.rules[1].kwargs.empty());
  EXPECT_TRUE(file.rules[1].recursive);
}

TEST(ParseRules, ScalarsHaveTheTypesOfYaml) {
  for (const char* yes : {"True", "true", "TRUE", "yes", "YES", "on", "ON"}) {
    EXPECT_EQ(kwarg(yes), Value(true)) << yes;
  }
  for (const char* no : {"False", "false", "FALSE", "no", "NO", "off", "OFF"}) {
    EXPECT_EQ(kwarg(no), Value(false)) << no;
  }
  for (const char* none : {"None", "null", "~", ""}) {
    EXPECT_EQ(kwarg(none), Value(std::monostate{})) << none;
  }
  EXPECT_EQ(kwarg("4"), Value(std::int64_t{4}));
  EXPECT_EQ(kwarg("-1"), Value(std::int64_t{-1}));
  EXPECT_EQ(kwarg("0.5"), Value(0.5));
  EXPECT_EQ(kwarg("'4'"), Value(std::string("4")));
  EXPECT_EQ(kwarg("\"True\""), Value(std::string("True")));
  EXPECT_EQ(kwarg("'None'"), Value(std::string("None")));
  EXPECT_EQ(kwarg(".inf"), Value(std::string(".inf")));
  EXPECT_EQ(kwarg("{2: cuda:0, 5: cpu}"),
            Value(std::map<std::int64_t, std::string>{{2, "cuda:0"}, {5, "cpu"}}));
}

TEST(ParseRules, AnchorsAreReadAndMergeKeysAreNot) {
  const RuleFile file = parse_rules(
      "- match: {name: x}\n  replace: {kwargs: &k {num_bits: 8}}\n"
      "- match: {name: y}\n  replace: {kwargs: *k}\n",
      "r.yaml");
  EXPECT_EQ(file.rules[1].kwargs.at(0).value, Value(std::int64_t{8}));
  const std::string text = message_of("- &a\n  match: {name: x}\n  replace: {}\n- <<: *a\n");
  EXPECT_NE(text.find("unknown key '<<' in a rule"), std::string::npos) << text;
}

struct BadFile {
  const char* text;
  const char* message;  // with position
};

TEST(ParseRules, ProblemsHaveAPlace) {
  const BadFile files[] = {
      {"", "r.yaml:1:1: error: found nothing, wanted a list of rules"},
      {"a: b", "r.yaml:1:1: error: found a mapping, wanted a list of rules"},
      {"- match: {name: x}\n", "r.yaml:1:3: error: a rule without 'replace'"},
      {"- replace: {}\n", "r.yaml:1:3: error: a rule without 'match'"},
      {"- match: {}\n  replace: {}\n", "r.yaml:1:10: error: 'match' has neither"},
      {"- match: {name: [x]}\n  replace: {}\n", "r.yaml:1:17: error: 'match.name' is a list"},
      {"- match: {name: x}\n  replace: {}\n  recursiv: False\n",
       "r.yaml:3:3: error: unknown key 'recursiv' in a rule"},
      {"- match: {name: x, name: y}\n  replace: {}\n", "r.yaml:1:20: error: key 'name' twice"},
      {"- match: {name: '(x'}\n  replace: {}\n", "r.yaml:1:17: error: "},
      {"- match: {name: x}\n  replace: {}\n  recursive: 0\n", "r.yaml:3:14: error: 'recursive'"},
      {"- match: {name: x}\n  replace: {kwargs: {a: [1]}}\n", "r.yaml:2:25: error: kwarg 'a' is a"},
      {"- match: {name: x}\n  replace: {kwargs: {a: 1, a: 2}}\n",
       "r.yaml:2:28: error: kwarg 'a' t"},
      {"- match: {name: x}\n  replace: {}\n---\n- x\n",
       "r.yaml:3:1: error: more text after the list of rules"},
      {"- match: {name: x\n", "error: not YAML"},
  };
  for (const BadFile& file : files) {
    const std::string text = message_of(file.text);
    EXPECT_NE(text.find(file.message), std::string::npos) << file.text << "\n→ " << text;
  }
}

TEST(ParseRules, AllProblemsAreReportedAtOnceInOrder) {
  const std::string text = message_of("- match: {nam: x}\n  replace: {clas: y}\n- match: 5\n");
  EXPECT_NE(text.find("did you mean 'name'?"), std::string::npos) << text;
  const std::size_t first = text.find("r.yaml:1:11:"), second = text.find("r.yaml:2:13:"),
                    third = text.find("r.yaml:3:");
  EXPECT_TRUE(first < second && second < third && third != std::string::npos) << text;
}

// ---- what rules decide

TEST(ApplyRules, TheFirstRuleThatMatchesDecidesAndTheRestIsDefault) {
  const RuleResult result = apply(
      rule("name: 'layers\\.1\\.self_attn\\.o_proj$'",
           "class: ktransformers.operators.linear.KLinearQ8, kwargs: {generate_device: 'cuda:1'}") +
      rule("class: torch.nn.Linear",
           "class: ktransformers.operators.linear.KLinearTorch, kwargs: {generate_device: cuda}"));
  const Placement& placement = result.placement;
  EXPECT_EQ(placement.at("model.layers.1.self_attn.o_proj").op, "KLinearQ8");
  EXPECT_EQ(placement.at("model.layers.1.self_attn.o_proj").device, "cuda:1");
  EXPECT_EQ(placement.at("model.layers.0.self_attn.o_proj").op, "KLinearTorch");
  EXPECT_EQ(placement.at("model.layers.0.self_attn.o_proj").device, "cuda:0");
  EXPECT_EQ(placement.at("model.layers.0.self_attn.o_proj").reason, "rule, line 3");
  EXPECT_EQ(placement.at("model.norm").op, "");
  EXPECT_EQ(placement.at("model.norm").device, "cpu");
}

TEST(ApplyRules, RecursiveFalseClosesTheSubtreeAndNothingBesideIt) {
  const RuleResult result =
      apply(rule("name: '^model\\.layers\\.1$'", "kwargs: {generate_device: cuda}",
                 "  recursive: False\n") +
            rule("class: torch.nn.Module", "kwargs: {generate_device: 'cuda:1'}"));
  EXPECT_EQ(result.placement.at("model.layers.1").device, "cuda:0");
  EXPECT_EQ(result.placement.at("model.layers.1.self_attn").device, "cpu");
  EXPECT_EQ(result.placement.at("model.layers.0.self_attn").device, "cuda:1");
  EXPECT_EQ(result.placement.at("model.norm").device, "cuda:1");
}

TEST(ApplyRules, AClosedPathIsNoPrefixOfTheNextNumber) {
  const auto twelve = [] {
    io::ModelConfig config = config_of("llama");
    config.n_layers = 12;
    return config;
  }();
  const RuleFile file =
      parse_rules(rule("name: '^model\\.layers\\.1$'", "kwargs: {generate_device: cpu}",
                       "  recursive: False\n") +
                      rule("class: torch.nn.Linear", "kwargs: {generate_device: cuda}"),
                  "r.yaml");
  const auto catalogue = std::make_shared<const operators::Catalogue>();
  const auto placement = apply_rules(file, {twelve, catalogue, {1, true}, "cpu"}).placement;
  EXPECT_EQ(placement.at("model.layers.1.mlp.up_proj").device, "cpu");
  EXPECT_EQ(placement.at("model.layers.10.mlp.up_proj").device, "cuda:0");
  EXPECT_EQ(placement.at("model.layers.11.mlp.up_proj").device, "cuda:0");
}

TEST(ApplyRules, AWrapperRunsItsOperatorAndCpuIsWhereExpertsAre) {
  const RuleResult result =
      apply(rule("name: 'experts$', class: torch.nn.ModuleList",
                 "class: ktransformers.operators.experts.KTransformersExperts, "
                 "kwargs: {prefill_device: cuda, prefill_op: KExpertsTorch, backend: AMXInt8}"));
  const Placement::Entry& entry = result.placement.at("model.layers.1.mlp.experts");
  EXPECT_EQ(entry.op, "KExpertsCPU");
  EXPECT_EQ(entry.device, "cpu");
  EXPECT_EQ(entry.rule_class, "KTransformersExperts");
  EXPECT_EQ(entry.prefill_op, "KExpertsTorch");
  EXPECT_EQ(entry.prefill_device, "cuda:0");
  EXPECT_EQ(entry.kwargs.at("backend"), Value(std::string("AMXInt8")));
  EXPECT_TRUE(result.warnings.empty());
}

TEST(ApplyRules, TheRuleOfTheFirstLayersRotaryServesAll) {
  const std::string yarn = "class: ktransformers.operators.RoPE.YarnRotaryEmbeddingV3";
  EXPECT_EQ(
      apply(rule("name: 'self_attn\\.rotary_emb$'", yarn)).placement.at("model.rotary_emb").op,
      "YarnRotaryEmbeddingV3");
  const auto both = apply(
      rule("name: 'self_attn\\.rotary_emb$'", yarn) +
      rule("name: '^model\\.rotary_emb$'", "class: ktransformers.operators.RoPE.KRotaryEmbedding"));
  EXPECT_EQ(both.placement.at("model.rotary_emb").op, "KRotaryEmbedding");
}

TEST(ApplyRules, ModelKwargsReachThePlacement) {
  const auto result =
      apply(rule("name: '^model$'",
                 "class: ktransformers.operators.models.KDeepseekV2Model, kwargs: "
                 "{per_layer_prefill_intput_threshold: 7, transfer_map: {1: cuda}}"));
  EXPECT_EQ(result.placement.layer_wise_threshold, 7);
  EXPECT_EQ(result.placement.at("model").rule_class, "KDeepseekV2Model");
}

TEST(ApplyRules, WarningsHaveAPlaceAndAHint) {
  const auto warnings =
      apply(rule("name: 'no_such_module'", "kwargs: {generate_device: cpu}") +
            rule("name: '^lm_head$', class: torch.nn.Embedding", "kwargs: {generate_device: cpu}"))
          .warnings;
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_TRUE(warnings[0].starts_with("r.yaml:1:3: warning: this rule decides no module"));
  EXPECT_NE(warnings[1].find("'lm_head' has this name"), std::string::npos) << warnings[1];
}

TEST(ApplyRules, AProblemOfManyModulesIsSaidOnce) {
  const std::string text = message_of(
      rule("class: torch.nn.Linear",
           "class: ktransformers.operators.linear.KLinearMarlim, kwargs: {generate_devise: cuda}"));
  EXPECT_TRUE(text.find("2 problems in the rule file") != std::string::npos) << text;
  EXPECT_NE(text.find("did you mean ktransformers.operators.linear.KLinearMarlin?"),
            std::string::npos);
  EXPECT_NE(text.find("did you mean 'generate_device'?"), std::string::npos);
}

TEST(ApplyRules, LongClassPathsHaveSuggestions) {
  const std::string text = message_of(
      rule("class: transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3RotaryEmbeding",
           "kwargs: {generate_device: cpu}"));
  EXPECT_NE(text.find("did you mean "
                      "transformers.models.deepseek_v3.modeling_deepseek_v3."
                      "DeepseekV3RotaryEmbedding?"),
            std::string::npos)
      << text;
}

TEST(Rules, PrefillOperatorsOutsideTheLayersAreWarnedAbout) {
  const auto warnings = [](const std::string& name, int threshold) {
    return apply(rule("name: ^model$",
                      "class: ktransformers.operators.models.KDeepseekV2Model, kwargs: "
                      "{per_layer_prefill_intput_threshold: " +
                          std::to_string(threshold) + "}") +
                 rule("name: " + name,
                      "class: ktransformers.operators.linear.KTransformersLinear, kwargs: "
                      "{generate_op: KLinearQ8, prefill_op: KLinearTorch}"))
        .warnings;
  };
  ASSERT_EQ(warnings("^lm_head$", 8).size(), 1u);
  EXPECT_NE(warnings("^lm_head$", 8)[0].find("r.yaml:4:"), std::string::npos);
  EXPECT_NE(warnings("^lm_head$", 8)[0].find("prefill_op never runs on 'lm_head'"),
            std::string::npos);
  EXPECT_TRUE(warnings("^lm_head$", 0).empty()) << "none runs: docs/rules.md says so";
  EXPECT_TRUE(warnings("o_proj$", 8).empty());
}

// ---- hostile files

// Processor time, as the machine may be busy with other things.
double seconds_of(const std::string& text) {
  const std::clock_t start = std::clock();
  try {
    apply(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadFile);
    EXPECT_LT(std::string_view(e.what()).size(), 20000u);
  }
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

TEST(HostileRules, EndWithinSeconds) {
  const auto many = [](int n, const auto& make) {
    std::string text;
    for (int i = 0; i < n; ++i) text += make(i);
    return text;
  };
  const std::string device = "kwargs: {generate_device: cpu}";
  const std::string kwargs =
      many(60, [](int i) { return "kwarg_nobody_knows_" + std::to_string(i) + ": 1, "; });
  const std::string texts[] = {
      rule("name: '(m|mo|.)*(.+)+x$'", device),
      many(4096, [&](int) { return rule("name: '(\\w|\\W|.)*!'", device); }),
      many(4096, [&](int i) { return rule("name: '.*.*.*!" + std::to_string(i) + "'", device); }),
      many(4096,
           [&](int i) {
             return rule("class: torch.nn.Lineax" + std::to_string(i) + std::string(90, 'x'),
                         device);
           }),
      rule("class: torch.nn.Module", "class: a.b, kwargs: {" + kwargs + "}"),
      many(100,
           [&](int i) {
             return rule("name: '\\." + std::to_string(i) + "\\.'", "kwargs: {" + kwargs + "}");
           }),
      rule(
          "name: x",
          "kwargs: {" + many(90000, [](int i) { return "k" + std::to_string(i) + ": 1, "; }) + "}"),
      "- {" + many(90000, [](int i) { return "k" + std::to_string(i) + ": 1, "; }) + "}",
      std::string(1 << 20, '['),
      std::string(1 << 20, '{'),
      many(1 << 19, [](int) { return "- "; }),
      many(1 << 19, [](int) { return "? "; }),
      many(1 << 18, [](int) { return "---\n"; }),
      "- " + many(20000,
                  [](int i) {
                    return "&a" + std::to_string(i) + " [*a" + std::to_string(i ? i - 1 : 0) +
                           "]\n- ";
                  }),
      rule("name: '" + std::string(16000, '(') + std::string(16000, ')') + "'", device),
      many(60, [&](int) { return rule("name: '((((((a){9}){9}){9}){9}){9}){9}'", device); }),
  };
  for (const std::string& text : texts) {
    EXPECT_LT(seconds_of(text.substr(0, std::size_t{1} << 20)), 4.0) << text.substr(0, 100);
  }
}

// The budget is 50 million; what a file needs grows with its rules and the model's layers.
TEST(HostileRules, TemplatesAreFarFromTheBudgetOfSteps) {
  io::ModelConfig config = config_of("deepseek_v3");
  config.n_layers = 61;
  const auto tree = module_tree(config);
  std::size_t n_files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(KT_SOURCE_DIR) + "/rules")) {
    if (entry.path().extension() != ".yaml") continue;
    std::ifstream in(entry.path());
    std::stringstream text;
    text << in.rdbuf();
    std::int64_t budget = 50'000'000;
    for (const Rule& rule : parse_rules(text.str(), entry.path().string()).rules) {
      if (!rule.name) continue;
      const Regex regex(rule.name->value);
      for (const ModuleNode& node : tree) regex.search(node.path, budget);
    }
    EXPECT_GT(budget, 45'000'000) << entry.path();
    ++n_files;
  }
  EXPECT_GE(n_files, 32u);
}

TEST(HostileRules, ABinaryOrOversizedFileIsNamed) {
  for (const std::string& text : {std::string("- x\0y", 5), std::string((1 << 20) + 1, '#')}) {
    try {
      parse_rules(text, "r.yaml");
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadFile);
      EXPECT_NE(std::string_view(e.what()).find("r.yaml"), std::string_view::npos);
    }
  }
}

TEST(RegexTest, SearchesWithLookAheadAndCountsSteps) {
  std::int64_t budget = 10000;
  EXPECT_TRUE(Regex("attn").search("model.layers.0.self_attn.o_proj", budget));
  EXPECT_FALSE(Regex("^attn").search("model.layers.0.self_attn.o_proj", budget));
  const Regex ahead("^model\\.layers\\.(?!.*kv_b).*$");
  EXPECT_TRUE(ahead.search("model.layers.0.self_attn.o_proj", budget));
  EXPECT_FALSE(ahead.search("model.layers.0.self_attn.kv_b_proj", budget));
  EXPECT_TRUE(Regex("^$").search("", budget));
  EXPECT_GT(budget, 9000);
  EXPECT_LT(budget, 10000);
  EXPECT_THROW(Regex("(a+)+$").search(std::string(40, 'a') + "b", budget), Error);
  EXPECT_LT(budget, 0);
}

}  // namespace
}  // namespace kt::placement
