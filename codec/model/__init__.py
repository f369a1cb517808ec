"""The models: what their files hold, the lossy one (ladder), the lossless one (pixels), and which
there are.
"""
