"""What is asked: study files, grids, executors, results, reports, the command line."""
