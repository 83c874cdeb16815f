"""Detection of a lost control process."""

from __future__ import annotations

from itertools import count

import pytest

import fipray as fip
from fipray.cluster.monitor import REFUSED_SECONDS, SILENT_SECONDS, ClusterMonitor
from fipray.cluster.resources import WorkerResources


@pytest.mark.parametrize(("is_refused", "seconds"), [(True, REFUSED_SECONDS), (False, SILENT_SECONDS)])
def test_monitor_takes_a_silent_control_process_for_lost_after_seconds(ray_session, is_refused, seconds):
    clock = count()
    monitor = ClusterMonitor(WorkerResources(), clock=lambda: float(next(clock)))
    monitor._is_refused = is_refused
    for _ in range(int(seconds)):
        monitor.check()
    with pytest.raises(fip.errors.ClusterLostError, match="run the same command again to resume"):
        monitor.check()


def test_monitor_of_a_suspended_driver_takes_nothing_for_lost(ray_session):
    clock = count(step=60)
    monitor = ClusterMonitor(WorkerResources(), clock=lambda: float(next(clock)))
    monitor.check()
    monitor.check()
