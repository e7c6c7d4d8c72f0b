#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace kt::text {
namespace {

constexpr std::string_view kTurns =
    R"([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi <b>"}])";

std::string render(std::string_view source, ChatInput input = {.messages_json = kTurns}) {
  input.now = 0;
  return ChatTemplate::compile(source).render(input);
}

ErrorCode code_of(std::string_view source, const ChatInput& input = {.messages_json = kTurns}) {
  try {
    render(source, input);
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kInternal;
}

TEST(ChatTemplate, RendersTurnsWithTrimmedBlocks) {
  EXPECT_EQ(render("{% for m in messages %}\n    {% if true %}\n<{{ m.role }}>{{ m['content'] }}\n"
                   "    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}A:{% endif %}"),
            "<system>S\n<user>Hi <b>\nA:");
}

TEST(ChatTemplate, GivesTheUsualVariables) {
  ChatInput input{.messages_json = kTurns};
  input.bos_token = "<s>";
  input.kwargs_json = R"({"enable_thinking": false, "add": [1, 2.0]})";
  input.add_generation_prompt = false;
  EXPECT_EQ(render("{{ bos_token }}|{{ eos_token }}|{{ tools }}|{{ enable_thinking }}|{{ add }}|"
                   "{{ add_generation_prompt }}",
                   input),
            "<s>||None|False|[1, 2.0]|False");
}

TEST(ChatTemplate, WritesJsonAsPythonDoes) {
  ChatInput input{.messages_json = "[]"};
  input.tools_json =
      R"([{"z": 1, "a": "é<&>'\u0001", "n": [], "f": 1e22, "g": 0.5, "t": true, "x": null}])";
  EXPECT_EQ(render("{{ tools[0] | tojson }}", input),
            R"({"z": 1, "a": "é<&>'\u0001", "n": [], "f": 1e+22, "g": 0.5, "t": true, "x": null})");
  EXPECT_EQ(render("{{ {'b': [1], 'a': {}} | tojson(indent=2, sort_keys=true) }}", input),
            "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}");
  EXPECT_EQ(render("{{ ['é😀'] | tojson(ensure_ascii=true) }}", input),
            R"(["\u00e9\ud83d\ude00"])");
}

TEST(ChatTemplate, GenerationTagOnlyMarks) {
  EXPECT_EQ(render("a {%- generation -%} b {%- endgeneration %} c"), "ab c");
  EXPECT_EQ(render("{% raw %}{% x {% y{% endraw %}"), "{% x {% y");
}

TEST(ChatTemplate, ListsOfANamespaceMayGrowAndShrink) {
  EXPECT_EQ(render("{% set ns = namespace(ids=[]) %}{% for m in messages %}\n"
                   "  {%- set _ = ns.ids.append(m['role'] + (1 | string)) -%}\n {% endfor %}"
                   "{{ ns.ids }} {%- set x = ns.ids.pop(0) -%} {{ x }}{{ ns.ids }}"
                   "{% set y = ns.ids.pop() %}{{ y }}{{ ns.ids | length }}"),
            "['system1', 'user1']system1['user1']user10");
}

TEST(ChatTemplate, RaiseExceptionIsTheRequestsFault) {
  EXPECT_EQ(code_of("{{ raise_exception('no') }}"), ErrorCode::kUsage);
  EXPECT_EQ(code_of("x", {.messages_json = "[{]"}), ErrorCode::kUsage);
  EXPECT_EQ(code_of("x", {.messages_json = "{}"}), ErrorCode::kUsage);
  EXPECT_EQ(code_of("x", {.messages_json = ""}), ErrorCode::kUsage);
  const std::string deep(100000, '[');
  EXPECT_EQ(code_of("x", {.messages_json = deep}), ErrorCode::kUsage);
}

TEST(ChatTemplate, BadTemplatesFailAtLoad) {
  for (const std::string& source :
       {std::string("{% if %}"), std::string("{{ x"), std::string("{% endfor %}"),
        std::string("\xFF"), std::string("{% include 'x' %}"),
        "{{ " + std::string(100000, '(') + "1 }}", std::string(1 << 20, 'x')}) {
    try {
      ChatTemplate::compile(source);
      ADD_FAILURE() << "accepted: " << source.substr(0, 40);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
    }
  }
}

TEST(ChatTemplate, HostileTemplatesAreStopped) {
  for (const char* source : {
           "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
           "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% "
           "endfor %}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{{ 'x' * 1000000000 }}",
       }) {
    EXPECT_EQ(code_of(source), ErrorCode::kBadFile) << source;
  }
}

// Values that are small in memory and huge unfolded: `before`, then forty doublings, then `use`.
std::string doubled(std::string_view before, std::string_view doubling, std::string_view use) {
  std::string out(before);
  for (int i = 0; i < 40; ++i) out += doubling;
  return out + std::string(use);
}

TEST(ChatTemplate, BombsAreStopped) {
  const std::string_view empty = "{% set a = [] %}{% set b = [] %}";
  const std::string_view nest = "{% set a = [a, a] %}{% set b = [b, b] %}";
  std::vector<std::string> sources = {
      doubled("{% set x = [1] %}", "{% set x = x + x %}", "{{ x | length }}"),
      doubled("{% set x = 'ab' %}", "{% set x = x + x %}", "{{ x }}"),
      doubled("{% set x = [1] %}", "{% set x = x | chain(x) %}", "{{ x | list | length }}"),
      doubled("{% set a = {} %}{% set b = {} %}",
              "{% set a = {'x': a, 'y': a} %}{% set b = {'x': b, 'y': b} %}", "{{ a == b }}"),
      "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(9) %}{% set n.x = [n.x] * 99999 %}"
      "{% endfor %}{{ n.x | string | length }}",
      "{% set a = 'x' * 1000000 %}{{ ([a] * 1000000) | join | length }}",
      "{% set a = 'x' * 1000000 %}{{ [a] * 1000000 }}",
      "{% set a = 'x' * 9000000 %}{% set b = 'x' * 9000000 %}"
      "{% for i in range(90000) %}{% if a == b %}{% endif %}{% endfor %}",
      "{% set a = [range(30000) | list] %}{% set b = [range(30000) | list] %}"
      "{% for i in range(90000) %}{% if a == b %}{% endif %}{% endfor %}",
      "{% set n = namespace() %}{% set n.x = n %}{{ n }}",
      "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x == n.x }}",
      "{% set n = namespace() %}{% macro m() %}{{ n }}{% endmacro %}{% set n.x = m %}{{ m() }}",
      "{{ range(10 ** 9) | list }}",
      "{{ ([1] * 10 ** 9) | length }}",
  };
  for (const char* use :
       {"{{ a == b }}", "{{ a < b }}", "{{ a }}", "{{ a | string }}", "{{ a ~ b }}",
        "{{ {a: 1}[b] }}", "{{ {a: 1} | length }}", "{{ [a, b] | sort }}", "{{ [a, b] | unique }}",
        "{{ a in [b] }}", "{{ 1 if a not in [b] }}", "{{ 1 if [] < a < b }}", "{{ a is eq(b) }}",
        "{{ [a].count(b) }}", "{{ [a] | select('in', [b]) | list }}", "{{ a | tojson }}",
        "{{ a | tojson(*[b]) }}"}) {
    sources.push_back(doubled(empty, nest, use));
  }
  for (const std::string& source : sources) {
    EXPECT_EQ(code_of(source), ErrorCode::kBadFile)
        << source.substr(source.size() < 80 ? 0 : source.size() - 80);
  }
}

TEST(ChatTemplate, GuardsChangeNoResult) {
  EXPECT_EQ(
      render("{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1, b=3) }} {{ m(*[4, 5]) }} "
             "{{ m(**{'a': 6}) }} {{ 'x'.join(['a', 'b']) }} {{ 'abc'.replace('b', '-') }}"),
      "1-3 4-5 6-2 axb a-c");
  EXPECT_EQ(
      render(
          "{{ [1] + [2] + [3] }}{{ (1, 2) + (3,) }}{{ 'a' + 'b' }}{{ 1 + 2.5 }}{{ [2] in [[2]] }}"
          "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 'x' in 'xy' }}{{ {'a': [1]} == {'a': [1]} }}"),
      "[1, 2, 3](1, 2, 3)ab3.5TrueTrueFalseTrueTrue");
  EXPECT_EQ(
      render(
          "{% set n = namespace(k=0, l=[]) %}{% for m in messages %}{% if loop.first and m.role == "
          "'system' or n.k > 5 %}{% continue %}{% endif %}{% set n.k = n.k + 1 %}"
          "{% set n.l = n.l + [m] %}{{ loop.index }}{% else %}none{% endfor %}{{ n.k }}"
          "{{ n.l | map(attribute='role') | join(',') }}"),
      "21user");
  EXPECT_EQ(render("{% for a in [[1, [2]]] recursive %}{% if a is sequence %}<{{ loop(a) }}>{% "
                   "else %}{{ a }}"
                   "{% endif %}{% endfor %}"),
            "<1<2>>");
}

std::string repeat(std::string_view text, std::size_t n_bytes) {
  std::string out;
  while (out.size() < n_bytes) out += text;
  return out;
}

TEST(ChatTemplate, DeepNestsDoNotExhaustTheStack) {
  constexpr std::size_t kBytes = 500000;
  for (const std::string& source :
       {"{{ " + repeat("-", kBytes) + "1 }}", "{{ " + repeat("not ", kBytes) + "1 }}",
        "{{ 1" + repeat("**1", kBytes) + " }}", "{{ 1" + repeat("+1", kBytes) + " }}",
        "{{ a" + repeat(".b", kBytes) + " }}", "{{ a" + repeat("|d", kBytes) + " }}",
        "{% if a %}" + repeat("{%elif a%}", kBytes) + "{% endif %}",
        std::string(
            "{% set n = namespace(s=[]) %}{% for a in range(9999) %}{% for b in range(9999) %}"
            "{% set n.s = [n.s] %}{% endfor %}{% endfor %}"),
        std::string("{% set n = namespace(s=[]) %}{% for a in range(90000) %}{% set n.s = [n.s] "
                    "%}{% endfor %}"
                    "{{ n.s }}{{ n.s == n.s }}{{ n.s | tojson }}")}) {
    try {
      render(source);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
    }
  }
}

TEST(ChatTemplate, ReadsTheTemplatesOfAFolder) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "kt_text_templates";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  EXPECT_FALSE(read_hf_chat_templates(folder.string()).standard.has_value());
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]})";
  EXPECT_EQ(read_hf_chat_templates(folder.string()).standard, "D");
  EXPECT_EQ(read_hf_chat_templates(folder.string()).tool_use, "T");
  std::ofstream(folder / "chat_template.jinja") << "J";
  EXPECT_EQ(read_hf_chat_templates(folder.string()).standard, "J");
}

}  // namespace
}  // namespace kt::text
