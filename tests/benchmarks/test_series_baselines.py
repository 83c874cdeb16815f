"""Continual learning: the updates of their sources, exact where they can be, and what every learner promises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.series import (
    EWC,
    GPM,
    LEARNERS,
    NCL,
    OGD,
    SI,
    AGem,
    DarkExperience,
    ExperienceReplay,
    Learned,
    Learner,
    LwF,
    Scenario,
    Task,
)
from benchmarks.baselines.series.projections import (
    Kronecker,
    Layer,
    by_layer,
    extended,
    kronecker_fisher,
    layers_of,
    outside,
    spanned,
)
from benchmarks.baselines.series.regularised import Anchor, divergence, fisher_diagonal, line_integral
from benchmarks.baselines.series.rehearsal import Stored, balanced, cross_entropy, distance, drawn, turned
from benchmarks.baselines.series.task import flat, identity, log_probabilities
from fipray.errors import UsageError
from fipray.paths import Shifted
from tests.margins import assert_above, assert_below
from tests.problems import generator, normal

SCENARIOS: tuple[Scenario, ...] = ("task", "domain", "class")
NUM_TASKS = 3


def made(*layers: nn.Module) -> nn.Module:
    """In float64, with weights of seed 0."""
    module = nn.Sequential(*layers).double()
    for number, one in enumerate(module.parameters()):
        one.data = normal(*one.shape, seed=number) / math.sqrt(one.shape[-1])
    return module


def network(num_outputs: int = 6) -> nn.Module:
    return made(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, num_outputs))


def cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 2, bias=False)]
    return made(*layers, nn.Flatten(), nn.Linear(20, 6)).float()


def columns(begin: int) -> Callable[[Tensor], Tensor]:
    return lambda outputs: outputs[:, begin : begin + 2]


def masked(begin: int) -> Callable[[Tensor], Tensor]:
    def seen_by(outputs: Tensor) -> Tensor:
        hidden = torch.ones(outputs.shape[1], dtype=torch.bool)
        hidden[begin : begin + 2] = False
        return outputs.masked_fill(hidden, -math.inf)

    return seen_by


def tasks(scenario: Scenario, num_examples: int = 60) -> list[Task]:
    """Each two clouds of points, in new places."""
    made = []
    for number in range(NUM_TASKS):
        centres = 2 * normal(2, 8, seed=10 + number)
        labels = torch.arange(2).repeat(num_examples // 2)
        inputs = centres[labels] + normal(num_examples, 8, seed=20 + number)
        match scenario:
            case "task":
                made.append(Task(str(number), inputs, labels, columns(2 * number), heads=True))
            case "domain":
                made.append(Task(str(number), inputs, labels))
            case "class":
                made.append(Task(str(number), inputs, labels + 2 * number))
    return made


def nothing(number: int, module: nn.Module) -> None:
    pass


def learnt(learner: Learner, series: list[Task], module: nn.Module, num_iterations: int = 5, first: int = 0) -> Learned:
    return learner.learn(module, series, num_iterations=num_iterations, seed=0, after=nothing, first=first)


def state(module: nn.Module) -> Tensor:
    return flat(one.double() for one in module.state_dict().values())


def accuracy(module: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float((task.seen_by(module(task.inputs)).argmax(1) == task.labels).double().mean())


# What every learner promises


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", LEARNERS)
def test_the_seed_decides_and_the_given_module_stays(name: str, scenario: Scenario):
    module, before = network(), state(network())
    module.train()
    one, two = (learnt(LEARNERS[name](scenario), tasks(scenario, 20), module) for _ in range(2))
    assert torch.equal(state(one.module), state(two.module))
    assert torch.equal(state(module), before)
    assert module.training
    assert not torch.equal(state(one.module), before)
    assert one.memory_bytes == two.memory_bytes
    assert one.processor_seconds > 0


@pytest.mark.parametrize("name", LEARNERS)
def test_convolutions_and_statistics_are_learned_too(name: str):
    inputs = torch.rand(40, 1, 6, 6, generator=generator())
    labels = torch.arange(40) % 2
    series = [Task("a", inputs, labels), Task("b", 1 - inputs, labels + 2)]
    learned = learnt(LEARNERS[name]("class"), series, cnn(), num_iterations=3)
    assert state(learned.module).isfinite().all()
    assert not learned.module.training


@pytest.mark.parametrize("name", LEARNERS)
def test_masks_are_as_good_as_selections(name: str):
    selected = tasks("task", 20)
    hidden = [
        Task(one.name, one.inputs, one.labels + 2 * number, masked(2 * number), heads=True)
        for number, one in enumerate(selected)
    ]
    one, two = (learnt(LEARNERS[name]("task"), series, network(), 3) for series in (selected, hidden))
    torch.testing.assert_close(state(one.module), state(two.module))


@pytest.mark.parametrize("name", LEARNERS)
def test_after_hears_of_each_task_and_known_tasks_are_not_trained_on(name: str):
    heard = []

    def after(number: int, module: nn.Module) -> None:
        assert not module.training
        heard.append((number, torch.equal(state(module), state(network()))))

    LEARNERS[name]("class").learn(network(), tasks("class", 20), num_iterations=3, seed=0, after=after, first=1)
    assert heard == [(0, True), (1, False), (2, False)]


MILD: dict[str, Learner] = {
    "ewc": EWC(strength=100.0),
    "si": SI(strength=1.0),
    "lwf": LwF(strength=0.5),
    "ncl": NCL(prior=1e-2),
}
"""Settings with which a small network still learns."""


def opposed(draw: int, num_examples: int = 60) -> list[Task]:
    """Two tasks of the same labels, each two clouds at both ends of a line; the cosine of the lines is -.4, so that
    what one task asks of the weights goes against the other, and both can be met."""
    first, across = torch.linalg.qr(normal(8, 2, seed=10 + draw)).Q.T
    labels = torch.arange(2).repeat(num_examples // 2)
    sides = 3.0 * (2 * labels[:, None] - 1)
    lines = first, -0.4 * first + math.sqrt(1 - 0.4**2) * across
    return [
        Task(str(number), sides * line + normal(num_examples, 8, seed=100 + 2 * draw + number), labels)
        for number, line in enumerate(lines)
    ]


def in_a_course_each(learner: Learner, series: list[Task], num_iterations: int) -> nn.Module:
    """The same batches and steps, but nothing is kept from task to task."""
    module = network(2)
    for task in series:
        module = learnt(learner, [task], module, num_iterations).module
    return module


def loss(module: nn.Module, task: Task) -> float:
    with torch.no_grad():
        return float(task.loss(module, task.inputs, task.labels))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "naive"])
def test_each_learns_and_forgets_less_than_where_it_keeps_nothing(name: str):
    learner = MILD.get(name) or LEARNERS[name]("domain")
    learned, ratios = [], []
    for draw in range(3):
        old, new = series = opposed(draw)
        module = learnt(learner, series, network(2), num_iterations=200).module
        learned.append(accuracy(module, new))
        ratios.append(loss(module, old) / loss(in_a_course_each(learner, series, 200), old))
    assert_above(sum(learned) / len(learned), 0.6)  # what knows the old task alone has less than .5
    assert_below(sum(ratios) / len(ratios), 0.9)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_kept_is_counted(name: str):
    """Of 3 tasks of 2 classes, 60 examples each: 8 inputs and 6 outputs in float64, 366 weights in layers of 24 x 9 and
    6 x 25; what is spanned is less than what is asked for."""
    num_weights, num_examples = 366, 180
    example = 8 * 8 + 8
    counts: dict[str, tuple[Learner, int]] = {
        "naive": (LEARNERS["naive"]("class"), 0),
        "joint": (LEARNERS["joint"]("class"), num_examples * example + num_weights * 8),
        "er": (ExperienceReplay(num_stored=7), 6 * 7 * example),
        "a-gem": (AGem(num_stored=70), num_examples * example),
        "der": (DarkExperience(beta=0, num_stored=7), 6 * 7 * (example + 6 * 8)),
        "der++": (DarkExperience(num_stored=7), 6 * 7 * (example + 6 * 8)),
        "ewc": (EWC(), 2 * num_weights * 8),
        "si": (SI(), 2 * num_weights * 8),
        "lwf": (LwF(), num_weights * 8 + 6 * 8),
        "ogd": (OGD(num_stored=5), 3 * 5 * num_weights * 8),
        "gpm": (GPM(threshold=1, num_examples=120), (9 * 9 + 25 * 25) * 8),
        "ncl": (NCL(), (24 * 24 + 9 * 9 + 6 * 6 + 25 * 25 + num_weights) * 8),
    }
    learner, num_bytes = counts[name]
    assert learnt(learner, tasks("class"), network()).memory_bytes == num_bytes


@pytest.mark.parametrize(
    "make",
    [
        partial(ExperienceReplay, num_stored=0),
        partial(AGem, num_stored=-1),
        partial(DarkExperience, alpha=0),
        partial(DarkExperience, beta=-1),
        partial(DarkExperience, beta=math.nan),
        partial(EWC, strength=math.inf),
        partial(SI, damping=0),
        partial(LwF, temperature=0),
        partial(OGD, rate=0),
        partial(GPM, threshold=1.1),
        partial(GPM, threshold=0),
        partial(NCL, momentum=1),
        partial(NCL, prior=0),
        partial(Task, "empty", torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)),
        partial(Task, "short", torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
        partial(Task, "floats", torch.zeros(3, 2), torch.zeros(3)),
        partial(learnt, EWC(), [], network()),
        partial(learnt, EWC(), tasks("class"), network(), first=4),
        partial(learnt, EWC(), tasks("class"), network(), num_iterations=0),
        partial(layers_of, nn.Conv2d(2, 2, 3, groups=2)),
        partial(layers_of, nn.Conv2d(2, 2, 3, padding="same")),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object]):
    with pytest.raises(UsageError):
        make()


# Rehearsal


def test_as_many_examples_of_each_class_are_stored_and_drawn_alike():
    task = Task("uneven", torch.arange(50.0).unsqueeze(1), torch.tensor([3] * 45 + [1] * 5))
    part = balanced(task, 10, generator())
    assert part.labels.bincount().tolist() == [0, 5, 0, 10]
    assert len(part.inputs.unique()) == 15
    assert torch.equal(task.labels[part.inputs.flatten().long()], part.labels)
    more = Stored(columns(0), torch.full((1, 1), 99.0), torch.tensor([7]))
    batch = drawn([part, more], generator(), num=16_000)
    assert [one.seen_by for one in batch] == [part.seen_by, more.seen_by]
    counts = torch.cat([one.inputs for one in batch]).unique(return_counts=True)[1]
    assert len(counts) == 16
    assert_above(counts.min(), 600)
    assert_below(counts.max(), 1400)


def test_stored_examples_are_judged_as_their_task_sees_them():
    outputs, labels = normal(5, 6), torch.tensor([1, 0, 1, 1, 0])
    parts = [Stored(columns(2), outputs[:3], labels[:3]), Stored(identity, outputs[3:], labels[3:])]
    losses = [-outputs[n, 2:4].log_softmax(0)[labels[n]] for n in range(3)]
    losses += [-outputs[n].log_softmax(0)[labels[n]] for n in (3, 4)]
    torch.testing.assert_close(cross_entropy(outputs, parts), torch.stack(losses).mean())


def test_dark_experience_adds_the_distance_to_stored_outputs_and_the_loss_of_stored_labels():
    module, (old, new, _) = network(), tasks("class")
    course = DarkExperience(alpha=0.3, beta=0.7, num_stored=9).begin(module, generator())
    course.consolidate(old)
    for one in module.parameters():
        one.data += 0.1
    course.generator.manual_seed(1)
    random = generator(1)  # the same draws as the learner's
    first, second = drawn(course.parts, random), drawn(course.parts, random)
    for part in first:
        torch.testing.assert_close(network()(part.inputs), part.outputs)
    (one,), (two,) = first, second
    squares = (module(one.inputs) - one.outputs).square().sum() / (128 * 6)
    expected = new.loss(module, new.inputs, new.labels) + 0.3 * squares + 0.7 * old.loss(module, two.inputs, two.labels)
    torch.testing.assert_close(course.loss(new, new.inputs, new.labels), expected)
    torch.testing.assert_close(distance(module(one.inputs), first), squares)


@pytest.mark.parametrize("learner", [ExperienceReplay, DarkExperience])
def test_what_is_rehearsed_may_be_shifted_and_what_is_kept_is_not(learner):
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    course = learner(num_stored=1, shifted=Shifted(1, 1)).begin(
        nn.Sequential(nn.Flatten(), nn.Linear(25, 2)), generator()
    )
    course.consolidate(Task("one", image, torch.tensor([0])))
    seen = course.seen_again(drawn(course.parts, generator(), num=300))
    assert seen.shape == (300, 1, 5, 5)
    places = seen.flatten(1).argmax(1).unique().tolist()
    assert places == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert torch.equal(course.parts[0].inputs, image)


def test_a_gradient_against_the_stored_ones_is_turned_until_it_is_orthogonal_and_no_other_is():
    slopes, reference = [normal(3, 2), normal(4, seed=1)], [normal(3, 2, seed=2), normal(4, seed=3)]
    ours, theirs = flat(slopes), flat(reference)
    if ours @ theirs > 0:
        slopes, ours = [-one for one in slopes], -ours
    after = flat(turned(slopes, reference))
    assert abs(float(after @ theirs)) < 1e-12
    torch.testing.assert_close(after, ours - (ours @ theirs) / (theirs @ theirs) * theirs)
    agreeing = [-one for one in slopes]
    assert turned(agreeing, reference) is agreeing


# Penalties


@pytest.mark.parametrize("seen_by", [identity, columns(2), masked(2)])
def test_the_fisher_diagonal_is_that_of_the_dense_matrix(seen_by: Callable[[Tensor], Tensor]):
    module, inputs = network(), normal(7, 8)
    dense = torch.zeros(366, 366, dtype=torch.float64)
    for one in inputs:
        logs = log_probabilities(seen_by(module(one[None])))[0]
        for log in logs:
            row = flat(torch.autograd.grad(log, module.parameters(), retain_graph=True))
            dense += log.detach().exp() * torch.outer(row, row) / len(inputs)
    torch.testing.assert_close(flat(fisher_diagonal(module, seen_by, inputs)), dense.diagonal())


def test_the_pull_is_the_gradient_of_the_penalty():
    module, anchor = network(), Anchor()
    slopes = [torch.ones_like(one) for one in module.parameters()]
    assert flat(anchor.pull(module, slopes, 3.0)).eq(1).all()
    importance = [normal(*one.shape, seed=5).square() for one in module.parameters()]
    anchor.move(module, importance)
    anchor.move(module, importance)
    where = flat(module.parameters())
    for number, one in enumerate(module.parameters()):
        one.data += normal(*one.shape, seed=number)
    weights = flat(module.parameters()).requires_grad_()
    penalty = 3.0 / 2 * (2 * flat(importance) * (weights - where).square()).sum()
    expected = torch.autograd.grad(penalty, weights)[0]
    torch.testing.assert_close(flat(anchor.pull(module, slopes, 3.0)), expected + 1)


class Quadratic(nn.Module):
    """Outputs whose first class has the log-odds that a task turns into a quadratic loss."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        energy = (inputs * self.weights.square()).sum(1) / 2
        return torch.stack([-energy, (-torch.expm1(-energy)).log()], 1)  # -log p of class 0 is the energy


