from .rows import pairs as pairs
from .shared_directory import SharedDirectory as SharedDirectory
from .sharing import SharedFeatures as SharedFeatures
from .sharing import contents_of as contents_of
from .store import CHUNK as CHUNK
from .store import FeatureStore as FeatureStore
from .store import weights_digest as weights_digest
