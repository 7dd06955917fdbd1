"""The machine: device, processes, files that are whole or absent, JSON lines, versions, waiting
threads.
"""