def test_the_path_integral_on_a_quadratic_is_what_each_weight_lowered_the_loss_by():
    """Of `L = sum_i c_i w_i^2 / 2` each weight has its own part, and the sum over small steps is near its change."""
    curvature = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    module = Quadratic()
    task = Task("quadratic", curvature.expand(4, 3), torch.zeros(4, dtype=torch.int64))
    before = module.weights.detach().clone()
    course = SI(damping=0.1).begin(module, generator())
    course.train(task, ((task.inputs, task.labels) for _ in range(200)))
    after = module.weights.detach().clone()
    course.consolidate(task)
    lowered = curvature * (before.square() - after.square()) / 2
    expected = lowered.clamp(min=0) / ((after - before).square() + 0.1)
    torch.testing.assert_close(flat(course.anchor.importance), expected, rtol=2e-3, atol=0)
    assert torch.equal(course.anchor.weights[0], after)


def test_the_line_integral_on_a_quadratic_is_exact_and_adds_up():
    curvature = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    module = Quadratic()
    task = Task("quadratic", curvature.expand(4, 3), torch.zeros(4, dtype=torch.int64))
    (credit,) = line_integral(module, task, generator())
    torch.testing.assert_close(credit, -curvature * module.weights.detach().square() / 2)


def test_divergence_is_nothing_between_equals_and_the_sum_over_classes_else():
    ours, theirs = normal(5, 4), normal(5, 4, seed=1)
    assert abs(float(divergence(ours, ours, 2.0))) < 1e-15
    p, q = (theirs / 2).softmax(1), (ours / 2).softmax(1)
    torch.testing.assert_close(divergence(ours, theirs, 2.0), 4 * (p * (p / q).log()).sum(1).mean())


