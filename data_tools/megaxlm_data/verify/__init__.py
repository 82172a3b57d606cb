"""`megaxlm data verify`: does a data set hold, byte for byte, what its index says?

The shards against the index (`check`), the tokenizer files against both (`tokenizer`), the ids of
documents (`document_ids`), and a lost index made again from what is there (`repair`).
"""

from megaxlm_data.verify.check import VerifyReport, verify
from megaxlm_data.verify.problem import Problem
from megaxlm_data.verify.repair import RepairReport, repair
from megaxlm_data.verify.verdict import Verdict, verdict

__all__ = [
    "Problem",
    "RepairReport",
    "Verdict",
    "VerifyReport",
    "repair",
    "verdict",
    "verify",
]
