"""Shared by the benchmarks: timing, rates, and a closing table of libraries side by side.

pytest benchmarks                              everything, with the libraries that are installed
pytest benchmarks --benchmark-json=out.json    every sample, with rates in extra_info
pytest benchmarks --benchmark-disable          only the checks, one call each
"""

import time

import pytest
from calls import floor_seconds

import fastnn
from fastnn.curve_report import markdown
from fastnn.floor import measure_probe

PAUSE = 0.1  # seconds until another library's threads have stopped spinning
RESULTS = {}  # seconds, by group and library
RATES = {}  # of fastnn, by group


@pytest.fixture(scope="session")
def probe():
    """What this machine can do with the threads in use."""
    return measure_probe()


@pytest.fixture
def timed(benchmark, probe):
    """Times a call: timed(call, group, library, flops=..., nbytes=...)."""

    def run(call, group, library, flops=0, nbytes=0, floor=0.0):
        benchmark.group = group
        time.sleep(PAUSE)
        benchmark(call)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median
        floor = floor or floor_seconds(probe, flops, nbytes)
        rates = {}
        if floor:
            rates["share_of_floor"] = floor / seconds
        if flops:
            rates["gflops"] = flops / seconds * 1e-9
        if nbytes:
            rates["gbs"] = nbytes / seconds * 1e-9
        benchmark.extra_info.update(rates, library=library)
        RESULTS.setdefault(group, {})[library] = seconds
        if library == "fastnn":
            RATES[group] = rates

    return run


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["fastnn"] = fastnn.show_config("dicts")
    machine_info["probe"] = vars(measure_probe())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """A line a group: fastnn's time and rates, other libraries' times, the best one's ratio."""
    if not RESULTS:
        return
    others = sorted({name for times in RESULTS.values() for name in times} - {"fastnn"})
    titles = ["", "fastnn us", "GFLOP/s", "GB/s", "share", *(f"{name} us" for name in others)]
    lines = []
    for group, times in RESULTS.items():
        rates = RATES.get(group, {})
        cells = [group, us(times.get("fastnn"))]
        cells += [number(rates.get(name), 1) for name in ("gflops", "gbs")]
        cells += [number(rates.get("share_of_floor"), 2), *(us(times.get(x)) for x in others)]
        peers = [seconds for name, seconds in times.items() if name != "fastnn"]
        ratio = min(peers) / times["fastnn"] if peers and "fastnn" in times else None
        lines.append([*cells, number(ratio, 2)])
    terminalreporter.section("fastnn and other libraries, medians")
    terminalreporter.write_line(markdown([*titles, "best / fastnn"], lines))


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def us(seconds):
    return (
        ""
        if seconds is None
        else f"{seconds * 1e6:.3g}"
        if seconds < 1e-3
        else f"{seconds * 1e6:.0f}"
    )
