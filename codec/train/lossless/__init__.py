"""Training of the lossless model.

tables = palettes.learn(train)           # which values images have, by kind of image
net = pixels.PixelNet(config, tables)    # warm_start.fill(net, model) to start from a model
pixels.PixelTrainer(...).run(...)        # bits of all pixels, each given those before it
model = export.export(net, card)         # integers
"""
