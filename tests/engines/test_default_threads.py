"""The default number of threads: cores that may be used, and what a quota pays for."""

import os
import subprocess
import sys

import pytest

from lorakit.engines import threads
from lorakit.engines.threads import default_threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight logical CPUs on four cores, all of them allowed; files of proc and sys by path."""
    monkeypatch.setattr(threads, "_allowed", lambda: range(8))

    def make(files=()):
        place = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        siblings = {place.format(cpu): f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
        for name, text in {**siblings, **dict(files)}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "ascii")
        return tmp_path

    return make


GROUP = {"proc/self/cgroup": "0::/user/app\n"}
FIRST = {"proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/app\n1:memory:/other\n"}
TOP = "sys/fs/cgroup"
QUOTAS = [
    ({}, 4),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "max 100000\n"}, 4),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "200000 100000\n"}, 2),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "290000 100000\n"}, 2),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "50000 100000\n"}, 1),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "1600000 100000\n"}, 4),
    ({**GROUP, f"{TOP}/user/cpu.max": "100000 100000\n"}, 1),
    ({**GROUP, f"{TOP}/cpu.max": "300000 100000\n"}, 3),
    ({"proc/self/cgroup": "0::/../..\n", f"{TOP}/cpu.max": "300000 100000\n"}, 3),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "nonsense\n"}, 4),
    ({**GROUP, f"{TOP}/user/app/cpu.max": "100000 0\n"}, 4),
    ({"proc/self/cgroup": "nonsense\n"}, 4),
    (
        {
            **FIRST,
            f"{TOP}/cpu,cpuacct/app/cpu.cfs_quota_us": "150000\n",
            f"{TOP}/cpu,cpuacct/app/cpu.cfs_period_us": "50000\n",
        },
        3,
    ),
    ({**FIRST, f"{TOP}/cpu/cpu.cfs_quota_us": "1", f"{TOP}/cpu/cpu.cfs_period_us": "100000"}, 1),
    ({**FIRST, f"{TOP}/cpu/cpu.cfs_quota_us": "-1", f"{TOP}/cpu/cpu.cfs_period_us": "100000"}, 4),
]


@pytest.mark.parametrize(("files", "expected"), QUOTAS)
def test_a_quota_bounds_the_threads(machine, files, expected):
    assert default_threads(machine(files)) == expected


@pytest.mark.parametrize(
    ("allowed", "expected"), [({0}, 1), ({0, 4}, 1), ({0, 1}, 2), ({1, 2, 5}, 2)]
)
def test_only_allowed_cores_count(machine, monkeypatch, allowed, expected):
    monkeypatch.setattr(threads, "_allowed", lambda: allowed)
    assert default_threads(machine()) == expected


def test_without_the_topology_every_allowed_cpu_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_allowed", lambda: {0, 1, 2})
    assert default_threads(tmp_path) == 3


def test_without_affinity_every_cpu_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_allowed", lambda: ())
    assert default_threads(tmp_path) == os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinity")
def test_a_process_on_one_cpu_computes_with_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from lorakit.engines.threads import default_threads; print(default_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
