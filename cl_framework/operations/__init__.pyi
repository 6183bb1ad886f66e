from .forgetting import ForgetWords as ForgetWords
from .known_samples import Known as Known
from .picking import requested as requested
from .queries import Evaluation as Evaluation
from .queries import Prediction as Prediction
from .run_audit import AuditOptions as AuditOptions
from .run_handle import Run as Run
from .running import run as run
