from .evaluator import Evaluator as Evaluator
from .evaluator import hits_of as hits_of
from .measurements import Measurements as Measurements
from .published import Published as Published
from .published import verdicts as verdicts
from .results import EventResult as EventResult
