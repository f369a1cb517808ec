"""What the command line does with files.  A command is a generator of events and prints nothing:

    jobs = yield from planning.plan(inputs, out)        # which outputs come from which inputs
    for job in jobs:
        with Partial(job.output) as partial:            # resumes what an earlier run has finished
            for block in spread(encode_block, tasks):   # on all cores, or on a cluster
                partial.write(block)
                yield Progress(images)
            partial.finish()                            # appears as a whole
        yield Done(job.label, job.output, images)   # or Failed(name, reason)

- `events`: what commands yield, and `Result`, which adds it up.
- `inputs`, `jobs`, `planning`: what to read, and what to write.
- `compress`, `decompress`, `tree`, `check`, `listing`, `merge`: the commands.
- `run`, `blocks`, `collecting`: what `compress` makes of a job.
- `sinks`: arrays and tables that decompress writes.
- `stream`, `work`: read, decode and encode blocks, here and in worker processes.
- `processes`, `cluster`: where the work is done.
- `resume`: the journal of finished work.
"""
