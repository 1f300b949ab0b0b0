"""A push in a test, what it raises, and what is there afterwards."""

import json

import pytest
import yaml

import lorakit

BASE = "lorakit/demo-base"


def push(folder, to="hf:org/repo", **options):
    return lorakit.push(folder, to, **{"base_model": BASE, **options})


def refused(kind, folder, to="hf:org/repo", **options):
    with pytest.raises(kind) as caught:
        push(folder, to, **options)
    return caught.value


def there(hub, repo="org/repo", branch="main"):
    files = hub.repositories[repo].files(branch)
    return {name: body for name, body in files.items() if name != ".gitattributes"}


def front_of(text):
    return yaml.safe_load(text.decode().split("---")[1])


def change_record(folder, **change):
    path = folder / "lorakit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
