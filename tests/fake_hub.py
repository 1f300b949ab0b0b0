"""A Hub on loopback that takes uploads: repositories, branches, blobs, commits, and faults.

It speaks what the Hub's own client speaks, and keeps what the Hub keeps: a blob that was sent is
there for the next upload, a commit is whole or not there, and on a head that moved it is refused.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml

TOKEN = "hf_" + "x" * 34
READER = "hf_" + "r" * 34  # a token that may only read
HOME = "https://huggingface.co"
LARGE = (".safetensors", ".gguf", ".onnx", ".onnx_data", ".bin", ".npz")
LICENSES = ("apache-2.0", "mit", "gemma", "other", None)
NAME = r"/(?P<repo>[\w.-]+/[\w.-]+)"
REPO = "/api/models" + NAME
ROUTES = [  # method, path, name
    ("GET", re.compile(REPO), "info"),
    ("GET", re.compile(REPO + "/revision/(?P<rev>.+)"), "info"),
    ("POST", re.compile("/api/repos/create"), "create"),
    ("POST", re.compile(REPO + "/branch/(?P<rev>.+)"), "branch"),
    ("POST", re.compile(REPO + "/preupload/(?P<rev>.+)"), "preupload"),
    ("POST", re.compile(NAME + r"\.git/info/lfs/objects/batch"), "batch"),
    ("PUT", re.compile(r"/storage/(?P<oid>\w+)(/(?P<part>\d+))?"), "blob"),
    ("POST", re.compile(r"/storage/(?P<oid>\w+)/whole"), "whole"),
    ("POST", re.compile("/verify"), "verify"),
    ("POST", re.compile(REPO + "/commit/(?P<rev>.+)"), "commit"),
    ("POST", re.compile("/api/validate-yaml"), "yaml"),
    (
        "GET",
        re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<rev>[\w.-]+)/(?P<path>.+)"),
        "file",
    ),
]


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status, message="no", code=None):
        self.status, self.message, self.code = status, message, code


@dataclass
class Repository:
    private: bool
    commits: dict = field(default_factory=dict)  # files by path, by commit
    branches: dict = field(default_factory=dict)
    titles: list = field(default_factory=list)

    def commit(self, branch, files, title):
        sha = hashlib.sha1(f"{len(self.commits)}{branch}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.titles.append(title)
        return sha

    def files(self, revision="main"):
        return self.commits[self.branches[revision]]


class Hub:
    """What it keeps, what it was asked, and how it fails.

    faults: by the name of a route what the next requests meet, used up one by one: a status, a
    status with the Hub's words, None (no fault), "cut" (the connection breaks in the middle of what
    is sent), "silent" (no answer, ever), or a function that is called with the hub.
    """

    def __init__(self):
        self.repositories = {}
        self.blobs = {}
        self.parts = {}
        self.asked = []
        self.headers = []
        self.sent = []  # digests of blobs, as they were sent
        self.faults = {}
        self.owners = {"org", "me"}
        self.part = None  # bytes of a part, where blobs go in several
        self.ended = threading.Event()
        self.url = ""

    def put(self, repo="org/repo", files=None, *, private=True, branch="main"):
        """A repository that is there already."""
        found = self.repositories.setdefault(repo, Repository(private))
        content = {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}
        found.commit(branch, content, "initial commit")
        for name, body in content.items():
            if name.endswith(LARGE):
                self.blobs[hashlib.sha256(body).hexdigest()] = body
        return found

    def count(self, name):
        return sum(each == name for each in self.asked)

    # Routes: each returns what is answered as JSON, or bytes.

    def info(self, request, repo, rev="main"):
        found = self._readable(request, repo)
        sha = found.branches.get(unquote(rev), rev if rev in found.commits else None)
        if sha is None:
            raise RefusedError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        siblings = [self._sibling(name, body) for name, body in found.commits[sha].items()]
        return {"id": repo, "modelId": repo, "sha": sha, "private": found.private,
                "siblings": siblings}  # fmt: skip

    def _sibling(self, name, body):
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
        large = {"lfs": lfs} if name.endswith(LARGE) else {}
        return {"rfilename": name, "size": len(body), "blobId": blob, **large}

    def create(self, request):
        asked = request.json()
        if asked.get("type", "model") != "model":
            raise RefusedError(400, "another kind")
        owner = asked["organization"] or "me"
        if owner not in self.owners or request.token != TOKEN:
            raise RefusedError(403, f"You don't have the rights to create a model under {owner}")
        repo = f"{owner}/{asked['name']}"
        if repo in self.repositories:
            raise RefusedError(409, "You already created this model repo")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.put(repo, private=private)
        return {"url": f"{HOME}/{repo}", "id": repo}

    def branch(self, request, repo, rev):
        found, start = self._writable(request, repo), request.json().get("startingPoint", "main")
        found.branches[unquote(rev)] = found.branches.get(start, start)
        return {}

    def preupload(self, request, repo, rev):
        self._head(self._writable(request, repo), rev)
        asked = request.json()
        ignored = asked.get("gitIgnore") or self._ignoring(repo, rev)
        return {"files": [
            {"path": each["path"], "uploadMode": self._mode(each["path"]),
             "shouldIgnore": each["path"] in ignored.split(), "oid": None}
            for each in asked["files"]
        ]}  # fmt: skip

    def _mode(self, path):
        return "lfs" if path.endswith(LARGE) else "regular"

    def _ignoring(self, repo, rev):
        files = self.repositories[repo].files(unquote(rev))
        return files.get(".gitignore", b"").decode()

    def batch(self, request, repo):
        self._writable(request, repo)
        asked = request.json()
        assert "xet" not in asked["transfers"]
        return {"transfer": "basic", "objects": [self._object(each) for each in asked["objects"]]}

    def _object(self, each):
        oid = each["oid"]
        if oid in self.blobs:
            return each
        secret = "X-Amz-Signature=secret"
        upload = {"href": f"{self.url}/storage/{oid}?{secret}"}
        if self.part is not None and each["size"] > self.part:
            count = -(-each["size"] // self.part)
            header = {"chunk_size": str(self.part)}
            for n in range(1, count + 1):
                header[f"{n:05}"] = f"{self.url}/storage/{oid}/{n}?{secret}"
            upload = {"href": f"{self.url}/storage/{oid}/whole", "header": header}
        verify = {"href": f"{self.url}/verify"}
        return {**each, "actions": {"upload": upload, "verify": verify}}

    def blob(self, request, oid, part=None):
        assert request.token is None, "a token must not go to the storage"
        if part is not None:
            self.parts[oid, int(part)] = request.body()
            return b""
        self._keep(oid, request.body())
        return b""

    def whole(self, request, oid):
        numbers = [each["partNumber"] for each in request.json()["parts"]]
        self._keep(oid, b"".join(self.parts[oid, n] for n in numbers))
        return {}

    def _keep(self, oid, body):
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "another digest")
        self.blobs[oid] = body
        self.sent.append(oid)

    def verify(self, request):
        if request.json()["oid"] not in self.blobs:
            raise RefusedError(404, "not there")
        return {}

    def commit(self, request, repo, rev):
        found = self._writable(request, repo)
        branch = self._head(found, rev)
        lines = [json.loads(line) for line in request.body().splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", found.branches[branch]) != found.branches[branch]:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(found.files(branch))
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                files[path] = self.blobs[value["oid"]]
            else:
                files[path] = base64.b64decode(value["content"])
        sha = found.commit(branch, files, header["summary"])
        return {"commitUrl": f"{HOME}/{repo}/commit/{sha}", "commitOid": sha}

    def yaml(self, request):
        text = request.json()["content"]
        front = yaml.safe_load(text.split("---")[1])
        if front.get("license") not in LICENSES:
            message = '"license" must be one of [apache-2.0, mit, ...]'
            raise RefusedError(400, [{"message": message}])
        return {"errors": [], "warnings": []}

    def file(self, request, repo, rev, path):
        found = self._readable(request, repo)
        sha = found.branches.get(rev, rev)
        if unquote(path) not in found.commits.get(sha, {}):
            raise RefusedError(404, "no such file", "EntryNotFound")
        request.extra["X-Repo-Commit"] = sha
        return found.commits[sha][unquote(path)]

    # Who may what.

    def _readable(self, request, repo):
        if request.token not in (TOKEN, READER, None):
            raise RefusedError(401, "Invalid credentials in Authorization header")
        found = self.repositories.get(repo)
        if found is None or (found.private and request.token is None):
            raise RefusedError(
                404 if request.token else 401, "Repository not found", "RepoNotFound"
            )
        return found

    def _writable(self, request, repo):
        found = self._readable(request, repo)
        if request.token != TOKEN or repo.split("/")[0] not in self.owners:
            raise RefusedError(403, "you don't have the right to write")
        return found

    def _head(self, repository, rev):
        if unquote(rev) not in repository.branches:
            raise RefusedError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return unquote(rev)


@contextmanager
def hub_serving():
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one piece: two would wait for each other, 40 ms

        def log_message(self, *args):
            pass

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def json(self):
            return json.loads(self.body())

        @property
        def token(self):
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

        def any(self):
            path, self.extra = self.path.partition("?")[0], {}
            hub.headers.append(dict(self.headers.items()))
            for method, pattern, name in ROUTES:
                found = pattern.fullmatch(path)
                if found and method == self.command.replace("HEAD", "GET"):
                    hub.asked.append(name)
                    self.answer(name, {k: v for k, v in found.groupdict().items() if v})
                    return
            self.body()
            self.reply(404, {"error": f"no such route: {self.command} {path}"})

        do_GET = do_HEAD = do_POST = do_PUT = any  # noqa: N815

        def answer(self, name, words):
            faults = hub.faults.get(name)
            fault = faults.pop(0) if faults else None
            if fault == "cut":
                self.rfile.read(min(1000, int(self.headers["Content-Length"])))
                self.close_connection = True
                self.connection.close()
                return
            if fault == "silent":
                self.body()
                hub.ended.wait()
                self.close_connection = True
                return
            try:
                if isinstance(fault, int | tuple):
                    self.body()
                    raise RefusedError(*(fault if isinstance(fault, tuple) else (fault,)))
                if fault is not None:
                    fault(hub)
                self.reply(200, getattr(hub, name)(self, **words))
            except RefusedError as refused:
                if refused.code:
                    self.extra["X-Error-Code"] = refused.code
                key = "errors" if isinstance(refused.message, list) else "error"
                self.reply(refused.status, {key: refused.message, "url": f"{HOME}/org/repo"})

        def reply(self, status, value):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            for key, text in self.extra.items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request, address):
            pass  # clients that went away are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
        for each in threading.enumerate():  # uploads that were left
            if each.name == "lorakit-upload":
                each.join(20)
