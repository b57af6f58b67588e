"""What every stage's training shares: checkpoints, resume, sampling, records."""
