"""The rulers: rate, distortion and speed, of this codec and of others, and the page that shows
them.
"""
