"""Rows about evaluated networks and ensembles: attacks, transfer of attacks, calibration and diversity."""

from typing import Annotated

from fipray.records.tables import fields
from fipray.records.tables.columns import Field, Table, row

_PAIRS = "mean over pairs of members; null for a single network"


@row
class RobustnessRow:
    """One row per network, attack and threat model: clean and robust accuracy."""

    study: fields.Study
    robustness_id: Annotated[str, Field("hash of the evaluated network and of the evaluation")]
    name: fields.NetworkName
    kind: fields.NetworkKind
    num_members: fields.NumMembers
    attack: fields.Attack
    norm: fields.Norm
    epsilon: fields.Epsilon
    num_examples: fields.NumExamples
    clean_accuracy: Annotated[float, Field("accuracy on the unperturbed examples", fields.FRACTION)]
    robust_accuracy: Annotated[
        float, Field("fraction of examples classified correctly under the attack", fields.FRACTION)
    ]
    sparsity: Annotated[float | None, Field("fraction of weights that are zero; null for an ensemble", fields.FRACTION)]
    functional_distance_held_out: Annotated[
        float | None,
        Field("functional distance to the base network on held-out inputs; null if not finite", fields.RADIAN),
    ]
    accuracy_loss_held_out: Annotated[
        float | None,
        Field(
            "loss of accuracy since the base network on held-out inputs, estimated where these have no labels, plus "
            "one standard error; null for values and if not finite",
            unit="-1..1",
        ),
    ]
    nll_loss_held_out: Annotated[
        float | None,
        Field(
            "rise of the negative log-likelihood since the base network on labelled held-out inputs, plus one standard "
            "error; null without labels and if not finite",
            unit="nat, signed",
        ),
    ]
    warnings: Annotated[
        str | None, Field("signs of gradient masking, for attack `worst`; empty if none, null if not checked")
    ]
    seconds: fields.Seconds
    attempt: fields.Attempt
    host: fields.Host


@row
class PerExampleRow:
    """One row per network, attack and range of examples: whether each example is classified correctly."""

    study: fields.Study
    per_example_id: Annotated[str, Field("hash of the attacked network and of the attack")]
    name: fields.NetworkName
    attack: fields.Attack
    norm: fields.Norm
    epsilon: fields.Epsilon
    first_example: Annotated[int, Field("index of the first of these examples in the test inputs, from 0")]
    num_examples: Annotated[int, Field("number of consecutive examples")]
    clean: Annotated[list[bool], Field("whether each unperturbed example is classified correctly")]
    robust: Annotated[list[bool], Field("whether each example is classified correctly under the attack")]
    seconds: fields.Seconds
    attempt: fields.Attempt
    host: fields.Host


@row
class TransferRow:
    """One row per pair of networks: accuracy of the target on adversarial examples made on the source."""

    study: fields.Study
    transfer_id: Annotated[str, Field("hash of the evaluated networks and of the evaluation")]
    source: Annotated[str, Field("name of the network that the adversarial examples were made on")]
    target: Annotated[str, Field("name of the network that was evaluated on them")]
    attack: fields.Attack
    norm: fields.Norm
    epsilon: fields.Epsilon
    num_examples: fields.NumExamples
    accuracy: Annotated[float, Field("fraction of the examples that the target classifies correctly", fields.FRACTION)]
    seconds: fields.Seconds
    attempt: fields.Attempt
    host: fields.Host


@row
class MeasuresRow:
    """One row per network: accuracy, calibration and diversity on unperturbed examples."""

    study: fields.Study
    measures_id: Annotated[str, Field("hash of the measured network and of the evaluation")]
    name: fields.NetworkName
    kind: fields.NetworkKind
    num_members: fields.NumMembers
    num_examples: Annotated[int, Field("number of examples that were used")]
    clean_accuracy: Annotated[float, Field("accuracy on the examples", fields.FRACTION)]
    nll: Annotated[float, Field("negative log-likelihood of the labels, mean over examples", "nat")]
    expected_calibration_error: Annotated[
        float, Field("mean gap of confidence and accuracy over 15 bins of equal width", fields.FRACTION)
    ]
    brier: Annotated[
        float, Field("Brier score: squared distance of probabilities to the one-hot label, mean over examples", "0..2")
    ]
    selective_accuracy_80: Annotated[
        float, Field("accuracy on the most confident 80 % of the examples", fields.FRACTION)
    ]
    selective_accuracy_90: Annotated[
        float, Field("accuracy on the most confident 90 % of the examples", fields.FRACTION)
    ]
    aurc: Annotated[float, Field("area under the risk-coverage curve; lower is better", fields.FRACTION)]
    ood_auroc: Annotated[
        float | None,
        Field(
            "area under the ROC curve of confidence, test against out-of-distribution inputs; null without these",
            "0..1",
        ),
    ]
    coherence: Annotated[float | None, Field(f"cosine similarity of input gradients, {_PAIRS}", "cosine -1..1")]
    disagreement: Annotated[
        float | None, Field(f"fraction of examples predicted differently, {_PAIRS}", fields.FRACTION)
    ]
    q_statistic: Annotated[
        float | None, Field(f"Yule's Q of errors, {_PAIRS}, NaN if undefined", "-1..1", undefined=True)
    ]
    kappa: Annotated[
        float | None, Field(f"Cohen's kappa of correctness, {_PAIRS}, NaN if undefined", "-1..1", undefined=True)
    ]
    seconds: fields.Seconds
    attempt: fields.Attempt
    host: fields.Host


_THREAT = ("attack", "norm", "epsilon")
ROBUSTNESS = Table.of("robustness", RobustnessRow, key=("robustness_id", "name", *_THREAT))
PER_EXAMPLE = Table.of("per_example", PerExampleRow, key=("per_example_id", "name", *_THREAT, "first_example"))
TRANSFER = Table.of("transfer", TransferRow, key=("transfer_id", "source", "target", *_THREAT))
MEASURES = Table.of("measures", MeasuresRow, key=("measures_id", "name"))
