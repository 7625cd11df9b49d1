"""The hub's routes: model info, tree, resolve (HEAD and GET), and the CDN that it redirects to.

Headers as huggingface.co sends them: X-Repo-Commit, X-Linked-Etag, X-Linked-Size, X-Error-Code,
X-Error-Message. Large files are LFS: named by their SHA-256, served by the CDN by ranges.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import web

SHA = "0123456789abcdef0123456789abcdef01234567"
_CHUNK_BYTES = 65536
_HEADER = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'


@dataclass
class Fault:
    """What happens to a file's bytes, `times` times; at the absolute offset `at`."""

    kind: str  # "stall", "cut", "flip", "status"
    at: int = 0
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    """One repo: its files; those named in `lfs` come from the CDN."""

    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset({"model.safetensors"})
    revisions: dict[str, str] = field(default_factory=lambda: {"main": SHA})


@dataclass
class FakeHub:
    """What is published, what goes wrong, and what was asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    # Answers for a repo instead of its own: status and headers, so many times (-1: always).
    refusals: dict[str, list[Fault]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    # Only these tokens are taken, where given; none at all is anonymous.
    tokens: frozenset[str] | None = None
    # At most so many bytes a second of each file; None: as fast as it goes.
    rate: int | None = None
    # Every connection is closed without an answer.
    is_down: bool = False
    endpoint: str = ""
    # Another host, as the real one: the client shows it no token.
    cdn: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    # Of each file's GETs: name, first byte asked for, bytes sent.
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    authorizations: list[tuple[str, str]] = field(default_factory=list)

    def app(self) -> web.Application:
        """Return the server."""
        app = web.Application(middlewares=[self._be_there])
        app.router.add_get("/api/models/{org}/{name}", self._info)
        app.router.add_get("/api/models/{org}/{name}/revision/{revision:.*}", self._info)
        app.router.add_get("/api/models/{org}/{name}/tree/{revision}", self._tree)
        app.router.add_get("/api/whoami-v2", self._whoami)
        app.router.add_get("/{org}/{name}/resolve/{revision}/{file:.*}", self._resolve)
        app.router.add_get("/cdn/{org}/{name}/{file:.*}", self._cdn)
        return app

    @web.middleware
    async def _be_there(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.is_down and request.transport is not None:
            self.seen.append((request.method, request.path))
            request.transport.abort()
        return await handler(request)

    def _open(self, request: web.Request) -> tuple[str, Repo, str]:
        """Return name, repo and commit, or raise the refusal."""
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        self.seen.append((request.method, request.path))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.authorizations.append((request.path, token))
        if token and self.tokens is not None and token not in self.tokens:
            raise _refusal(401, "", "Invalid credentials in Authorization header")
        if (fault := _next(self.refusals.get(name))) is not None:
            raise _refusal(fault.status, fault.headers.get("X-Error-Code", ""), "", fault.headers)
        if name not in self.repos:  # without a token the hub does not say whether it is private
            raise _refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        repo, revision = self.repos[name], request.match_info.get("revision", "main")
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.revisions.values():
            raise _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name, repo, commit

    async def _whoami(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or (self.tokens is not None and token not in self.tokens):
            raise _refusal(401, "", "Invalid credentials in Authorization header")
        return web.json_response({"name": "somebody", "type": "user"})

    async def _info(self, request: web.Request) -> web.Response:
        name, repo, commit = self._open(request)
        siblings = [
            {"rfilename": file, "size": len(body), "blobId": _git_sha1(body), **_lfs(repo, file)}
            for file, body in repo.files.items()
        ]
        info = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        return web.json_response(info, headers={"X-Repo-Commit": commit})

    async def _tree(self, request: web.Request) -> web.Response:
        _, repo, _ = self._open(request)
        rows = [
            {"type": "file", "path": file, "size": len(body), "oid": _git_sha1(body)}
            | _tree_lfs(repo, file)
            for file, body in repo.files.items()
        ]
        return web.json_response(rows)

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        name, repo, commit = self._open(request)
        file = request.match_info["file"]
        if file not in repo.files:
            raise _refusal(404, "EntryNotFound", "Entry not found")
        body, headers = repo.files[file], {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file in repo.lfs:
            digest = hashlib.sha256(body).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            headers |= {"Location": f"{self.cdn}/cdn/{name}/{file}"}
            return web.Response(status=302, headers=headers)
        headers["ETag"] = f'"{_git_sha1(body)}"'
        return await self._send(request, file, body, headers)

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        self.seen.append((request.method, request.path))
        file = request.match_info["file"]
        body = self.repos[name].files[file]
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        return await self._send(request, file, body, headers)

    async def _send(
        self, request: web.Request, file: str, body: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        fault = _next(self.faults.get(file)) if request.method == "GET" else None
        if fault is not None and fault.kind == "status":
            return web.Response(status=fault.status, headers=fault.headers)
        start, is_part = _start(request, headers["ETag"], len(body))
        if start > len(body) or (is_part and start == len(body)):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        headers["Content-Length"] = str(len(body) - start)
        response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            with suppress(ConnectionResetError):  # it was killed: what was sent is noted
                await self._pour(request, response, file, _spoiled(body, fault), start, fault=fault)
        return response

    async def _pour(
        self, request: web.Request, response: web.StreamResponse,
        file: str, body: bytes, start: int, *, fault: Fault | None,
    ) -> None:  # fmt: skip
        number, at = len(self.ranges), start
        self.ranges.append((file, start, 0))
        ends_early = fault is not None and fault.kind in ("stall", "cut")
        end = max(start, fault.at) if fault is not None and ends_early else len(body)
        while at < end:
            chunk = body[at : min(end, at + _CHUNK_BYTES)]
            await response.write(chunk)
            at += len(chunk)
            self.ranges[number] = (file, start, at - start)
            if self.rate is not None:
                await asyncio.sleep(len(chunk) / self.rate)
        if fault is not None and ends_early:
            if fault.kind == "stall":
                await asyncio.sleep(3600)
            if request.transport is not None:
                request.transport.abort()


def _next(faults: list[Fault] | None) -> Fault | None:
    """Return the fault whose turn it is, and count it down."""
    for fault in faults or ():
        if fault.times != 0:
            fault.times -= 1
            return fault
    return None


def _spoiled(body: bytes, fault: Fault | None) -> bytes:
    if fault is None or fault.kind != "flip":
        return body
    return body[: fault.at] + bytes([body[fault.at] ^ 1]) + body[fault.at + 1 :]


def _start(request: web.Request, etag: str, size: int) -> tuple[int, bool]:
    """Return the first byte asked for, and whether a part is (RFC 9110 sections 14.2, 13.1.5)."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if found is None or request.headers.get("If-Range", etag) != etag:
        return 0, False
    return min(int(found[1]), size), True


