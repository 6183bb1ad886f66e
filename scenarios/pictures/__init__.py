"""Pictures from files: decoded, turned upright, resized, kept."""
