"""Other projects' checkpoints -> our modules and variables, and back. No torch needed."""