def test_earlier_classes_are_distilled_together_or_head_by_head():
    outputs, old = normal(5, 6), normal(5, 6, seed=1)
    for scenario, groups in (("class", [[0, 1, 2, 3]]), ("task", [[0, 1], [2, 3]]), ("domain", [[0, 1]])):
        course = LwF().begin(network(), generator())
        for task in tasks(scenario)[:2]:
            course.consolidate(task)
        expected = sum(divergence(outputs[:, group], old[:, group], 2.0) for group in groups)
        torch.testing.assert_close(course.divergence(outputs, old), expected)


# Projections


def linear(bias: bool) -> nn.Module:
    return made(nn.Linear(12, 3, bias=bias))


@pytest.mark.parametrize("bias", [False, True])
def test_ogd_leaves_the_true_outputs_of_a_linear_model_at_stored_inputs(bias: bool):
    """A learner that stores all examples of the first task, fewer than the weights of each output."""
    module = linear(bias)
    old = Task("old", normal(9, 12), torch.arange(9) % 3)
    new = Task("new", normal(30, 12, seed=1), torch.arange(30) % 3)
    after = learnt(OGD(rate=0.1), [old, new], module, num_iterations=50, first=1).module
    chosen = torch.arange(9), old.labels
    torch.testing.assert_close(after(old.inputs)[chosen], module(old.inputs)[chosen])
    assert_above(((after(new.inputs) - module(new.inputs)).norm() / module(new.inputs).norm()).log(), -4)


