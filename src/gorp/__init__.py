"""Fine-tune one language model on task after task, without old data, and know what it keeps."""

__version__ = "0.1.0"
