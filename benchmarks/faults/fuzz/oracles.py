"""What is right about results, computed again in other ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fipray as fip

Arguments = Mapping[str, Any]
KINDS = {"completed", "out of time", "stopped", "stuck", "not finite", "paused", "given up"}


def nothing(arguments: Arguments, result: Any) -> None:
    """Nothing is known."""


def finite(arguments: Arguments, result: Any) -> None:
    """Numbers and arrays are finite, or NaN where a measure does not exist."""
    if isinstance(result, float):
        assert not math.isinf(result)
    if isinstance(result, Tensor) and result.is_floating_point():
        assert not bool(result.isinf().any())


def probabilities(outputs: Tensor) -> Any:
    z = outputs.detach().double().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def close(one: float, other: float, tolerance: float = 1e-6) -> bool:
    return abs(one - other) <= tolerance * max(1.0, abs(other))


def check_nll(arguments: Arguments, result: float) -> None:
    p, y = probabilities(arguments["outputs"]), arguments["labels"].numpy()
    with np.errstate(divide="ignore"):
        assert close(result, float(-np.log(p[np.arange(len(y)), y]).mean()), 1e-4)


def check_brier(arguments: Arguments, result: float) -> None:
    p, y = probabilities(arguments["outputs"]), arguments["labels"].numpy()
    assert close(result, float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean()))


def check_confidence(arguments: Arguments, result: Tensor) -> None:
    np.testing.assert_allclose(result.detach().numpy(), probabilities(arguments["outputs"]).max(1), rtol=1e-6)


def check_auroc(arguments: Arguments, result: float) -> None:
    inside, outside = (arguments[name].detach().double().numpy() for name in ("inside_scores", "ood_scores"))
    above, equal = inside[:, None] > outside, inside[:, None] == outside
    assert close(result, float((above + equal / 2).mean()))


def fraction(arguments: Arguments, result: float) -> None:
    assert 0 <= result <= 1


check_expected_calibration_error = check_selective_accuracy = check_aurc = fraction


def check_disagreement(arguments: Arguments, result: float) -> None:
    said = arguments["predictions"].numpy()
    pairs = [(said[i] != said[j]).mean() for i in range(len(said)) for j in range(i)]
    assert math.isnan(result) if not pairs else close(result, float(np.mean(pairs)))


def check_functional_distance(arguments: Arguments, result: Tensor) -> None:
    one, other = list(arguments.values())[:2]
    expected = math.sqrt(float((one.double() - other.double()).square().sum(1).mean()))
    assert close(float(result), expected, 1e-4) or not math.isfinite(expected)


def check_for_task(arguments: Arguments, result: Tensor) -> None:
    assert result.shape == (len(arguments["inputs"]), 1 + arguments["inputs"][0].numel())
    assert bool((result[:, 0] == arguments["task"]).all())


def check_evaluate(arguments: Arguments, result: Any) -> None:
    with torch.no_grad():
        clean = arguments["classifier"](arguments["inputs"]).argmax(1) == arguments["labels"]
    assert torch.equal(result.clean, clean)
    assert all(bool((robust <= clean).all()) for robust in result.robust.values())


def check_perturb(arguments: Arguments, result: Tensor) -> None:
    clean, threat = arguments["inputs"], arguments["threat_model"]
    change = (result - clean).flatten(1)
    length = change.abs().amax(1) if threat.norm == "linf" else change.norm(dim=1)
    assert bool((length <= threat.epsilon * (1 + 1e-4) + 1e-5).all())
    assert result.shape == clean.shape
    assert bool(((result >= threat.lower - 1e-5) & (result <= threat.upper + 1e-5)).all())


def check_network(arguments: Arguments, result: fip.Network) -> None:
    moving = sum(slot.shape.numel() for slot in result.slots)
    assert len(result.weights) == moving <= sum(one.numel() for one in arguments["module"].parameters())


def check_slimmed(arguments: Arguments, result: Any) -> None:
    given = torch.rand(3, 4)
    network, weights = arguments["network"], arguments["weights"]
    torch.testing.assert_close(result(given), network(weights, given), rtol=1e-4, atol=1e-5)


def check_aligned(arguments: Arguments, result: Tensor) -> None:
    network, inputs = arguments["network"], arguments["inputs"]
    torch.testing.assert_close(
        network(result, inputs), network(arguments["other"].to(result), inputs), rtol=1e-3, atol=1e-3
    )


def check_walk(arguments: Arguments, result: list[Any]) -> None:
    steps = [point.step for point in result]
    assert steps == sorted(steps)
    assert all(bool(torch.isfinite(point.weights).all()) for point in result)


def check_trace(arguments: Arguments, path: Any) -> None:
    """Check that a path begins at the network, with distances and sparsities recomputed in float64."""
    problem = arguments["problem"]
    network, held_out = problem.network, problem.held_out.inputs
    assert path.outcome.kind in KINDS
    assert path.outcome.sentence
    assert [point.step for point in path.points] == sorted(point.step for point in path.points)
    if not arguments.get("resume"):
        assert torch.equal(path.points[0].weights, network.weights)
    for point in path.points:
        assert bool(torch.isfinite(point.weights).all())
        assert close(point.sparsity, float((point.weights == 0).double().mean()))
        if problem.held_out.is_plain and isinstance(problem.geometry, fip.FisherRao) and held_out.is_floating_point():
            roots = [
                2 * np.sqrt(probabilities(network.module_at(weights)(held_out)))
                for weights in (network.weights, point.weights)
            ]
            expected = math.sqrt(((roots[0] - roots[1]) ** 2).sum(1).mean())
            found = point.functional_distance_held_out
            assert abs(found - expected) <= 1e-3 * expected + 1e-5 or not math.isfinite(expected), (found, expected)
        if path.outcome.kind == "completed":
            assert math.isfinite(point.functional_distance_held_out)
            assert not math.isnan(point.objective_value)
            assert not any(map(math.isnan, point.probes.values()))


def check_connect(arguments: Arguments, made: Any) -> None:
    assert torch.equal(made.points[0], arguments["problem"].start)
    assert torch.equal(made.points[-1], arguments["other"].to(made.points[0]))
    assert made.outcome.kind == (
        "connected" if made.distance <= arguments.get("allowed_distance", 0.2) else "not connected"
    )


def check_loss_profile(arguments: Arguments, made: Any) -> None:
    assert made.places[0] == 0
    assert close(made.places[-1], 1)
    assert len(made.places) == len(made.losses)
