from .installation import install as install
