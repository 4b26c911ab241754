"""As much of W&B's server as `wandb sync` speaks to, on 127.0.0.1: runs with their history by line, and artifacts."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Remembers what was uploaded. `refuse` makes it answer everything with "permission denied"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}  # by id: what the run was announced with
        self.history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)  # by id and number of the line
        self.exit_codes: dict[str, list[int]] = defaultdict(list)
        self.artifacts: list[tuple[str, str]] = []  # (name, type)
        self.refuse = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """To GraphQL."""
        entity = {"id": "E", "name": "me"}
        if "RunResumeStatus" in query:
            lines = self.history.get(values["name"])
            return {
                "model": {"id": "P", "name": values["project"], "entity": entity, "bucket": _resumed(values, lines)}
            }
        if "UpsertBucket" in query:
            known = self.runs.setdefault(values["name"], {})
            known.update({key: value for key, value in values.items() if value is not None})
            project = {"id": "P", "name": values["project"], "entity": entity}
            bucket = {"id": "B", "name": values["name"], "displayName": "", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": values["name"] not in self.history}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/file"} for name in values["files"]]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        if "mutation CreateArtifact " in query:
            asked = values["input"]
            self.artifacts.append((asked["artifactCollectionName"], asked["artifactTypeName"]))
            # "Committed" spares the upload of its files.
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "A", "state": "COMMITTED", "artifactSequence": sequence}}}
        return {}

    def stream(self, run: str, body: dict[str, Any]) -> None:
        """Lines of a run's files."""
        history = body.get("files", {}).get("wandb-history.jsonl")
        if history:
            lines = map(json.loads, history["content"])
            self.history[run].update(enumerate(lines, start=history["offset"]))
        if body.get("complete"):
            self.exit_codes[run].append(body["exitcode"])


def _resumed(values: dict[str, Any], lines: dict[int, dict[str, Any]] | None) -> dict[str, Any] | None:
    if lines is None:
        return None
    tail = json.dumps([json.dumps({"_step": lines[max(lines)]["_step"], "_runtime": 1})])
    counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
    texts = {"summaryMetrics": "{}", "config": "{}", "wandbConfig": '{"t": {}}', "displayName": ""}
    return {"id": "B", "name": values["name"], "historyTail": tail, "eventsTail": "[]", "tags": [], **counts, **texts}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.refuse:
            self._send(403, {"errors": [{"message": "permission denied"}]})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._send(200, {"data": self.server.answer(asked["query"], asked.get("variables") or {})})
        else:
            if self.path.endswith("/file_stream"):
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            self._send(200, {})

    def do_PUT(self) -> None:
        self.do_POST()

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def _send(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
