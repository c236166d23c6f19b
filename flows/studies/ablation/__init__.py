"""The flow `ablation`: which decision about the corpus earned its place, by trainings that differ in nothing else."""
