"""Problems out of user data: JSON lines, Parquet, Hugging Face data sets, and generated tasks.

    problems = load_prompts("train.parquet", announce=print)
    problems = load_prompts("gym:products?size=100&shots=4", announce=print)
    step_prompts(problems, step=3, per_step=16, seed=0)

    measured = measurements(read_rows("evals.parquet").rows, None, "evals.parquet")[1]
    as_table(select(problems, measured, informative=True).problems)

One file for each kind of source; `_forms.py` recognises whose columns they are.
"""

from entropyctl.prompts._load import load_prompts
from entropyctl.prompts._order import step_prompts
from entropyctl.prompts._problem import Problem, prompts_digest
from entropyctl.prompts._select import Measured, Selection, measurements, select
from entropyctl.prompts._shard import Shard, parse_shard
from entropyctl.prompts._table import as_table

__all__ = [
    "Measured",
    "Problem",
    "Selection",
    "Shard",
    "as_table",
    "load_prompts",
    "measurements",
    "parse_shard",
    "prompts_digest",
    "select",
    "step_prompts",
]
