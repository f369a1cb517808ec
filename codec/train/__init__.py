"""Training: data, networks, loss, loop, export. The only home of torch in this project."""
