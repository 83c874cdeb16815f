"""A study of adapters around a frozen network: what is saved, shared and sent is as small as they are."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import ray
import safetensors
import torch

import fipray as fip
from fipray import analysis
from fipray.cluster.pickling import put
from fipray.execution.jobs import Payload
from fipray.execution.listeners import Silent
from fipray.execution.queue import Queue, payload_of
from fipray.execution.worker import Worker
from fipray.networks import Network
from fipray.records import Store
from fipray.study.arrays import load_shared
from tests.adapters import NUM_MOVING, bert, study, tokens
from tests.studies import module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    into = tmp_path_factory.mktemp("adapters")
    base = bert()
    before = copy.deepcopy(base.state_dict())
    fip.LocalRunner().run(study(base), into)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    return base, into


def test_points_hold_the_adapters_alone_and_the_base_is_written_once(finished):
    base, into = finished
    points = list(into.glob("weights/**/*.safetensors"))
    assert len(points) == 3
    for file in points:
        with safetensors.safe_open(file, "np") as opened:
            assert opened.get_tensor("weights").shape == (NUM_MOVING,)
            assert set(opened.keys()) == {"weights"}
    whole = [file for file in into.rglob("*") if file.is_file() and file.stat().st_size > 4 * 3 * NUM_MOVING]
    assert [file.name for file in whole if file.suffix == ".safetensors"] == ["base.safetensors"]
    assert sum(value.numel() for value in base.state_dict().values()) > 20 * NUM_MOVING


def test_results_give_the_whole_module(finished):
    base, into = finished
    results, inputs = analysis.load(into), torch.as_tensor(tokens(9, 2))
    found = results.module("adapted", like=bert(seed=1))
    network = Network.of(base)
    expected = network(torch.from_numpy(results.weights("adapted")), inputs)
    with torch.no_grad():
        torch.testing.assert_close(found(inputs).logits, expected, rtol=0, atol=1e-6)
        assert float((found(inputs).logits - base(inputs).logits).abs().max()) > 1e-4


def test_another_network_of_a_study_may_differ_in_the_adapters_alone():
    base, other = bert(), bert()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    weights = study(base, networks={"other": other}).other_weights["other"]
    assert int((weights != Network.of(base).weights).sum()) == 4 * 2 * 16
    with pytest.raises(fip.FiprayError, match="which no path moves"):
        study(base, networks={"other": bert(seed=1)})


def test_a_payload_shares_the_parameters_that_equal_those_of_the_directory(tmp_path):
    base = bert()
    queue = Queue(study(base), tmp_path, Silent())
    sent, given = dict(queue.payload.module.named_parameters()), dict(base.named_parameters())
    assert all(sent[name].data_ptr() == parameter.data_ptr() for name, parameter in given.items())
    Worker(queue.payload, tmp_path)
    changed = bert()
    with torch.no_grad():
        changed.get_parameter(next(iter(given))).add_(1.0)
    payload = payload_of(study(changed, base_id="same"), Store.open(tmp_path))
    first = next(iter(given))
    assert torch.equal(payload.module.get_parameter(first), given[first])
    assert torch.equal(changed.get_parameter(first), given[first] + 1.0)


def test_loading_into_shared_memory_refuses_a_state_of_other_names_or_shapes():
    base = module()
    state = base.state_dict()
    with pytest.raises(RuntimeError, match=r"missing are 0.bias, and unknown are none"):
        load_shared(base, {name: value + 1 for name, value in state.items() if name != "0.bias"})
    with pytest.raises(RuntimeError, match=r"missing are none, and unknown are more"):
        load_shared(base, {**state, "more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.bias"):
        load_shared(base, {**state, "0.bias": torch.zeros(3)})


def test_a_payload_is_pickled_with_its_parameters_as_buffers_that_are_not_copied():
    base, buffers = bert(), list[pickle.PickleBuffer]()
    payload = Payload.of(study(base))
    text = pickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
    sizes = [buffer.raw().nbytes for buffer in buffers]
    assert sum(sizes) >= num_bytes
    assert {parameter.numel() * 4 for parameter in base.parameters()} <= set(sizes)
    frozen = [memoryview(bytes(buffer.raw())) for buffer in buffers]  # read-only, as in Ray's object store
    again = pickle.loads(text, buffers=frozen)
    places = {np.frombuffer(buffer, np.uint8).ctypes.data for buffer in frozen if buffer.nbytes}
    assert all(parameter.data_ptr() in places for parameter in again.module.parameters())
    assert all(map(torch.equal, again.module.state_dict().values(), base.state_dict().values()))
    assert [one.requires_grad for one in again.module.parameters()] == [one.requires_grad for one in base.parameters()]
    assert all(parameter.numel() for parameter in payload.module.parameters())  # the one that was pickled is whole


def test_ray_holds_the_parameters_once_for_all_that_read_them(ray_session):
    reference = put(Payload.of(study()), print)
    first, second = ray.get(reference), ray.get(reference)
    places = [[parameter.data_ptr() for parameter in each.module.parameters()] for each in (first, second)]
    assert places[0] == places[1]
    inputs = torch.as_tensor(tokens(20))
    network = Network.of(first.module)
    network.check(inputs)
    assert dict(network.outside()).keys() == {
        name for name, one in first.module.named_parameters() if not one.requires_grad
    }
    assert torch.equal(network(network.weights, inputs), bert()(inputs).logits.detach())


@pytest.mark.slow
def test_workers_on_ray_write_what_the_local_runner_writes(ray_session, finished, tmp_path):
    _, into = finished
    fip.RayRunner(num_workers=2).run(study(), tmp_path)
    ends = [analysis.load(place).weights("adapted") for place in (into, tmp_path)]
    np.testing.assert_array_equal(*ends)
