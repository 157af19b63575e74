"""`mamoe push`: what would leave is listed, what should not leave is refused, and errors hold no key."""

from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from factories import mamoe


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "unet").mkdir(parents=True)
    (made / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 1234)
    (made / "README.md").write_text("# m\n")
    (made / ".cache").mkdir()
    (made / ".cache/token").write_text("hf_secret")
    return made


class Hub:
    """In place of the hub's client."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def __call__(self):
        return self

    def create_repo(self, repo, **options):
        if self.error is not None:
            raise self.error
        self.calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, **options):
        self.calls.append(options)


def pushed(monkeypatch, hub, *words):
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return mamoe("push", *words)


def test_a_dry_run_lists_files_and_sizes_and_sends_nothing(folder, monkeypatch):
    hub = Hub()
    said = pushed(monkeypatch, hub, folder, "me/mine", "--dry-run")
    assert said.code == 0 and hub.calls == []
    lines = [line.split() for line in said.out.splitlines()]
    assert ["1,234", "unet/diffusion_pytorch_model.safetensors"] in lines and ["4", "README.md"] in lines
    assert ["1,238", "bytes", "in", "2", "files"] in lines and "Nothing was sent" in said.out
    assert "secret" not in said.out and "token" not in said.out


def test_all_of_it_goes_in_one_commit_into_a_private_repository(folder, monkeypatch):
    hub = Hub()
    said = pushed(monkeypatch, hub, folder, "me/mine")
    assert said.code == 0 and "https://huggingface.co/me/mine" in said.out
    (repo, options), sent = hub.calls
    assert repo == "me/mine" and options == {"private": True, "exist_ok": True}
    assert sent["allow_patterns"] == ["README.md", "unet/diffusion_pytorch_model.safetensors"]
    assert pushed(monkeypatch, hub, folder, "me/mine", "--public").code == 0 and hub.calls[2][1]["private"] is False


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (409, 2), (500, 75), (429, 75)])
def test_the_hub_refuses_or_fails(folder, monkeypatch, status, code):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    error = HfHubHTTPError("no, Bearer hf_abcDEF123 may not", response=response)
    said = pushed(monkeypatch, Hub(error), folder, "me/mine")
    assert said.code == code and "hf_abcDEF123" not in said.err + said.out and str(status) in said.err


def test_a_hub_out_of_reach(folder, monkeypatch):
    for error in (ConnectionError("no route"), HfHubHTTPError.__bases__[0]("no route, Bearer hf_abcDEF123")):
        said = pushed(monkeypatch, Hub(error), folder, "me/mine")
        assert said.code == 75 and "cannot be reached" in said.err and "abcDEF" not in said.err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mamoe("push", folder, "me/mine").code == 2


def test_what_should_not_leave_is_refused(folder, finished_run, tmp_path):
    def refusal(*words):
        said = mamoe("push", *words, "--dry-run")
        assert said.code == 2 and "Traceback" not in said.err
        return said.err

    assert "OWNER/NAME" in refusal(folder, "mine") and "OWNER/NAME" in refusal(folder, "../x")
    assert "no folder" in refusal(tmp_path / "none", "me/mine")
    assert "is a run" in refusal(finished_run, "me/mine")
    (folder / "old.bin").write_bytes(b"")
    (tmp_path / "private.txt").write_text("mine")
    (folder / "link.txt").symlink_to(tmp_path / "private.txt")
    (folder / "README.md").unlink()
    said = refusal(folder, "me/mine")
    assert "old.bin is a pickle" in said and "leads out of it" in said and "no model card" in said