@pytest.mark.parametrize("bias", [False, True])
def test_gpm_leaves_a_linear_model_at_stored_inputs(bias: bool):
    module = linear(bias)
    old = Task("old", normal(9, 12), torch.arange(9) % 3)
    new = Task("new", normal(30, 12, seed=1), torch.arange(30) % 3)
    after = learnt(GPM(threshold=1.0), [old, new], module, num_iterations=50, first=1).module
    torch.testing.assert_close(after(old.inputs), module(old.inputs))
    assert_above(((after(new.inputs) - module(new.inputs)).norm() / module(new.inputs).norm()).log(), -4)


def test_gpm_leaves_a_convolution_at_stored_inputs_and_frees_the_last_layer_where_tasks_have_heads():
    module = made(nn.Conv2d(1, 4, 3, padding=1, stride=2, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 6))
    old = Task("old", normal(1, 1, 7, 7), torch.tensor([1]), columns(0), heads=True)
    new = Task("new", normal(20, 1, 7, 7, seed=1), torch.arange(20) % 2, columns(2), heads=True)
    after = learnt(GPM(threshold=1.0, rate=0.05), [old, new], module, num_iterations=20, first=1)
    torch.testing.assert_close(after.module[0](old.inputs), module[0](old.inputs))
    torch.testing.assert_close(after.module(old.inputs)[:, :2], module(old.inputs)[:, :2])
    last, before = after.module[-1].weight[2:4], module[-1].weight[2:4]
    assert_above(((last - before).norm() / before.norm()).log(), -4)
    assert after.memory_bytes % (10 * 8) == 0  # of patches of 9 and a 1, nothing of the last layer


