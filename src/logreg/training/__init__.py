"""Training with Lightning: the module, first-order optimizers, callbacks, checkpoints, TensorBoard."""
