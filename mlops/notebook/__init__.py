"""Running a notebook, and judging honestly how it went.

::

    document = Document(Path("train.ipynb"))
    document.check({"epochs": 5})
    execution = Execution(document, Path("out.ipynb"), parameters={"epochs": 5})
    execution.start()
    execution.wait()
    verdict = execution.verdict()

papermill runs it.  What papermill takes for success is not taken for it here: every cell must have
run, none may have raised, and the kernel must be alive at the end.
"""

from mlops.notebook.document import Document, Step
from mlops.notebook.execution import Execution, Progress, Verdict

__all__ = ["Document", "Execution", "Progress", "Step", "Verdict"]
