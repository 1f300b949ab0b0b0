"""The workflows of the repository: that they are what the project promises and holds."""

import copy
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SYSTEMS = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
# What a job may do beside reading the repository, and why.
MAY = {
    ("docs", "publish"): {"id-token", "pages"},
    ("release", "publish"): {"id-token"},  # trusted publishing
    ("release", "github"): {"attestations", "contents", "id-token"},
}


def load(file):
    return yaml.safe_load(file.read_text("utf-8"))


def faults(name, workflow):
    """What is wrong with a workflow, in words."""
    if workflow.get("permissions") != {"contents": "read"}:
        yield f"{name} may do more than read"
    for key, job in workflow["jobs"].items():
        granted = {k for k, value in job.get("permissions", {}).items() if value == "write"}
        if extra := granted - MAY.get((name, key), set()):
            yield f"{name}.{key} may write {sorted(extra)}"
        if "uses" not in job and "timeout-minutes" not in job:
            yield f"{name}.{key} may run for ever"
        for step in job.get("steps", ()):
            yield from (f"{name}.{key}: {fault}" for fault in step_faults(step))


def step_faults(step):
    uses, run = step.get("uses", ""), step.get("run", "")
    if uses and not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", uses):
        yield f"{uses} is not pinned to a commit"
    if uses.startswith("actions/checkout@") and step["with"]["persist-credentials"]:
        yield "a checkout keeps its token"
    if "${{" in run:
        yield "a value is pasted into a command"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in re.findall(r"\bmake (\w+)", run):
        if target not in targets:
            yield f"there is no target {target}"
    for script in re.findall(r"\b[\w/]+\.py\b", run):
        if not (ROOT / script).is_file():
            yield f"there is no {script}"


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_hold_to_the_rules(file):
    assert list(faults(file.stem, load(file))) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w.update(permissions={"contents": "write"}), "ci may do more than read"),
        (lambda w: w["jobs"]["lint"].update(permissions={"contents": "write"}), "may write"),
        (lambda w: w["jobs"]["lint"].pop("timeout-minutes"), "for ever"),
        (lambda w: w["jobs"]["lint"]["steps"].append({"uses": "a/b@v1"}), "not pinned"),
        (lambda w: w["jobs"]["lint"]["steps"].append({"run": "make cake"}), "no target cake"),
        (lambda w: w["jobs"]["lint"]["steps"].append({"run": "python scripts/x.py"}), "no scripts"),
        (lambda w: w["jobs"]["lint"]["steps"].append({"run": "echo ${{ github.ref }}"}), "pasted"),
        (
            lambda w: w["jobs"]["lint"]["steps"][0]["with"].update({"persist-credentials": 1}),
            "token",
        ),
    ],
)
def test_each_fault_would_be_found(change, fault):
    workflow = load(GITHUB / "workflows/ci.yml")
    change(changed := copy.deepcopy(workflow))
    (found,) = set(faults("ci", changed)) - set(faults("ci", workflow))
    assert fault in found


def test_the_matrix_is_what_the_package_promises():
    matrix = load(GITHUB / "workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    said = [c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d", c)]
    assert matrix["python"] == said
    systems = {
        c.removeprefix("Operating System :: ") for c in PROJECT["classifiers"] if "System" in c
    }
    assert {SYSTEMS[os.split("-")[0]] for os in matrix["os"]} == systems
    assert {"ubuntu-24.04-arm", "macos-15", "macos-15-intel"} <= set(matrix["os"])


def test_nothing_is_compiled_where_the_package_is_tried():
    jobs = load(GITHUB / "workflows/ci.yml")["jobs"]
    installs = [s["run"] for s in jobs["test"]["steps"] if "install" in s.get("run", "")]
    assert installs
    assert all("--only-binary=:all:" in line for line in installs)
    assert '"--only-binary=:all:"' in (ROOT / "scripts/smoke.py").read_text("utf-8")


def test_what_is_published_is_what_was_tried():
    jobs = load(GITHUB / "workflows/release.yml")["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["publish"]["needs"] == "check"
    assert jobs["github"]["needs"] == "publish"
    assert not any(
        "make" in step.get("run", "") for job in jobs.values() for step in job.get("steps", ())
    )


def test_forms_ask_what_the_machine_has():
    form = load(GITHUB / "ISSUE_TEMPLATE/bug.yml")
    (asked,) = [field for field in form["body"] if field["id"] == "doctor"]
    assert "lorakit doctor --json" in asked["attributes"]["label"]
    assert asked["validations"]["required"]
    assert "lorakit doctor --json" in (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text("utf-8")
    for file in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"):
        assert load(file)


def test_the_notes_of_a_release_are_its_section():
    notes = runpy.run_path(str(ROOT / "scripts/release_notes.py"))["notes"]
    log = "## Unreleased\nlater\n\n## 0.2.0 - 2026-01-02\n\nnew\n\n## 0.1.0 - 2026-01-01\n\nold\n"
    assert notes("v0.2.0", log, "0.2.0") == "new\n"
    assert notes("v0.1.0", log, "0.1.0") == "old\n"
    for tag, version in (("v0.2.0", "0.1.0"), ("0.1.0", "0.1.0"), ("v0.3.0", "0.3.0")):
        with pytest.raises(ValueError, match=r"tag is|no dated section"):
            notes(tag, log, version)
