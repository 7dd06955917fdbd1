"""The machine: device, processes, files, JSON lines, versions, output, waiting threads."""