def test_bases_are_orthonormal_and_hold_what_they_should():
    rows = normal(40, 10) @ torch.diag(torch.logspace(0, -3, 10, dtype=torch.float64))
    early, late = rows[:20], rows[20:] @ normal(10, 10, seed=1)
    once = extended(None, early, 0.9)
    twice = extended(once, late, 0.99)
    for basis in (once, twice):
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))
    torch.testing.assert_close(twice @ (twice.T @ once), once)  # what was held stays
    for basis, seen, fraction in ((once, early, 0.9), (twice, late, 0.99)):
        assert (seen @ basis).square().sum() >= fraction * seen.square().sum()
    singular = torch.linalg.svdvals(early).square()
    assert once.shape[1] == int((singular.cumsum(0) < 0.9 * singular.sum()).sum()) + 1
    assert extended(None, early, 1.0).shape == (10, 10)
    assert extended(extended(None, early, 1.0), late, 1.0).shape == (10, 10)
    assert extended(once, early[:0].new_zeros(3, 10), 0.9).shape == once.shape


def test_what_is_spanned_is_left_out_of_vectors():
    rows = normal(6, 20)[[0, 1, 2, 3, 0]]
    basis = spanned(rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64))
    assert outside(rows, [basis]).abs().max() < 1e-12
    assert spanned(rows[:2], [basis]).shape == (0, 20)
    more = spanned(normal(3, 20, seed=1), [basis])
    assert (more @ basis.T).abs().max() < 1e-12


