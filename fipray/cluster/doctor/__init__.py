"""Diagnosis of a machine, a cluster and a results directory before a run (`fipray doctor`)."""

from fipray.cluster.doctor.checks import Finding, examine

__all__ = ["Finding", "examine"]
