"""Choice of the mixture of an accurate and a robust classifier, without an attack on any mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.geometry import class_logits
from fipray.networks.arrays import Embedded, Labels
from fipray.robustness.ensembles import averaged
from fipray.robustness.margin import correct

WEIGHTS = (0.51, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Weights of the robust classifier that `mixture` tries."""
TEMPERATURES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Temperatures of the robust classifier that `mixture` tries."""


@dataclass(frozen=True)
class Mixture:
    """Mixture of an accurate and a robust classifier, in this order, as `mixture` chose it.

    Args:
        weights: weights of the two, which sum to 1; for `Ensemble` and `fip.EnsembleSpec`.
        temperatures: temperatures of the two; that of the accurate one is 1.
        clean_accuracy: clean accuracy of the mixture on the inputs that it was chosen on, 0..1.
        robust_accuracy: fraction of these inputs, 0..1, on which the mixture is right whatever the accurate classifier
            says, as far as the attack on the robust one found the worst inputs.
    """

    weights: tuple[float, float]
    temperatures: tuple[float, float]
    clean_accuracy: float
    robust_accuracy: float


@checked
def mixture(
    accurate: Embedded,
    robust: Embedded,
    attacked: Sequence[Tensor],
    labels: Labels,
    *,
    loss: float = 0.01,
    weights: tuple[float, ...] = WEIGHTS,
    temperatures: tuple[float, ...] = TEMPERATURES,
) -> Mixture:
    """Choose the weights and the temperature that mix an accurate classifier with a robust one.

    With outputs g of the accurate and h of the robust classifier the mixture is

        log((1 - a) softmax(g(x)) + a softmax(h(x) / T)),    1/2 < a < 1,

    an `Ensemble` of the two. Where h's largest probability at temperature T exceeds the next one by more than
    (1 - a) / a, nothing that g says changes the class (Bai et al. 2023, adaptive smoothing). An input counts as robust
    if h is right with such a margin on the clean input and on all inputs that the attacks made. Of all a and T for
    which the fraction of these is at least h's own robust accuracy less `loss`, those with the highest clean accuracy
    are chosen; of equals, those with more robust inputs. After MixedNUTS (Bai et al. 2024), which transforms the logits
    of h by more than a temperature.

    Attacks see h alone, once: an attack on the mixture itself can change no input that counts as robust, unless it
    finds one on which h's margin is smaller than any that was found. So the estimate is as good as the attacks on h.
    Use `PGD` and `TargetedPGD`, with `until_fooled` false, on h and on h at a low temperature, such as
    `lambda inputs: h(inputs) / 0.1`: the margin that attacks descend sums over all wrong classes, and only at a low
    temperature is it that of the likeliest one. On small networks for digits, attacks on h at temperature 1 alone
    missed inputs of small margin, and the estimate was up to 4 points too high; with both it was not too high on any of
    12.

    The choice is made on these inputs: choose on held-out inputs, and judge the mixture on others, under attacks on the
    mixture. Its own gradient, which these follow, vanishes where both classifiers are confident and disagree: add
    `OnLogits` and `ReweighedPGD`.

    Costs no pass of a network, and a few operations on arrays [N, C] for each pair of weight and temperature.

    Args:
        accurate: outputs of the accurate classifier [N, C] on clean inputs, logits or log-probabilities.
        robust: outputs of the robust classifier [N, C] on the same inputs, logits.
        attacked: outputs of the robust classifier [N, C], logits at temperature 1, on the inputs that attacks on it
            made of them, one array an attack, at least one.
        labels: classes [N]; without labels, the accurate classifier's predictions on the clean inputs.
        loss: robust accuracy that the mixture may lose, 0..1.
        weights: weights a of the robust classifier to try, above 1/2 and below 1.
        temperatures: temperatures T of the robust classifier to try, finite and above 0.

    Returns:
        The mixture.

    Raises:
        DataError: for outputs whose shapes do not fit or with NaN, and labels that are no classes.
        UsageError: for a number out of range, a loss of all robust accuracy, and where no pair of the grid keeps enough
            of it.
    """
    accurate, robust = class_logits(accurate), class_logits(robust)
    seen = [robust, *(class_logits(each) for each in attacked)]
    _check(accurate, seen, labels)
    _check_grid(loss, weights, temperatures)
    # argmax, as for accuracies elsewhere: equal outputs are the first class.
    own = torch.stack([correct(each, labels) for each in seen]).all(0).double().mean().item()
    if own <= loss:
        raise UsageError(
            f"the robust classifier has a robust accuracy of {own:.4f} under these attacks, and loss={loss:g} would "
            "let a mixture lose all of it: give a smaller loss, or attacks of a smaller epsilon"
        )
    tried: list[Mixture] = []
    for temperature in temperatures:
        margin = torch.stack([_probability_margins(each / temperature, labels) for each in seen]).amin(0)
        both = torch.stack([accurate, robust / temperature])
        for weight in weights:
            fractions = (1 - weight, weight)
            clean = correct(averaged(both, "probabilities", fractions), labels)
            withstands = margin > (1 - weight) / weight
            accuracies = (float(each.double().mean()) for each in (clean, withstands))
            tried.append(Mixture(fractions, (1.0, temperature), *accuracies))
    least = own - loss
    # A fraction of N inputs may be the least one up to the rounding of a difference.
    kept = [each for each in tried if each.robust_accuracy >= least - 1e-9]
    if not kept:
        best = max(tried, key=lambda each: each.robust_accuracy)
        raise UsageError(
            f"no mixture keeps a robust accuracy of {least:.4f}, that of the robust classifier ({own:.4f}) less "
            f"loss={loss:g}; the most is {best.robust_accuracy:.4f}, with weight {best.weights[1]:g} and temperature "
            f"{best.temperatures[1]:g}. Allow a larger loss, or add weights closer to 1 or lower temperatures"
        )
    return max(kept, key=lambda each: (each.clean_accuracy, each.robust_accuracy))


def _probability_margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Probability of the label less that of the likeliest other class [N], -1..1."""
    # In double precision: the largest thresholds differ from 1 by less than float32 can tell.
    probabilities = outputs.double().softmax(1)
    others = probabilities.scatter(1, labels[:, None], -1.0).amax(1)
    return probabilities.gather(1, labels[:, None]).squeeze(1) - others


