from .console import CONSOLE as CONSOLE
from .console import make_console as make_console
from .safe_text import printable as printable
from .safe_text import say as say
