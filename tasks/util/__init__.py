"""Exit codes, processes, files and the progress board: what every other package uses."""
