"""ktransformers.plan says what `kt plan --json` says."""
import json
import pathlib

import pytest

import ktransformers
from ktransformers import errors
from support.kt import run_kt
from support.models import tiny_moe_path

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests/data/golden_configs/deepseek_v3.json"
MACHINE = {"gpus": ["1GiB@1000GB/s"], "ram": "128GiB@100GB/s", "cpu_flops": "1TFLOPS"}
FLAGS = ["--gpu", "1GiB@1000GB/s", "--ram", "128GiB@100GB/s", "--cpu-flops", "1TFLOPS"]


def test_plan_is_that_of_kt(tmp_path):
    plan = ktransformers.plan(tiny_moe_path(), **MACHINE, context=512)
    shown = json.loads(run_kt("plan", tiny_moe_path(), *FLAGS, "--ctx", 512, "--json", "--write-rules",
                              tmp_path / "kt.yaml").stdout)
    assert json.loads(plan.json) == shown
    assert plan.context == shown["context"] == 512 and plan.architecture == "deepseek_v3"
    assert [device.name for device in plan.devices] == ["cpu", "cuda:0"]
    assert plan.devices[0].weights == shown["devices"][0]["weights"]
    assert plan.speed.decode == shown["speed"]["decode"]
    assert {m.path: (m.kind, m.operator, m.bytes) for m in plan.modules} == {
        m["path"]: (m["class"], m["operator"], m["bytes"]) for m in shown["modules"]}
    plan.write_rules(tmp_path / "ours.yaml")
    assert (tmp_path / "ours.yaml").read_text() == plan.rules == (tmp_path / "kt.yaml").read_text()


def test_plan_of_a_model_that_is_not_here():
    plan = ktransformers.plan(CONFIG, format="Q8_0", ram="64GiB@50GB/s")
    assert plan.type == "Q8_0" and plan.weight_bytes > 0 and not plan.rates_measured


def test_written_rules_open(tmp_path):
    ktransformers.plan(tiny_moe_path(), gpus=["1GiB@1000GB/s"], ram="8GiB@50GB/s").write_rules(tmp_path / "r.yaml")
    with ktransformers.Engine(tiny_moe_path(), tmp_path / "r.yaml", emulate_gpus=1) as engine:
        assert any(placed.device == "cuda:0" for placed in engine.placement.values())


def test_plan_of_an_engine():
    with ktransformers.Engine(tiny_moe_path(), context=256, kv="bf16") as engine:
        plan = engine.plan(**MACHINE)
        assert plan.context == 256 and plan.cache_bytes == engine.cache_bytes
        assert engine.plan(ram="8GiB@50GB/s", context=128).context == 128


def test_plan_of_an_engine_on_a_gpu(build):
    """For the GPU that it has, all of whose memory it holds."""
    plugin = build / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"
    with ktransformers.Engine(tiny_moe_path(), context=64, threads=2, gpus=1, gpu_plugin=plugin) as engine:
        plan = engine.plan()
        assert {m.path: m.device for m in plan.modules} == {path: one.device for path, one in engine.placement.items()
                                                           if path in {m.path for m in plan.modules}}
        assert [device.name for device in plan.devices] == ["cpu", "cuda:0"] and plan.devices[1].capacity > 2 ** 30
        assert [device.name for device in engine.plan(gpus=0).devices] == ["cpu"]
        with pytest.raises(errors.UsageError, match="too little"):
            engine.plan(gpu_memory="1MiB")
        assert [device.name for device in engine.plan(ram="8GiB@50GB/s").devices] == ["cpu"]


def test_plan_of_an_engine_on_two_gpus(build):
    """For as many of them as are asked for."""
    plugin = build / "src" / "backend" / "gpu" / "libfake_gpu_whole.so"
    with ktransformers.Engine(tiny_moe_path(), context=64, threads=2, gpu_plugin=plugin) as engine:
        for gpus, names in ((None, ["cuda:0", "cuda:1"]), (2, ["cuda:0", "cuda:1"]), (1, ["cuda:0"]), (0, [])):
            assert [device.name for device in engine.plan(gpus=gpus).devices] == ["cpu", *names]


@pytest.mark.parametrize("arguments, error, text", [
    ({"gpus": 9}, errors.UsageError, "gpus: 9 is not a number from 0 to 8"),
    ({"gpus": ["24"]}, errors.UsageError, "24"),
    ({"gpus": [5]}, TypeError, "gpus: [5] is not a list of text"),
    ({"ram": "much"}, errors.UsageError, "much"),
    ({"ram": "1MiB"}, errors.NoMemoryError, "MiB"),
    ({"cpu_flops": "1TFLOPS"}, errors.UsageError, "--ram"),
    ({"model": CONFIG, "format": "Q9"}, errors.UsageError, "Q9"),
    ({"model": "/nowhere"}, errors.NotFoundError, "/nowhere"),
    ({"stream_experts": "yes"}, errors.UsageError, "'yes' is not known; use auto, on or off"),
    ({"expert_cache": "yes"}, errors.UsageError, "'yes' is not known; use auto, fixed or off"),
    ({"chunk_size": 65537}, errors.UsageError, "chunk_size: 65537"),
    ({"context": 10 ** 7}, errors.UsageError, "10000000"),
])
def test_bad_plans(arguments, error, text):
    with pytest.raises(error) as raised:
        ktransformers.plan(**{"model": tiny_moe_path(), **arguments})
    assert text in str(raised.value)
