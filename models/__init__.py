"""What is trained: networks and data sets, as tasks."""
