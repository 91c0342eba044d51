"""Models on the hub: what is fetched, and what is pushed to a stand-in of the hub that runs here."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from qstar import prepare
from qstar.models.formats import hub
from qstar.paths import ROOT


class StandIn(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as an upload asks."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.server.refuses:
            self._answer(403, {"error": "this account may not write here"})
        elif self.path.endswith("/preupload/main"):
            files = [{"path": entry["path"], "uploadMode": "regular"} for entry in json.loads(body)["files"]]
            self._answer(200, {"files": [entry | {"shouldIgnore": False} for entry in files]})
        elif "/commit/" in self.path:
            self._answer(
                200,
                {"commitUrl": f"http://{self.headers['Host']}/org/tiny/commit/1", "commitOid": "1", "success": True},
            )
        elif self.path == "/api/repos/create":
            self._answer(200, {"url": f"http://{self.headers['Host']}/org/{json.loads(body)['name']}", "id": "1"})
        else:
            self._answer(200, {"warnings": [], "errors": []})

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization"), b""))
        self._answer(200, {"id": "org/tiny", "modelId": "org/tiny", "sha": "0", "siblings": [], "private": False})

    def _answer(self, status, contents):
        body = json.dumps(contents).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stand_in():
    pytest.importorskip("huggingface_hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.asked, server.refuses = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def command(server, tmp_path, *arguments, token="hf_secret"):
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    env = {name: value for name, value in env.items() if name != "HF_TOKEN"} | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(
        [sys.executable, "-m", "qstar.prepare", "bundled:cups", str(tmp_path / "out"), *arguments],
        env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def here(stand_in, tmp_path, monkeypatch):
    """The command in this process, where another test may have imported the library before."""
    reach(f"http://127.0.0.1:{stand_in.server_port}", monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return lambda *arguments: prepare.main(["bundled:cups", str(tmp_path / "out"), "--to", "huggingface", *arguments])


def reach(address, monkeypatch):
    for name in ("constants.ENDPOINT", "hf_api.api.endpoint"):  # the second is set when the library is imported
        monkeypatch.setattr(f"huggingface_hub.{name}", address)


def uploaded(server):
    """The files of the one commit that was made."""
    ((path, _, body),) = [asked for asked in server.asked if "/commit/" in asked[0]]
    lines = [json.loads(line) for line in body.splitlines()]
    files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    return path, {name: base64.b64decode(content) for name, content in files.items()}


def test_a_pushed_model_is_one_commit_with_a_card(stand_in, tmp_path):
    arguments = ("--to", "huggingface", "--push", "org/tiny", "--licence", "apache-2.0", "--private")
    done = command(stand_in, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    made = json.loads(next(body for path, _, body in stand_in.asked if path == "/api/repos/create"))
    assert (made["name"], made["organization"]) == ("tiny", "org")
    assert made.get("private") is True or made.get("visibility") == "private"  # by version of the library
    path, files = uploaded(stand_in)
    assert path == "/api/models/org/tiny/commit/main"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert files == {name: (tmp_path / "out" / name).read_bytes() for name in files}
    assert {token for path, token, _ in stand_in.asked if "/commit/" in path} == {"Bearer hf_secret"}
    header = files["README.md"].decode().split("---\n")[1]
    assert 'license: "apache-2.0"' in header and 'library_name: "transformers"' in header


def test_without_a_token_nothing_is_built(stand_in, tmp_path):
    done = command(stand_in, tmp_path, "--to", "huggingface", "--push", "org/tiny", token="")
    assert done.returncode == 1
    assert "--push org/tiny: no token" in done.stderr and "HF_TOKEN" in done.stderr
    assert not (tmp_path / "out").exists() and stand_in.asked == []


def test_what_the_hub_refuses_stays_here_whole(stand_in, here, tmp_path):
    stand_in.refuses = True
    with pytest.raises(SystemExit, match=f"hf upload org/tiny {tmp_path / 'out'} --repo-type model"):
        here("--push", "org/tiny")
    assert any(path == "/api/repos/create" for path, _, _ in stand_in.asked)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_hub_that_cannot_be_reached_leaves_the_folder_whole(here, tmp_path, monkeypatch):
    reach("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(SystemExit, match=rf"could not push to org/tiny [^\n]*\nhf upload org/tiny {tmp_path / 'out'}"):
        here("--push", "org/tiny")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_without_push_nothing_is_asked_of_the_hub(stand_in, here, tmp_path):
    here()
    assert stand_in.asked == [] and (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("name", ["tiny", "org/tiny/more", "org/ti ny"])
def test_names_that_are_none_of_a_repository_are_refused(name):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match=f"--push {name}"):
        hub.ready(name)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit, match=r'org/tiny.*pip install "\.\[hub\]"'):
        prepare.main(["bundled:cups", str(tmp_path / "out"), "--push", "org/tiny"])
    assert not (tmp_path / "out").exists()