def _refusal(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> web.HTTPException:
    kind = type("Refusal", (web.HTTPException,), {"status_code": status})
    said = {"X-Error-Code": code, "X-Error-Message": message}
    refusal = kind(headers={k: v for k, v in said.items() if v} | (headers or {}), text="{}")
    assert isinstance(refusal, web.HTTPException)
    return refusal


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()  # noqa: S324 (git's own)


def _lfs(repo: Repo, file: str) -> dict[str, object]:
    if file not in repo.lfs:
        return {}
    body = repo.files[file]
    digest = hashlib.sha256(body).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(body), "pointerSize": 134}}


def _tree_lfs(repo: Repo, file: str) -> dict[str, object]:
    if file not in repo.lfs:
        return {}
    body = repo.files[file]
    digest = hashlib.sha256(body).hexdigest()
    return {"lfs": {"oid": digest, "size": len(body), "pointerSize": 134}}


def lfs_repo(size: int = 4_000_000) -> Repo:
    """Return a small model whose weights are `size` bytes, with a true header."""
    header = _HEADER % (size, size)
    noise = hashlib.shake_256(b"weights").digest(size)
    weights = len(header).to_bytes(8, "little") + header + noise
    files = {
        "config.json": b'{"max_position_embeddings": 1024}',
        "tokenizer.json": b'{"a": 1}',
        "model.safetensors": weights,
        "README.md": b"not needed to serve",
    }
    return Repo(files)
