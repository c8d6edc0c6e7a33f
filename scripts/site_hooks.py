"""What the docs site needs beside `docs/`: the examples, which pages link to as files of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parent.parent / "examples"


def on_files(files: Files, config: Any) -> Files:
    """Put the examples into the site."""
    for path in sorted(EXAMPLES.iterdir()):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Have links to the examples lead there."""
    return markdown.replace("](../examples/", "](examples/")
