"""What README shows works as shown."""

import json
import re
from pathlib import Path

import pytest

from gorp.tasks import TaskStream

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]


def test_the_stream_file_is_read(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "stream.yaml").write_text(block)
    rows = [{"text": f"message {n}", "label": ["billing", "shipping", "returns"][n % 3]} for n in range(30)]
    (tmp_path / "topic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"message {n},{['yes', 'no'][n % 2]}\n" for n in range(30)]
    (tmp_path / "urgent.csv").write_text("text,label\n" + "".join(lines))
    stream = TaskStream.from_yaml(tmp_path / "stream.yaml")
    assert (stream.name, [task.name for task in stream]) == ("help-desk", ["topic", "urgent"])
    assert (
        stream[1].train[0].prompt.startswith("Is the message urgent? Choose one from the option.\nOption: yes, no \n")
    )
