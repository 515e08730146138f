"""What is trained: networks and data sets, as tasks."""

from .catalogue import CATALOGUE
from .errors import TaskError
from .registry import Option, Registry
from .task import Data, Task, batches, evaluate, initial_model, predict, score
from .user import user_task

tasks = CATALOGUE.names
task = CATALOGUE.build
task_options = CATALOGUE.options

__all__ = [
    "Data",
    "Option",
    "Registry",
    "Task",
    "TaskError",
    "batches",
    "evaluate",
    "initial_model",
    "predict",
    "score",
    "task",
    "task_options",
    "tasks",
    "user_task",
]
