"""Devices and precisions, on machines made up."""

import os
from contextlib import nullcontext

import pytest
import torch

from ibot.errors import UserError
from ibot.rng import Purpose, torch_seed
from ibot.system import device as device_module
from ibot.system.device import (
    autocast,
    choose_device,
    choose_precision,
    describe_device,
    device_memory,
    has_native_bfloat16,
    prepared,
    seed_step,
)
from ibot.system.processes import Processes

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def gpus(monkeypatch):
    """A machine with a number of GPUs, and this process among others on it."""

    def machine(count, local_rank=0, capability=(8, 0), together=1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(
            device_module, "launched_processes", lambda: Processes(5, 8, local_rank)
        )
        monkeypatch.setattr(device_module, "local_world_size", lambda: together)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return machine


def test_auto_is_a_gpu_where_there_is_one(gpus):
    gpus(0)
    assert choose_device("auto") == CPU and choose_device("cpu") == CPU
    gpus(4, local_rank=2)
    assert choose_device("auto") == torch.device("cuda", 2) and choose_device("cpu") == CPU
    assert choose_device("cuda") == torch.device("cuda", 2) and choose_device(
        "cuda:0"
    ) == torch.device("cuda", 0)
    assert choose_device("cuda:3") == torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("count", "local_rank", "name"), [(0, 0, "cuda"), (0, 3, "cuda"), (4, 0, "cuda:4")]
)
def test_a_gpu_that_is_not_there_is_refused_with_the_number_that_is(gpus, count, local_rank, name):
    gpus(count, local_rank)
    with pytest.raises(UserError, match="is not there") as caught:
        choose_device(name)
    assert f"sees {count} GPUs" in caught.value.why and "--device cpu" in caught.value.fix


@pytest.mark.parametrize(
    ("count", "local_rank", "together", "words"),
    [
        (8, 8, 16, "16 processes on this machine, but 8 GPUs"),
        (2, 2, 1, "3 processes on this machine, but 2 GPUs"),
    ],
)
@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_more_processes_than_gpus_are_refused_with_that_cure(
    gpus, name, count, local_rank, together, words
):
    gpus(count, local_rank, together=together)
    with pytest.raises(UserError, match=words) as caught:
        choose_device(name)
    assert f"start {count}" in caught.value.fix and "driver" not in str(caught.value)


def test_one_gpu_for_several_processes_is_refused_unless_each_sees_its_own(gpus, monkeypatch):
    gpus(8, 1, together=2)
    with pytest.raises(UserError, match="'cuda:0' is one GPU for 2 processes") as caught:
        choose_device("cuda:0")
    assert "--device cuda" in caught.value.fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="is one GPU for 2 processes"):
        choose_device("cuda:0")
    gpus(1, 0, together=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert choose_device("cuda:0") == torch.device("cuda", 0)


def test_unknown_devices_and_absent_mps_are_refused(monkeypatch):
    with pytest.raises(UserError, match="unknown device 'gpu'") as caught:
        choose_device("gpu")
    assert "cuda:0" in caught.value.fix
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="'mps' is not there"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")


@pytest.mark.parametrize(
    ("capability", "native"),
    [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 1), True), ((7, 9), False)],
)
def test_gpus_from_ampere_on_compute_bfloat16(gpus, capability, native):
    gpus(2, capability=capability)
    assert has_native_bfloat16(GPU) == native
    assert choose_precision("auto", GPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize(
    ("kind", "supported", "native"),
    [
        ("AVX512", True, True),
        ("AVX512", False, False),
        ("AVX2", True, False),
        ("AVX512_VNNI", True, True),
    ],
)
def test_a_cpu_needs_the_instructions_for_bfloat16(monkeypatch, kind, supported, native):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kind)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    assert has_native_bfloat16(CPU) is native
    assert choose_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert has_native_bfloat16(torch.device("mps")) is False


def test_a_precision_that_is_named_is_taken_but_for_float16_on_a_cpu():
    for name in ("float32", "bfloat16"):
        assert choose_precision(name, CPU) == choose_precision(name, GPU) == getattr(torch, name)
    assert choose_precision("float16", GPU) == torch.float16
    with pytest.raises(UserError, match="float16 needs a GPU"):
        choose_precision("float16", CPU)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_products_run_in_the_precision_chosen(precision):
    context = autocast(CPU, precision)
    wide = precision in (torch.float32, torch.float64)
    assert isinstance(context, nullcontext) == wide
    with context:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.float32 if wide else precision)


def test_the_draws_of_a_step_depend_on_seed_and_step():
    drawn = {}
    for key in ((0, 0), (1, 0), (0, 1)):
        seed_step(*key)
        assert torch.initial_seed() == torch_seed(*key, 0, Purpose.DROP_PATH)
        drawn[key] = torch.rand(3).tolist()
    assert len({tuple(values) for values in drawn.values()}) == 3
    seed_step(0, 1)
    assert torch.rand(3).tolist() == drawn[(0, 1)]


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_threads_and_determinism_are_set_if_asked_and_are_as_before_afterwards(monkeypatch, given):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if given:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.rand(1)
    torch.manual_seed(5)
    torch.rand(1)
    with prepared("cpu", threads=0, deterministic=False) as device:
        assert device == CPU and torch.get_num_threads() == before[0]
        assert not torch.are_deterministic_algorithms_enabled()
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    with pytest.raises(KeyError), prepared("cpu", threads=3, deterministic=True):
        assert torch.get_num_threads() == 3 and torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (given or ":4096:8")
        torch.manual_seed(9)
        raise KeyError
    assert torch.get_num_threads() == before[0] and not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), before[1]) and torch.equal(torch.rand(1), after)


def test_memory_and_name_of_a_device(monkeypatch):
    class Properties:
        total_memory, name = 80 * 2**30, "H100"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert device_memory(GPU) == 80.0 and device_memory(CPU) == 0.0
    assert describe_device(GPU) == "H100 (80 GiB)"
    assert (
        describe_device(CPU).endswith(f", {torch.get_num_threads()} threads")
        and describe_device(CPU)[0] != ","
    )
