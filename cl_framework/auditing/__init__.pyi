from .attacks import reachable as reachable
from .audit import References as References
from .audit import conduct as conduct
from .audit import references as references
from .reference_models import ReferenceTrainer as ReferenceTrainer
from .shadow_models import shadow_attack as shadow_attack
from .subjects import Subject as Subject
from .subjects import subject as subject
