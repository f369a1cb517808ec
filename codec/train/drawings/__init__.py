"""Images that the project draws itself, and the mixture on which a `generic` model is trained.

python -m codec.train.drawings OUT.npy --mnist IMAGES --fashion IMAGES --count N --seed S

kind = one of draw.KINDS, by its share         # `outlines`, `surfaces`, or one cut from another
pixels = draw.finish(kind(rng), rng)           # contrast, blur, noise, few greys, inversion
mixture.generic_images(mnist, fashion, count)  # a quarter of each, half drawings
"""
