"""What the command line does with files: inputs, work on all cores or a cluster, resuming."""