def _check(accurate: Tensor, seen: Sequence[Tensor], labels: Tensor) -> None:
    if len(seen) == 1:
        raise DataError(
            "attacked is empty: give the robust classifier's outputs on inputs that an attack on it made, such as "
            "attacked=[h(attack.perturb(h, inputs, labels, threat_model, generator))]"
        )
    shapes = [tuple(each.shape) for each in (accurate, *seen)]
    if len({*shapes}) > 1 or len(shapes[0]) != 2 or labels.shape != accurate.shape[:1] or not len(labels):
        raise DataError(
            f"outputs of the accurate classifier have shape {shapes[0]}, those of the robust one {shapes[1]} and on "
            f"attacked inputs {', '.join(map(str, shapes[2:]))}, labels {tuple(labels.shape)}: give [N, C] for the "
            "same N inputs, N at least 1, and [N]"
        )
    if any(bool(each.isnan().any()) for each in (accurate, *seen)):
        raise DataError("outputs hold NaN: leave these inputs out, or repair the network")
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= shapes[0][1]:
        raise DataError(
            f"the labels range over {smallest}..{largest}, and the classes are 0..{shapes[0][1] - 1}: give labels in "
            "this range"
        )


def _check_grid(loss: float, weights: tuple[float, ...], temperatures: tuple[float, ...]) -> None:
    if not 0 <= loss <= 1:
        raise UsageError(f"loss is {loss}: give the robust accuracy that the mixture may lose, 0..1")
    if not weights or not all(0.5 < each < 1 for each in weights):
        raise UsageError(
            f"weights are {weights}: give weights of the robust classifier above 1/2 and below 1; at 1/2 or below the "
            "accurate one can overrule it on any input"
        )
    if not temperatures or not all(0 < each < float("inf") for each in temperatures):
        raise UsageError(f"temperatures are {temperatures}: give finite numbers above 0")
