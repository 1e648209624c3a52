"""Every dataset that can be selected: one file a source, each with a `read` that returns `RawData`."""
