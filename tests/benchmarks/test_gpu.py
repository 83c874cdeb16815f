"""How the benchmark on a GPU counts and measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.nn import functional

from benchmarks.engine.activity import Activity, Operations
from benchmarks.engine.cases import NETWORKS, PRECISIONS, Target, cases
from benchmarks.engine.clock import Clock, median_ratio
from benchmarks.engine.gpu import main
from tests.problems import normal

CPU = torch.device("cpu")


@pytest.fixture
def process_settings() -> Iterator[None]:
    """Set back what the benchmark sets for the whole process."""
    threads, cudnn, matmul = torch.get_num_threads(), torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = flags
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def event(name: str, start: float, end: float, on_gpu: bool = True, **given: Any) -> FunctionEvent:
    return FunctionEvent(0, name, 0, start, end, device_type=DeviceType.CUDA if on_gpu else DeviceType.CPU, **given)


def test_activity_counts_kernels_waits_and_the_time_of_kernels_and_copies():
    events = [
        event("cudaLaunchKernel", 0, 5, on_gpu=False),
        event("sgemm", 10, 30),
        event("elementwise", 30, 34),
        event("Memcpy DtoH (Device -> Pageable)", 40, 42),
        event("Memset (Device)", 50, 51),
        event("Optimizer.step#Adam.step", 10, 60, is_user_annotation=True),
        event("cudaStreamSynchronize", 5, 42, on_gpu=False),
        event("cudaDeviceSynchronize", 60, 70, on_gpu=False),
    ]
    assert Activity.of(events) == Activity(launches=2, waits=1, seconds=pytest.approx(27e-6))


def test_operations_are_those_of_products_and_convolutions_forwards_and_backwards():
    weights, filters = normal(3, 5).requires_grad_(True), normal(4, 2, 3, 3).requires_grad_(True)
    with Operations() as counted:
        (normal(7, 5) @ weights.T).relu().sum().backward()
    assert counted.total == 2 * (2 * 7 * 5 * 3)  # that of the inputs is not asked for
    with Operations() as counted:
        functional.conv2d(normal(6, 2, 8, 8), filters).sum().backward()
    assert counted.total == 2 * (2 * 6 * 6 * 6 * 4 * 2 * 9)


def test_clock_measures_in_turn_and_in_reverse_after_a_round_that_warms_up():
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    found = Clock.of(CPU, 1).in_turn(calls, rounds=2)
    assert called == ["b", "a", "a", "b", "b", "a"]
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_ratios_are_medians_of_those_within_a_round():
    assert median_ratio([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


def test_a_target_is_met_up_to_its_ratio_or_milliseconds():
    assert Target(ratio=1.15).is_met(50.0, 1.15)
    assert not Target(ratio=1.15).is_met(50.0, 1.16)
    assert not Target(ratio=1.15).is_met(50.0, None)
    assert Target(milliseconds=1.0).is_met(0.9, 7.0)
    assert not Target(milliseconds=1.0).is_met(1.1, 1.0)


def test_every_network_has_rows_of_steps_and_attacks_in_every_precision():
    rows = {(one.network, one.precision, one.what) for one in cases(CPU, quick=True)}
    for name in NETWORKS:
        for precision in PRECISIONS:
            assert {(name, precision, what) for what in ("FirstOrder", "Natural, 8 iterations", "PGD(10)")} <= rows


def test_without_a_gpu_the_benchmark_says_so_and_ends_with_status_2(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        main(quick=True, only="", rounds=1, device="cuda", json_file=None)
    assert ended.value.code == 2
    assert "there is no GPU here: --device cpu" in capsys.readouterr().err


@pytest.mark.usefixtures("process_settings")
def test_a_row_is_measured_and_printed_on_the_processor(capsys):
    with pytest.raises(SystemExit) as ended:
        main(quick=True, only="vgg16, tf32, FirstOrder, Sparsify", rounds=1, device="cpu", json_file=None)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "| vgg16 | 2 | tf32 | FirstOrder, Sparsify | " in printed
    assert "missed" not in printed
