"""Rows of every table for tests, made by their row classes."""

from typing import Any

from fipray.records import as_mapping
from fipray.records.tables import (
    MeasuresRow,
    PathRow,
    PerExampleRow,
    PointDistanceRow,
    PointMeasureRow,
    PointRow,
    RobustnessRow,
    RoundRow,
    TaskRow,
    TransferRow,
    TrialRow,
    VariantRow,
)

STUDY = "made-up"


def path_row(path_id: str, name: str = "sparse", attempt: int = 1, **changes: Any) -> dict[str, Any]:
    row = PathRow(
        study=STUDY,
        path_id=path_id,
        name=name,
        start="base",
        parent_path_id=None,
        anchor_bytes=4096,
        memory_bytes=0,
        seed=0,
        objective="sparsify",
        stepper="natural",
        spec_json="{}",
        outcome="completed: all 3 steps were walked",
        outcome_kind="completed",
        num_steps=2,
        sparsity=0.5,
        functional_distance=0.01,
        functional_distance_held_out=0.02,
        objective_value=1.0,
        objective_start=3.0,
        objective_end=1.0,
        accuracy_collapsed_step=None,
        warnings="",
        clean_accuracy=0.75,
        weights_file=None,
        weights_sha256=None,
        walk_seconds=1.5,
        attempt=attempt,
        host="here",
        node_id=None,
        worker_id=None,
        device="cpu",
    )
    return as_mapping(row) | changes


def point_rows(
    path_id: str, name: str = "sparse", attempt: int = 1, num_points: int = 3, **changes: Any
) -> list[dict[str, Any]]:
    return [
        as_mapping(
            PointRow(
                study=STUDY,
                path_id=path_id,
                name=name,
                step=step,
                sparsity=0.25 * step / num_points,
                functional_distance=0.01 * step,
                functional_distance_held_out=0.02 * step,
                objective_value=3.0 - step / num_points,
                gain=step / num_points,
                radius=0.1 if step else None,
                weights_distance=0.1 * step,
                clean_accuracy=0.75,
                seconds=0.5 * step,
                weights_file=None,
                weights_sha256=None,
                attempt=attempt,
            )
        )
        | changes
        for step in range(num_points)
    ]


def robustness_row(robustness_id: str, name: str, kind: str, attack: str, **changes: Any) -> dict[str, Any]:
    row = RobustnessRow(
        study=STUDY,
        robustness_id=robustness_id,
        name=name,
        kind=kind,
        num_members=1,
        attack=attack,
        norm="linf",
        epsilon=0.1,
        num_examples=500,
        clean_accuracy=0.98,
        robust_accuracy=0.5,
        sparsity=0.0,
        functional_distance_held_out=0.0,
        accuracy_loss_held_out=0.01,
        nll_loss_held_out=-0.01,
        warnings=None,
        seconds=2.0,
        attempt=1,
        host="here",
    )
    return as_mapping(row) | changes


def measures_row(measures_id: str, name: str, kind: str, **changes: Any) -> dict[str, Any]:
    row = MeasuresRow(
        study=STUDY,
        measures_id=measures_id,
        name=name,
        kind=kind,
        num_members=1,
        num_examples=10_000,
        clean_accuracy=0.98,
        nll=0.07,
        expected_calibration_error=0.012,
        brier=0.03,
        selective_accuracy_80=0.999,
        selective_accuracy_90=0.997,
        aurc=0.001,
        ood_auroc=0.96,
        coherence=None,
        disagreement=None,
        q_statistic=None,
        kappa=None,
        seconds=0.5,
        attempt=1,
        host="here",
    )
    return as_mapping(row) | changes


def per_example_row(per_example_id: str, name: str, attack: str, **changes: Any) -> dict[str, Any]:
    row = PerExampleRow(
        study=STUDY,
        per_example_id=per_example_id,
        name=name,
        attack=attack,
        norm="linf",
        epsilon=0.1,
        first_example=0,
        num_examples=3,
        clean=[True, True, False],
        robust=[True, False, False],
        seconds=2.0,
        attempt=1,
        host="here",
    )
    return as_mapping(row) | changes


def transfer_row(transfer_id: str, source: str, target: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    row = TransferRow(
        study=STUDY,
        transfer_id=transfer_id,
        source=source,
        target=target,
        attack="pgd-20x1",
        norm="linf",
        epsilon=0.1,
        num_examples=500,
        accuracy=accuracy,
        seconds=1.0,
        attempt=1,
        host="here",
    )
    return as_mapping(row) | changes


def round_row(round_id: str, name: str = "sparse", number: int = 1, **changes: Any) -> dict[str, Any]:
    row = RoundRow(
        study=STUDY,
        round_id=round_id,
        name=name,
        round=number,
        num_rounds=3,
        step=4 * number,
        outcome="paused at step 4 of 12",
        outcome_kind="paused",
        weights_file=None,
        weights_sha256=None,
        seconds=1.5,
        attempt=1,
        host="here",
        node_id=None,
        worker_id=None,
        device="cpu",
    )
    return as_mapping(row) | changes


def trial_row(path_id: str, name: str = "sparse", attempt: int = 1, **changes: Any) -> dict[str, Any]:
    row = TrialRow(
        study=STUDY,
        path_id=path_id,
        name=name,
        trial_id="a1b2c_00003",
        config_json='{"radius.tolerance":0.1}',
        num_steps=2,
        outcome_kind="completed",
        attempt=attempt,
    )
    return as_mapping(row) | changes


def variant_row(path_id: str, name: str = "sparse", attempt: int = 1, **changes: Any) -> dict[str, Any]:
    row = VariantRow(
        study=STUDY,
        path_id=path_id,
        name=name,
        network=f"{name}@0.5",
        target_sparsity=0.5,
        step=1,
        sparsity=0.495,
        sparsity_by_layer_json='{"0.weight":0.5}',
        num_weights=103,
        non_zeros=52,
        bytes_dense=412,
        bytes_csr=400,
        bytes_2_4=None,
        multiply_adds=90,
        multiply_adds_non_zero=45,
        functional_distance_held_out=0.125,
        clean_accuracy=None,
        weights_file=None,
        weights_sha256=None,
        attempt=attempt,
    )
    return as_mapping(row) | changes


def task_row(path_id: str, name: str = "sparse", attempt: int = 1, **changes: Any) -> dict[str, Any]:
    row = TaskRow(
        study=STUDY,
        path_id=path_id,
        name=name,
        task="first",
        task_number=1,
        learned=True,
        num_examples=100,
        accuracy_at_start=0.5,
        accuracy=0.75,
        attempt=attempt,
    )
    return as_mapping(row) | changes


def measured_row(path_id: str, **changes: Any) -> dict[str, Any]:
    row = PointMeasureRow(
        study=STUDY,
        path_id=path_id,
        name=path_id,
        step=3,
        measure="viscosity",
        value=0.88,
        attempt=1,
    )
    return as_mapping(row) | changes


def distance_row(path_id: str, **changes: Any) -> dict[str, Any]:
    row = PointDistanceRow(
        study=STUDY,
        path_id=path_id,
        name=path_id,
        step=3,
        kept="energy",
        distance=0.01,
        distance_held_out=0.02,
        attempt=1,
    )
    return as_mapping(row) | changes
