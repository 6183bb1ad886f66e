from .rows import pairs as pairs
from .shared_directory import Shelf as Shelf
from .sharing import Borrowing as Borrowing
from .sharing import contents_of as contents_of
from .store import CHUNK as CHUNK
from .store import FeatureStore as FeatureStore
from .store import digest as digest
