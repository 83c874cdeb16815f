"""Commands on clusters."""

from __future__ import annotations

from typing import Annotated

import typer

from fipray.cli.options import Address, checked_place


def doctor(
    into: Annotated[
        str | None,
        typer.Option(
            callback=checked_place,
            help="Results directory to check, or an address such as s3://bucket/results.",
            show_default="none",
        ),
    ] = None,
    address: Address = None,
) -> None:
    """Check everything that a run needs: versions, GPUs, the cluster, its token, and access to the results directory.

    The exit status is 1 if something would make a run fail.

    Args:
        into: results directory to check; None for none.
        address: address of a Ray cluster; None for RAY_ADDRESS.
    """
    from fipray.cluster.doctor import examine
    from fipray.terminal import print_findings

    if not print_findings(examine(address, into)):
        raise SystemExit(1)
