"""Every objective and stepper on a GPU: the numbers of the CPU, no device mixed, and few waits.

Without a GPU this runs on the pretend one (tests/pretend.py), which computes as the CPU does, draws included, so that
paths can be compared. Bounds on waits are what was counted, and no less than what is needed: two numbers of each step
are read, the length of its displacement before and after it is shortened to the radius.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from fipray.geometry.keeps import Outputs, Slopes
from fipray.networks import Network
from fipray.paths import (
    Adaptive,
    AdversarialDistillation,
    Adversary,
    Arrival,
    Corrected,
    EnsembleAdversarialDistillation,
    Examples,
    FirstOrder,
    GradientDiversity,
    InputGradientPenalty,
    InputNullSpace,
    Kronecker,
    KroneckerMemory,
    KroneckerPenalty,
    LearnTask,
    Natural,
    OneShot,
    OutputDiversity,
    Problem,
    Projected,
    Published,
    RandomWalk,
    Scheduled,
    Settings,
    Shifted,
    Sparsify,
    Switch,
    Toward,
    WeightDiversity,
    WeightedSum,
    WithinAllowance,
    ZerothOrder,
    augmented,
    trace,
    walk,
)
from fipray.paths.sparsity import SemiStructured, Structured
from fipray.robustness import ThreatModel
from tests import pretend
from tests.problems import generator

CPU = torch.device("cpu")
BATCH, NUM_STEPS = 8, 3
INDICES = 8 * BATCH  # bytes of a batch's indices, the only ones that need to cross
LINF = Adversary(ThreatModel("linf", 0.1), num_steps=2)
L2 = Adversary(ThreatModel("l2", 0.5), num_steps=2)
FIRST_ORDER, SCHEDULE = FirstOrder(beta=0.1), Scheduled(0.01)
BASE = 1  # waits of a first-order step: for the length of the displacement


def convolutional(seed: int, norms: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norms else nn.Identity(), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64, 4)),
        )
        if norms:  # statistics other than 0 and 1
            module(torch.rand(50, 1, 6, 6))
    return module.double().eval()


KEEPS = {"outputs": Outputs(), "slopes": Slopes(directions=2, scale=5.0)}


@cache
def problem(device: torch.device, norms: bool = True, keeps: tuple[str, ...] = ("outputs",)) -> Problem:
    inputs = torch.rand(60, 1, 6, 6, generator=generator(), dtype=torch.float64).to(device)
    labels = torch.arange(60).remainder(4).to(device)
    network = Network.of(convolutional(0, norms)).to(device)
    memory = [] if norms else [KroneckerMemory(("old",), num_inputs=5).of(Problem(network), inputs[:5])]
    return Problem(
        network,
        inputs[:40],
        inputs[40:],
        others=[Network.of(convolutional(seed, norms)).weights for seed in (1, 2)],
        tasks={"new": Examples(inputs, labels)},
        memory=memory,
        keeps={name: KEEPS[name] for name in keeps},
    )


def walked(where: Problem, objective, stepper, radius=SCHEDULE, gpu: pretend.GPU | None = None):
    """The end of a path, and what was counted in its second turn, after whatever is done once."""
    counts: list[pretend.Counts] = []
    settings = Settings(stepper=stepper, radius=radius, num_steps=NUM_STEPS, batch_size=BATCH)
    end, steps = where.start, []
    on_step = None if gpu is None else lambda _: counts.append(gpu.taken())
    for point in walk(where, where.anchors, objective, settings, on_step=on_step):
        end = point.weights
        steps.append(point.step)
    assert steps[:NUM_STEPS] == [1, 2, 3]
    return end, counts[1] if gpu else None


def assert_as_on_the_cpu(objective, stepper, syncs: int, to_device: int = INDICES, norms: bool = True, **given):
    expected, _ = walked(problem(CPU, norms), objective, stepper, **given)
    with pretend.gpu() as gpu:
        end, counts = walked(problem(gpu.device, norms), objective, stepper, gpu=gpu, **given)
        assert end.device == gpu.device
        assert counts.syncs <= syncs, counts.waits
        assert counts.to_device <= to_device
        if gpu.pretends:  # a GPU has other random numbers
            torch.testing.assert_close(end.cpu(), expected, rtol=1e-7, atol=1e-9)


OBJECTIVES = {
    "adversarial_distillation": (AdversarialDistillation(LINF), BASE + 1),
    # one wait for the bounds, and one for each projection
    "adversarial_distillation, l2": (AdversarialDistillation(L2), BASE + 1 + 3),
    "arrival": (Arrival(), BASE + 1),
    "ensemble_adversarial_distillation": (EnsembleAdversarialDistillation(LINF), BASE + 2),
    "gradient_diversity": (GradientDiversity(noise=0.1), BASE),
    "input_gradient_penalty": (InputGradientPenalty(), BASE),
    "output_diversity": (OutputDiversity(), BASE),
    "random_walk": (RandomWalk(), BASE),
    "toward": (Toward(), BASE + 1),
    # a random direction is drawn only where the weights are those of another network
    "weight_diversity": (WeightDiversity(), BASE + 3),
    "weighted_sum": (WeightedSum(((1.0, GradientDiversity()), (0.3, RandomWalk()))), BASE),
    # zeros are counted, and again by layers where there must be more, for the gradient and for the restriction
    "sparsify": (Sparsify(0.5, ramp=1.0), BASE + 4),
    "sparsify, 2:4": (Sparsify(0.3, ramp=1.0, pattern=SemiStructured()), BASE + 5),
    # of each layer, for both: masks of the channels that are gone, fewer numbers than all their weights
    "sparsify, channels": (Sparsify(0.5, ramp=1.0, pattern=Structured()), BASE + 12),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_order_steps_on_a_gpu_are_those_of_the_cpu_with_few_waits(name):
    objective, syncs = OBJECTIVES[name]
    assert_as_on_the_cpu(objective, FIRST_ORDER, syncs)


def test_learning_a_task_sends_the_indices_of_its_examples_alone():
    for objective in (
        LearnTask("new", batch_size=BATCH),
        LearnTask("new", batch_size=BATCH, loss="squared", own_classes=True, smoothing=0.1),
    ):
        assert_as_on_the_cpu(objective, FIRST_ORDER, BASE, to_device=2 * INDICES)


def test_a_kronecker_penalty_waits_for_nothing():
    assert_as_on_the_cpu(KroneckerPenalty(), FIRST_ORDER, BASE, norms=False)


def test_a_zeroth_order_objective_waits_for_the_values_of_its_function_alone():
    objective = ZerothOrder(lambda network, weights: float(weights.square().sum()), num_samples=3)
    assert_as_on_the_cpu(objective, FIRST_ORDER, BASE + 6, to_device=INDICES + 24)


STEPPERS = {
    "first_order": (FIRST_ORDER, BASE),
    "first_order, batch_statistics": (FirstOrder(beta=0.1, batch_statistics=True), BASE + 1),
    "first_order, warm": (FirstOrder(beta=0.1, temperature=2.0, held=0.5, outputs=3), BASE),
    "natural": (Natural(damping=1e-2), BASE),
    "natural, without damping": (Natural(damping=0.0), BASE),
    "natural, warm": (Natural(damping=0.0, warm=True), BASE + 2),
    "natural, chunk": (Natural(chunk=4), BASE + 2),
    "natural, exact": (Natural(iterations=None), BASE + 3),
    "corrected": (Corrected(FIRST_ORDER, Natural(damping=0.0, iterations=2)), BASE + 5),
    "switch": (Switch(FIRST_ORDER, Natural()), BASE),
    # at damping 0 an eigendecomposition, which looks for errors
    "projected": (Projected(), BASE + 5),
    "published": (Published(), BASE),
    "within_allowance": (WithinAllowance(FIRST_ORDER, 0.01, after=0.0), BASE + 1),
}


@pytest.mark.parametrize("name", STEPPERS)
def test_a_step_on_a_gpu_is_that_of_the_cpu_with_few_waits(name):
    stepper, syncs = STEPPERS[name]
    assert_as_on_the_cpu(RandomWalk(), stepper, syncs)


@pytest.mark.parametrize(("stepper", "syncs"), [(Kronecker(), BASE + 3), (InputNullSpace(num_batches=1), BASE + 4)])
def test_a_step_by_layers_on_a_gpu_is_that_of_the_cpu(stepper, syncs):
    assert_as_on_the_cpu(RandomWalk(), stepper, syncs, norms=False)


def test_a_one_shot_step_waits_for_the_restriction_alone():
    assert_as_on_the_cpu(Sparsify(0.5, ramp=1.0), OneShot(), BASE + 2)


def launches(num_layers: int, objective) -> tuple[int, int]:
    """Kernels of a first-order step, and those of a pass and its gradient alone."""
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(num_layers)))
    inputs = torch.rand(40, 4, generator=generator())
    with pretend.gpu() as gpu:
        where = Problem(Network.of(module).to(gpu.device), inputs.to(gpu.device), inputs[:2].to(gpu.device))
        _, counts = walked(where, objective, FirstOrder(beta=0.1), gpu=gpu)
        pieces = {name: one.clone().requires_grad_(True) for name, one in where.network.named(where.start).items()}
        gpu.taken()
        outputs = where.network.evaluated(pieces, where.anchors.inputs[:BATCH])
        torch.autograd.grad(outputs.sum(), list(pieces.values()))
        return counts.launches, gpu.taken().launches


@pytest.mark.parametrize("objective", [RandomWalk(), Sparsify(0.0)], ids=lambda one: type(one).__name__)
def test_kernels_of_a_first_order_step_beside_its_pass_do_not_grow_with_the_number_of_parameters(objective):
    found = [launches(num_layers, objective) for num_layers in (2, 20)]
    beside = [step - of_pass for step, of_pass in found]
    assert beside[0] == beside[1]


def test_a_natural_step_waits_no_more_for_more_iterations():
    """Up to the number after which the device is asked whether it has converged."""
    with pretend.gpu() as gpu:
        counts = [
            walked(problem(gpu.device), RandomWalk(), Natural(damping=0.0, iterations=number), gpu=gpu)[1]
            for number in (2, 30)
        ]
    assert counts[0].syncs == counts[1].syncs == BASE
    assert counts[0].launches < counts[1].launches


def test_an_adaptive_radius_waits_once_for_each_number_that_it_judges():
    assert_as_on_the_cpu(GradientDiversity(), Natural(damping=1e-2), BASE + 6, radius=Adaptive(tolerance=1.0))


def test_a_traced_path_on_a_gpu_is_that_of_the_cpu():
    found = []
    with pretend.gpu() as gpu:
        for device in (CPU, gpu.device):
            where = problem(device, keeps=("outputs", "slopes"))
            path = trace(where, GradientDiversity(), num_steps=4, batch_size=16, uncertainty_fraction=0.5)
            assert path.end.weights.device == device
            found.append([[one.objective_value, one.functional_distance_held_out] for one in path.points])
        if gpu.pretends:
            torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=1e-6, atol=1e-9)


def test_noise_and_shifts_are_drawn_on_the_device():
    with pretend.gpu() as gpu:
        where = problem(gpu.device)
        images = where.anchors.inputs[:5]
        gpu.taken()
        noise, shifted = where.anchors.normal(3, 4), augmented(images, [Shifted(copies=2)], seed=3)
        assert noise.device == shifted.device == gpu.device
        assert gpu.taken().to_device == 0
        if gpu.pretends:
            assert torch.equal(noise.cpu(), problem(CPU).anchors.normal(3, 4))
            assert torch.equal(shifted.cpu(), augmented(images.cpu(), [Shifted(copies=2)], seed=3))


def test_draws_of_the_cpu_are_what_they_have_always_been():
    """Numbers of torch's generator on the CPU, which results of earlier releases hold."""
    batch = replace(problem(CPU).anchors, seed=5)
    expected = torch.randn(2, 3, generator=generator(5), dtype=torch.float64)
    assert torch.equal(batch.normal(2, 3), expected)
