"""Training: images in, a model file out. The only home of torch in this project.

    train, held_out = data.split(data.load(paths))
    trainer = lossy.LadderTrainer(...) or lossless.PixelTrainer(...)
    trainer.run(minutes)          # `loop`: schedule, checkpoints, figures on held_out
    stream = export(trainer.net)  # float weights -> integers -> bytes (`bundle`)

`command` is `aez train`, which also compares with PNG and WebP (`others`). `layers` has the layer
that both networks are made of; what differs is in `lossy` and `lossless`. `drawings` makes images
for the generic models.
"""