def test_the_kronecker_fisher_of_one_layer_is_that_of_its_inputs_and_outputs():
    module, inputs = made(nn.Linear(4, 3)), normal(50, 4)
    (layer,) = layers_of(module)
    fisher = kronecker_fisher(module, [layer], identity, inputs)[layer]
    probabilities = module(inputs).softmax(1).detach()
    expected = torch.diag(probabilities.mean(0)) - probabilities.T @ probabilities / 50
    torch.testing.assert_close(fisher.left, expected)
    ones = torch.cat([inputs, torch.ones(50, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(fisher.right, ones.T @ ones / 50)
    exact = flat(fisher_diagonal(module, identity, inputs[:1]))
    (one,) = kronecker_fisher(module, [layer], identity, inputs[:1]).values()
    torch.testing.assert_close(exact, torch.cat([layer_diagonal(one)[:, :4].flatten(), layer_diagonal(one)[:, 4]]))


def layer_diagonal(product: Kronecker) -> Tensor:
    return torch.outer(product.left.diagonal(), product.right.diagonal())


def test_convolutions_have_the_fisher_matrix_of_a_linear_layer_where_their_kernel_is_the_image():
    images = normal(20, 2, 3, 3)
    conv, dense = made(nn.Conv2d(2, 4, 3), nn.Flatten()), made(nn.Flatten(), nn.Linear(18, 4))
    with torch.no_grad():
        dense[1].weight.copy_(conv[0].weight.flatten(1))
        dense[1].bias.copy_(conv[0].bias)
    (one,), (two,) = (kronecker_fisher(each, layers_of(each), identity, images).values() for each in (conv, dense))
    torch.testing.assert_close(one.left, two.left)
    torch.testing.assert_close(one.right, two.right)


def test_the_rows_of_a_layer_times_its_weights_are_its_outputs():
    for module, inputs in ((nn.Linear(5, 3), normal(4, 2, 5)), (nn.Conv2d(2, 3, (2, 3), 2, 1, 2), normal(4, 2, 8, 9))):
        layer = Layer(module.double())
        weights = torch.cat([one.reshape(3, -1) for one in layer.parameters], 1)
        torch.testing.assert_close(layer.rows(inputs) @ weights.T, layer.places(module(inputs)))


def psd(size: int, seed: int) -> Tensor:
    rows = normal(2 * size, size, seed=seed)
    return rows.T @ rows


def test_the_natural_preconditioner_is_the_inverse_of_the_dense_precision():
    """And the nearest product to a sum is the sum, where that is a product."""
    module, task = made(nn.Linear(4, 3)), Task("one", normal(50, 4), torch.arange(50) % 3)
    learner = NCL(prior=0.1)
    course = learner.begin(module, generator())
    course.consolidate(task)
    (layer,) = course.layers
    precision = course.precisions[layer]
    dense = torch.kron(precision.left, precision.right)
    slope = normal(3, 5)
    expected = torch.linalg.solve(dense, slope.flatten()).view(3, 5)
    torch.testing.assert_close(precision.inverse() @ slope, expected)
    fisher = kronecker_fisher(module, [layer], identity, task.inputs)[layer]
    one = torch.eye(15, dtype=torch.float64)
    exact = 0.1 * one + torch.kron(fisher.left, fisher.right)
    naive = exact.diagonal().mean() * one
    assert_below(gaussian_divergence(dense, exact) / gaussian_divergence(naive, exact), 1)
    left, right, other = psd(3, 1), psd(5, 2), psd(5, 3)
    total = Kronecker(left, right).plus(Kronecker(2 * left, other))
    torch.testing.assert_close(torch.kron(total.left, total.right), torch.kron(left, right + 2 * other))


def gaussian_divergence(precision: Tensor, other: Tensor) -> float:
    """`KL(N(0, precision^-1) || N(0, other^-1))`."""
    ratio = torch.linalg.solve(precision, other)
    return float(ratio.trace() - ratio.logdet() - len(ratio)) / 2


def test_no_small_change_brings_the_nearest_product_nearer():
    one, two = Kronecker(psd(3, 1), psd(4, 2)), Kronecker(psd(3, 3), psd(4, 4))
    total = one.plus(two, num_rounds=60)
    exact = torch.kron(one.left, one.right) + torch.kron(two.left, two.right)
    left, right = total.left.clone().requires_grad_(), total.right.clone().requires_grad_()
    ratio = torch.linalg.solve(torch.kron(left, right), exact)
    slopes = torch.autograd.grad(ratio.trace() - ratio.logdet(), (left, right))
    assert_below(max(float(slope.abs().max()) for slope in slopes), 1e-9)


def test_a_step_of_ncl_is_the_natural_one():
    module, (old, new, _) = made(nn.Linear(8, 6)), tasks("class")
    course = NCL(rate=0.5, momentum=0.0, prior=0.1).begin(module, generator())
    course.consolidate(old)
    with torch.no_grad():
        for one in module.parameters():
            one += 0.05 * torch.ones_like(one)
    weights = torch.cat([module[0].weight, module[0].bias[:, None]], 1)
    slope = torch.cat(
        [
            one.reshape(6, -1)
            for one in torch.autograd.grad(new.loss(module, new.inputs, new.labels), [*module.parameters()])
        ],
        1,
    )
    (precision,) = course.precisions.values()
    inverse = torch.kron(precision.left, precision.right).inverse()
    step = 0.1 * ((inverse @ slope.flatten()).view(6, 9) + 0.05)
    expected = weights.detach() - 0.5 * step
    course.train(new, once(new))
    torch.testing.assert_close(torch.cat([module[0].weight, module[0].bias[:, None]], 1).detach(), expected)


def once(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    yield task.inputs, task.labels


def test_other_parameters_than_those_of_layers_have_no_gradient():
    module = cnn()
    slopes = [torch.ones_like(one) for one in module.parameters()]
    changed = by_layer(module, layers_of(module), slopes, lambda _, slope: 2 * slope)
    expected = [0.0 if name.startswith("1.") else 2.0 for name, _ in module.named_parameters()]
    assert [float(one.max()) for one in changed] == [float(one.min()) for one in changed] == expected
    assert copy.deepcopy(module)(torch.zeros(2, 1, 6, 6)).shape == (2, 6)
