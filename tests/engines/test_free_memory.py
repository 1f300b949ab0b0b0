"""What memory can still be had, as the kernel and a container's limit say."""

from lorakit.engines.free_memory import free_memory


def test_the_kernel_and_the_limit_of_a_container_say_it(tmp_path):
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  7 kB\n")
    assert free_memory(tmp_path) == 7 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.stat").write_text("anon 3\ninactive_file 500\n")
    for limit, left in (("max", 7 * 1024), ("5000", 3500), ("900000", 7 * 1024)):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text("2000")
        assert free_memory(tmp_path) == left
