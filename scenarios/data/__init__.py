"""Pictures for the streams: `open.open_source` turns a name into train and test data."""
