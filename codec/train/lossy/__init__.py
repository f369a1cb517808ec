"""Training of the lossy model.

    net = network.LadderNet(mean_image)                # or warm_start.ladder(model)
    trainer.LadderTrainer(pixels).run(...)          # lambda * SSE + bits, all rates in one network
    model, encoder = export.export(net, ..., train) # integers; tables calibrated on training images

`encoder` trains a better encoder for a model whose decoder stays as it is.
"""
