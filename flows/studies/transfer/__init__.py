"""The flow `transfer`: whether the learning rate that is best for a small model is best for a larger one."""
