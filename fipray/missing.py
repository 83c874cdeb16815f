"""Packages that come with extras of fipray, and what to install where one is missing."""

from __future__ import annotations

import importlib.util

from fipray.errors import MissingPackageError

EXTRAS = {  # the extra that brings each top-level package
    "alembic": "mlflow",
    "boto3": "aws",
    "mlflow": "mlflow",
    "optuna": "search",
    "platformdirs": "examples",
    "pyautoattack": "attacks",
    "ray": "ray",
    "scipy": "torch",
    "sklearn": "examples",
    "sqlalchemy": "mlflow",
    "tensorboardX": "tensorboard",
    "torch": "torch",
    "torchvision": "examples",
    "wandb": "wandb",
}


def require(package: str, what: str) -> None:
    """Check that a package is installed, without importing it.

    Args:
        package: name of the package.
        what: what needs it, such as "TensorBoard".

    Raises:
        MissingPackageError: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        missing = explained(ModuleNotFoundError(name=package), what)
        raise missing or MissingPackageError(f"{what} needs {package}, which is not installed", name=package)


def explained(error: ImportError, what: str) -> MissingPackageError | None:
    """Explain a failed import by the extra that is not installed.

    Args:
        error: the failed import.
        what: what was asked for, such as "fipray.trace".

    Returns:
        An error with the command that installs the package; None where it is not a package of an extra.
    """
    package = (error.name or "").partition(".")[0]
    # A package that is there and broken, such as by a missing library of the system, says itself what is wrong.
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
        return None
    return MissingPackageError(
        f"{what} needs {package}, which is not installed: pip install 'fipray[{EXTRAS[package]}]'", name=package
    )
