"""What a training leaves on disk: a run's folder and its checkpoints."""
