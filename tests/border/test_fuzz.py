"""A small fraction of the generated calls of benchmarks.faults.fuzz."""

from benchmarks.faults.fuzz.calling import fuzz


def test_generated_calls_are_right_or_refused_on_purpose():
    tallies = fuzz(60, seed=0, without=("plot_", "front", "transfer_heat_maps", "aligned"))
    assert sum(sum(tally.counts) for tally in tallies.values()) >= 60
    assert {name: tally.examples for name, tally in tallies.items() if tally.wrong or tally.raw} == {}
    assert sum(tally.right for tally in tallies.values()) >= 15
