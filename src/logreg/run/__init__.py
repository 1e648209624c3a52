"""One run, top to bottom: seed, data, module, Trainer, fit, score, report."""
