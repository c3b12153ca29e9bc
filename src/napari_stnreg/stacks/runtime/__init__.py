"""Run an alignment: tasks, executors, checkpoints, memory limits and progress."""
