"""The datasets that a user can select: one file per source, each with a class whose ``read`` returns `RawData`."""
