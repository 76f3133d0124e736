"""A stand-in for the Hugging Face Hub on this machine: repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/(?P<revision>[^/?]+)")


@dataclass
class Hub:
    """Files by repository and commit; branches and tags name commits."""

    url: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    status: int = 0
    """What every request is answered with; 0 for the proper answer."""

    def commit(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Add files on a branch; gives the commit."""
        before = self.files.setdefault(repo, {}).get(self.refs.setdefault(repo, {}).get(ref, ""), {})
        content = {**before, **files}
        commit = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
        self.files[repo][commit] = content
        self.refs[repo][ref] = commit
        return commit


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = _RESOLVE.fullmatch(self.path)
        if not self._recorded():
            return self._answer(self.hub.status)
        if self.path.startswith("/api/models/"):
            return self._json({"id": "/".join(self.path.split("/")[3:5]), "xetEnabled": False})
        if found is None:
            return self._answer(404)
        repo = found["repo"]
        if repo not in self.hub.files:
            return self._answer(401, X_Error_Code="RepoNotFound")
        if repo in self.hub.gated:
            return self._answer(403, X_Error_Code="GatedRepo")
        commit = self.hub.refs[repo].get(found["revision"].replace("%2F", "/"), found["revision"])
        if commit not in self.hub.files[repo]:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        data = self.hub.files[repo][commit].get(found["file"])
        if data is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._answer(200, data, ETag=etag, X_Repo_Commit=commit)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._recorded():
            return self._answer(self.hub.status)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.hub.commit(repo, {})
            return self._json({"url": f"{self.hub.url}/{repo}"})
        if self.path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        found = _API.match(self.path)
        if found is None:
            return self._answer(404)
        if found["what"] == "preupload":
            files = json.loads(body)["files"]
            answer = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
            ]
            return self._json({"files": answer})
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        content = {file["path"]: base64.b64decode(file["content"]) for file in files}
        oid = self.hub.commit(found["repo"], content, found["revision"])
        url = f"{self.hub.url}/{found['repo']}/commit/{oid}"
        return self._json({"success": True, "commitOid": oid, "commitUrl": url})

    def _recorded(self) -> bool:
        self.hub.requests.append(f"{self.command} {self.path}")
        return not self.hub.status

    def _json(self, answer: object) -> None:
        self._answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Bound", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True  # kept-alive connections must not hold up the end
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
