"""Tasks and streams of tasks: what is asked, what is answered, and where the rows come from."""

from gorp.tasks.prompts import encode, without_options
from gorp.tasks.sources import read_examples, read_task
from gorp.tasks.splits import Limits
from gorp.tasks.stream import TaskStream
from gorp.tasks.task import Example, Task

__all__ = ["Example", "Limits", "Task", "TaskStream", "encode", "read_examples", "read_task", "without_options"]
