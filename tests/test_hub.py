"""What is sent to the hub, to whom, and what is said when it does not come to it."""

from typing import ClassVar

import pytest

from gorp import hub
from gorp.errors import GorpError, InputError


class FakeApi:
    """Takes down what it is asked to do, and refuses where told."""

    refuses: Exception | None = None
    asked: ClassVar[list[tuple]] = []

    def create_repo(self, repo, **how):
        self.asked.append(("create", repo, how))
        if self.refuses:
            raise self.refuses
        return FakeAddress(f"https://hub/{repo}", repo)

    def upload_folder(self, **how):
        self.asked.append(("upload", how))


class FakeAddress(str):
    def __new__(cls, address, repo):
        made = super().__new__(cls, address)
        made.repo_id = repo
        return made


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "asked", [])
    return FakeApi


def test_a_repository_is_made_for_nobody_else_and_filled(api, tmp_path):
    assert hub.push(tmp_path, "me/desk", public=False, message="why") == "https://hub/me/desk"
    hub.push(tmp_path, "me/desk", public=True, message="why")
    create, upload, again, _ = api.asked
    assert create == ("create", "me/desk", {"private": True, "exist_ok": True})
    assert upload == ("upload", {"repo_id": "me/desk", "folder_path": tmp_path, "commit_message": "why"})
    assert again[2]["private"] is False


def test_a_refusal_says_what_is_left_and_what_to_do(api, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "refuses", RuntimeError("401 Unauthorized\nand much more"))
    with pytest.raises(GorpError, match=r"cannot push to me/desk: 401 Unauthorized\. .* is written: .*hf auth login"):
        hub.push(tmp_path, "me/desk", public=False, message="why")
    assert [what for what, *_ in api.asked] == ["create"]


def test_names_of_repositories(tmp_path, monkeypatch):
    hub.check_repo("me/desk")
    with pytest.raises(InputError, match="--push me/de/sk: is no name of a repository; accepted: NAME/MODEL"):
        hub.check_repo("me/de/sk")
    monkeypatch.chdir(tmp_path)
    assert hub.hub_id("google/flan-t5-small") == "google/flan-t5-small"
    assert hub.hub_id("t5-tiny") is hub.hub_id("/models/t5") is hub.hub_id("minilm") is None
    (tmp_path / "google").mkdir()
    assert hub.hub_id("google") is None
