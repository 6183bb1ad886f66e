from .base import Backbone as Backbone
from .base import Role as Role
from .base import Site as Site
from .base import put_back as put_back
