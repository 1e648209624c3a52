"""Models and predictions in the formats that other programs read."""
