"""What is trained: networks and data sets, as tasks."""

from .catalogue import CATALOGUE
from .datasets.text import sentences, text_of
from .errors import TaskError
from .networks.minilm import SentenceEncoder, minilm, minilm_folder, minilm_tokens
from .registry import Option, Registry
from .samples import Samples
from .task import Data, Task, batches, evaluate, initial_model, predict, score
from .user import user_task

tasks = CATALOGUE.names
task = CATALOGUE.build
task_options = CATALOGUE.options

__all__ = [
    "Data",
    "Option",
    "Registry",
    "Samples",
    "SentenceEncoder",
    "Task",
    "TaskError",
    "batches",
    "evaluate",
    "initial_model",
    "minilm",
    "minilm_folder",
    "minilm_tokens",
    "predict",
    "score",
    "sentences",
    "task",
    "task_options",
    "tasks",
    "text_of",
    "user_task",
]
